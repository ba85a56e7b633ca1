"""The warehouse: rows a second by each way of writing, a query's time and recall by each way of searching.

Everything runs against an emulator of BigQuery on this machine, so the figures compare ways with each other
on the same server; they are not BigQuery's.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from beam_vision.testing.bigquery_emulator import Emulator, Warehouse
from beam_vision.testing.tables import clustered, write_embeddings

if TYPE_CHECKING:
    import pyarrow as pa

DIMENSION = 128
WRITTEN = 10_000
SEARCHED = (10_000, 100_000)
QUERIES = 20
JSON_ROWS = 500
"""Rows in one streaming insert: what Google recommends."""

Write = Callable[[Warehouse, "pa.Table", str], None]


def merged(warehouse: Warehouse, rows: pa.Table, table: str) -> None:
    """Ours, batch: Parquet load jobs into a staging table, counted, then one MERGE."""
    from beam_vision.sinks import warehouse_load as loading
    from beam_vision.sinks import warehouse_merge as merging
    from beam_vision.sinks.rows import RowSettings
    from beam_vision.warehouse import schema, tables

    settings = RowSettings(
        task="embed", embedding_dim=DIMENSION, model_digest="model-a", preprocessing_digest="prep-a"
    )
    name, run_id, client = warehouse.name(table), "20261122T000000000000Z", warehouse.client
    columns = schema.batch_schema(settings.schema())
    into, path = loading.staging_table(name, run_id), f"{table}.parquet"
    fields = loading.staging_fields(columns)
    Path(path).write_bytes(loading.to_file(loading.stored(rows)))
    found = tables.ensure(client, name, tables.batch_form(settings))
    loading.make_staging(client, into, fields)
    loading.load(client, name, run_id, [path], location=found.location, into=into, fields=fields)
    names = [column for column in columns.names if column != schema.WRITTEN_AT]
    merging.merge(client, name, run_id, settings, names, rows=rows.num_rows, location=found.location)
    os.remove(path)


def appended(warehouse: Warehouse, rows: pa.Table, table: str) -> None:
    """Ours, streaming: the Storage Write API with Arrow rows."""
    from google.cloud import bigquery

    from beam_vision.warehouse import schema
    from beam_vision.warehouse.append import Appender

    name, stored = warehouse.name(table), schema.to_warehouse(rows)
    warehouse.client.create_table(bigquery.Table(name.path, schema=schema.fields(rows.schema)))
    with Appender(name, stored.schema) as appender:
        if appender.append(stored):
            raise RuntimeError("rows were refused")


def loaded_json(warehouse: Warehouse, rows: pa.Table, table: str) -> None:
    """The client library's ``load_table_from_json``."""
    name, config = _empty(warehouse, rows, table)
    warehouse.client.load_table_from_json(_as_json(rows), name, job_config=config).result()


def inserted(warehouse: Warehouse, rows: pa.Table, table: str) -> None:
    """The client library's ``insert_rows_json``, 500 rows a request."""
    name, _ = _empty(warehouse, rows, table)
    lines = _as_json(rows)
    for at in range(0, len(lines), JSON_ROWS):
        if warehouse.client.insert_rows_json(name, lines[at : at + JSON_ROWS]):
            raise RuntimeError("rows were refused")


def _empty(warehouse: Warehouse, rows: pa.Table, table: str) -> tuple[str, Any]:
    from google.cloud import bigquery

    from beam_vision.warehouse import schema

    fields = schema.fields(rows.schema)
    path = warehouse.name(table).path
    warehouse.client.create_table(bigquery.Table(path, schema=fields))
    return path, bigquery.LoadJobConfig(schema=fields)


def _as_json(rows: pa.Table) -> list[dict[str, Any]]:
    from beam_vision.warehouse import schema

    return schema.to_warehouse(rows).to_pylist()


WRITES: dict[str, Write] = {
    "beam-vision, batch: load jobs and one MERGE": merged,
    "beam-vision, streaming: Storage Write API, Arrow": appended,
    "load_table_from_json": loaded_json,
    "insert_rows_json": inserted,
}


