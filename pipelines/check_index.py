"""``beam-vision check-index``: the same queries by every way of searching, side by side."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse

if TYPE_CHECKING:
    from beam_vision.search.compare import Ask, Compared
    from beam_vision.search.index import Index

NAME = "check-index"
DESCRIPTION = (
    "Searches with a sample of a table's own images by exact NumPy, the index, DuckDB and, for a table\n"
    "there, by BigQuery, and holds the answers side by side. A score is the cosine everywhere."
)
EXAMPLE = "beam-vision check-index --index index/ --table bigquery://project.dataset.table --sample 100"
CELL_CHARS = 100


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``check-index`` takes."""

    index: str = option("", help="an index of the table, as build-index makes it", metavar="INDEX")
    table: str = option(
        help="the table: a folder, or bigquery://PROJECT.DATASET.TABLE, whose vectors are read whole",
        metavar="DEST",
    )
    sample: int = option(100, help="how many of the table's images to search with", metavar="N")
    k: int = option(10, help="how many neighbours of each", metavar="K")
    max_bytes_billed: int = option(
        0, help="BigQuery refuses a query that would be billed for more bytes; 0: no limit", metavar="BYTES"
    )
    skip_bad_vectors: bool = option(
        False, help="leave out vectors that are missing, zero, not finite or of another dimension"
    )
    output_format: str = option("table", help="how to print", choices=("table", "json"))


def preflight(options: Options) -> dict[str, Any]:
    """What would be compared.

    Raises:
      UsageError: ``--sample`` or ``--k`` is less than 1, or ``--table`` is no table's name.
    """
    from beam_vision.warehouse.names import is_bigquery, parse_table

    for name in ("sample", "k"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is at least 1, not {getattr(options, name)}")
    there = is_bigquery(options.table)
    if there:
        parse_table(options.table, option="--table")
    ways = ["numpy", *(["index"] if options.index else []), "duckdb", *(["bigquery"] if there else [])]
    return {"table": options.table, "index": options.index, "ways": ways}


def run(argv: list[str]) -> int:
    """Prints how each way of searching did. Exit code 2 when the table or the index won't do."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    preflight(options)
    from beam_vision.search.compare import Referee
    from beam_vision.search.index import open_table

    table = open_table(options.table, skip_bad_vectors=options.skip_bad_vectors)
    if len(table) < 2:
        raise UsageError(f"{options.table} has {len(table)} image with a vector; two are needed to compare")
    names = table.rows.column_names
    labels = table.rows.column("label").to_pylist() if "label" in names else [None] * len(table)
    referee = Referee(table.index.store, labels, sample=options.sample, k=options.k)
    jobs.say(f"{len(referee.rows):,} images of {len(table):,}, the {referee.k} nearest of each")
    found = []
    with ways(options, table) as asks:
        for name, ask in asks.items():
            jobs.say(f"searching by {name}")
            found.append(referee.compare(name, ask))
    show(options, found, images=len(referee.rows), k=referee.k)
    return 0


@contextlib.contextmanager
def ways(options: Options, table: Index) -> Iterator[dict[str, Ask]]:
    """Each way of searching, by name.

    Args:
      options: the job's.
      table: the table, opened for exact NumPy.

    Raises:
      UsageError: the index or the table won't do.
      DigestMismatch: the index is of another model's vectors.
    """
    from beam_vision.search.index import open_index, refuse_other_maker
    from beam_vision.search.nearest import TableSearch, facts_of
    from beam_vision.warehouse.names import is_bigquery

    said: list[str] = []

    def tell(cost: str) -> None:  # of the first query and, at the end, of all
        if not said:
            jobs.say(cost)
        said.append(cost)

    asks: dict[str, Ask] = {"numpy": table.search}
    if options.index:
        index = open_index(options.index)
        refuse_other_maker(
            (index.model_digest, index.preprocessing_digest), (table.model_digest, table.preprocessing_digest)
        )
        asks[f"index ({index.backend})"] = index.search
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(table, folder)
        asks["duckdb"] = TableSearch(facts_of(folder)).search
        if is_bigquery(options.table):
            facts = facts_of(options.table)
            limit = options.max_bytes_billed
            asks["bigquery"] = TableSearch(facts, max_bytes_billed=limit, tell=tell).search
        yield asks
        if said[1:]:
            jobs.say(said[-1])


def write_vectors(table: Index, folder: str) -> None:
    """The keys and vectors of an opened table as a Parquet table, for DuckDB."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    store = table.index.store
    flat = pa.array(np.ascontiguousarray(store.vectors).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(flat, store.dimension)
    pq.write_table(pa.table({"key": store.keys, "embedding": vectors}), os.path.join(folder, "part.parquet"))


def show(options: Options, found: list[Compared], *, images: int, k: int) -> None:
    """Prints the ways as a table or as one JSON object."""
    from beam_vision.search import render

    if options.output_format == "json":
        whole = {
            "table": options.table,
            "index": options.index,
            "images": images,
            "k": k,
            "ways": [each.to_json() for each in found],
        }
        jobs.emit(render.json_text(whole))
        return
    head = [
        "way",
        f"overlap@{k}",
        f"recall@{k}",
        "score off by",
        "same label",
        "ms alone",
        "ms in batch",
        "how",
    ]
    rows = [
        [
            *(each.way, f"{each.overlap_at_k:.4f}", f"{each.recall_at_k:.4f}"),
            *(f"{each.worst_score_difference:.0e}", each.same_label),
            *(each.ms_alone, each.ms_in_batch, each.how),
        ]
        for each in found
    ]
    jobs.emit(render.text_table(head, rows, widest=CELL_CHARS))
    for each in found:
        if each.unknown or each.too_few:
            jobs.say(
                f"{each.way}: {each.unknown:,} results are no longer in the table, "
                f"{each.too_few:,} queries got fewer than {k}"
            )