def embeddings(folder: Path, rows: int) -> pa.Table:
    """A table of embeddings, on disk and in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shutil.rmtree(folder, ignore_errors=True)
    write_embeddings(str(folder), clustered(rows, DIMENSION))
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def writes(warehouse: Warehouse, folder: Path, rounds: int) -> str:
    """Rows a second by each way, in turn."""
    rows = embeddings(folder / "written", WRITTEN)
    rates: dict[str, list[float]] = {name: [] for name in WRITES}
    for round_number in range(rounds):
        for number, (name, write) in enumerate(WRITES.items()):
            table = f"written_{number}_{round_number}"
            start = time.perf_counter()
            write(warehouse, rows, table)
            rates[name].append(WRITTEN / (time.perf_counter() - start))
            if warehouse.count(table) != WRITTEN:
                raise RuntimeError(f"{name}: {warehouse.count(table)} of {WRITTEN} rows")
            sys.stderr.write(f"round {round_number + 1}: {rates[name][-1]:>8,.0f} rows/s  {name}\n")
    lines = ["| writing | rows/s (range) |", "|---|---|"]
    for name, found in rates.items():
        lines.append(f"| {name} | {statistics.median(found):,.0f} ({min(found):,.0f} to {max(found):,.0f}) |")
    return "\n".join(lines)


def searches(warehouse: Warehouse, folder: Path, count: int) -> str:
    """``check-index`` over a table of ``count`` embeddings and a ScaNN index of it."""
    table = f"searched_{count}"
    merged(warehouse, embeddings(folder / table, count), table)
    index = str(folder / f"{table}_index")
    shutil.rmtree(index, ignore_errors=True)
    backend = "scann_tree" if count >= 100_000 else "scann_ah"
    _job("build-index", "--table", warehouse.uri(table), "--output", index, "--backend", backend)
    found = json.loads(
        _job(
            *("check-index", "--table", warehouse.uri(table), "--index", index),
            *("--sample", str(QUERIES), "--output_format", "json"),
        )
    )
    lines = [
        f"| {count:,} x {DIMENSION} | recall@10 | score off by | ms, one query | ms a query, of {QUERIES} |",
        "|---|---|---|---|---|",
    ]
    for way in found["ways"]:
        lines.append(
            f"| {way['way']} | {way['recall_at_k']:.3f} | {way['worst_score_difference']:.0e} "
            f"| {way['ms_alone']:,.1f} | {way['ms_in_batch']:,.1f} |"
        )
    return "\n".join(lines)


def _job(*argv: str) -> str:
    """Runs a job of ours; what it printed."""
    import io

    from beam_vision.pipelines import cli

    with contextlib.redirect_stdout(io.StringIO()) as out:
        if cli.main(list(argv)):
            raise RuntimeError(f"beam-vision {' '.join(argv)} failed")
    return out.getvalue()


@contextlib.contextmanager
def emulated() -> Iterator[Warehouse]:
    """A dataset on an emulator that ends with the block."""
    with Emulator() as server:
        os.environ.update(server.environment)
        yield Warehouse("bench")


def main(args: argparse.Namespace, machine: str) -> int:
    """Runs it; the figures go to ``warehouse-figures.md``."""
    np.seterr(all="raise")
    folder = args.folder / "warehouse"
    folder.mkdir(parents=True, exist_ok=True)
    with emulated() as warehouse, contextlib.chdir(folder):
        text = "\n\n".join(
            [
                "### Warehouse",
                f"Machine: {machine}. BigQuery emulator on the same machine; {WRITTEN:,} rows of {DIMENSION} "
                f"numbers, {args.rounds} rounds; {QUERIES} queries.",
                writes(warehouse, folder, args.rounds),
                *(searches(warehouse, folder, count) for count in SEARCHED),
            ]
        )
    (args.folder / "warehouse-figures.md").write_text(text + "\n")
    print(text)
    return 0
