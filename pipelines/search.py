"""``beam-vision search``: the images most like a file, an image of the table, or a vector."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.model_options import ModelFactOptions, model_of
from beam_vision.pipelines.options import make_parser, option, parse

if TYPE_CHECKING:
    import numpy as np

    from beam_vision.search.fan_out import ShardedIndex
    from beam_vision.search.index import Found, Index
    from beam_vision.search.nearest import TableSearch

    Opened = Index | ShardedIndex | TableSearch

NAME = "search"
DESCRIPTION = "Finds the images most like a file, like an image of the index, or like a vector."
EXAMPLE = (
    "beam-vision search --index index/ --image cat.jpg --model bundle/ --k 10 "
    "--where \"label = 'cat' AND attributes['camera'] = 'a'\""
)
CELL_CHARS = 100
ENGINES = ("auto", "numpy", "duckdb", "bigquery")


@dataclass(frozen=True, kw_only=True)
class Options(ModelFactOptions):
    """What ``search`` takes."""

    index: str = option("", help="the index to search, as build-index makes it", metavar="INDEX")
    table: str = option(
        "",
        help="or a table of embeddings: a folder, or bigquery://PROJECT.DATASET.TABLE; with --index too, the "
        "index finds and this table's columns are shown as they are now",
        metavar="DEST",
    )
    engine: str = option(
        "auto",
        help="what searches a --table: numpy and duckdb compare every row here; bigquery uses the table's "
        "vector index where that gives k images; auto: bigquery for a table there, else numpy",
        choices=ENGINES,
    )
    max_bytes_billed: int = option(
        0, help="BigQuery refuses a query that would be billed for more bytes; 0: no limit", metavar="BYTES"
    )
    image: str = option("", help="find images like this file; needs --model", metavar="FILE")
    model: str = option("", help="the model that made the table, for --image", metavar="DIR")
    key: str = option("", help="or like this image of the index", metavar="KEY")
    vector: str = option(
        "", help="or like these vectors: [D], or [Q, D] for several queries", metavar="FILE.npy"
    )
    k: int = option(10, help="how many images a query", metavar="K")
    where: str = option(
        "", help="only images for which this GoogleSQL expression over the columns is true", metavar="SQL"
    )
    skip_bad_vectors: bool = option(
        False,
        help="of a --table searched by numpy, leave out vectors that are missing, zero, not finite or of "
        "another dimension",
    )
    include_self: bool = option(False, help="with --key, leave that image among the results")
    output_format: str = option("table", help="how to print", choices=("table", "json"))
    check_model: bool = option(False, help="try the model in a child process first, on generated images")


def preflight(options: Options) -> dict[str, Any]:
    """What would be searched for, and where.

    Raises:
      UsageError: neither ``--index`` nor ``--table``, or not one kind of query, or an engine that can't.
    """
    place = "index" if options.index else _one_of(options, "index", "table")
    query = _one_of(options, "image", "key", "vector")
    if place == "index" and options.engine != "auto":
        raise UsageError(f"--engine {options.engine} searches a --table; --index searches itself")
    engine = engine_of(options) if place == "table" else "index"
    if (query == "image") != bool(options.model):
        raise UsageError("--image FILE and --model DIR go together: the model that made the table")
    if options.k < 1:
        raise UsageError(f"--k is at least 1, not {options.k}")
    return {
        "place": place,
        place: getattr(options, place),
        "engine": engine,
        "query": query,
        query: getattr(options, query),
    }


def engine_of(options: Options) -> str:
    """``numpy``, ``duckdb`` or ``bigquery``.

    Raises:
      UsageError: the engine that was asked for can't search the table.
    """
    from beam_vision.warehouse.names import is_bigquery, parse_table

    there = is_bigquery(options.table)
    if there:
        parse_table(options.table, option="--table")
    if options.engine == "auto":
        return "bigquery" if there else "numpy"
    if there != (options.engine == "bigquery") and options.engine != "numpy":
        others = "bigquery or numpy" if there else "numpy or duckdb"
        raise UsageError(f"--engine {options.engine} can't search {options.table}: take {others}")
    return options.engine


def _one_of(options: Options, *names: str) -> str:
    given = [name for name in names if getattr(options, name)]
    if len(given) != 1:
        every = ", ".join(f"--{name}" for name in names)
        got = " and ".join(f"--{name}" for name in given) or "none"
        raise UsageError(f"exactly one of {every} is needed, and {got} was given")
    return given[0]


def run(argv: list[str]) -> int:
    """Prints the nearest images of a query. Exit code 2 when the query or the index won't do."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    plan = preflight(options)
    opened = open_place(options, plan["engine"])
    found, several = find(opened, options)
    if plan["place"] == "index" and options.table:
        found = described(found, opened, options)
    for note in found.notes:
        jobs.say(note)
    show(found, several=several, output_format=options.output_format)
    return 0


def open_place(options: Options, engine: str) -> Opened:
    """What is searched, ready to be asked.

    Args:
      options: the job's.
      engine: ``index``, or as :func:`engine_of` gives it.

    Raises:
      UsageError: there is no such index or table, or it can't be searched.
    """
    from beam_vision.search.index import open_index, open_table

    if engine == "index":
        return open_index(options.index)
    if engine == "numpy":
        return open_table(options.table, skip_bad_vectors=options.skip_bad_vectors)
    from beam_vision.search.nearest import TableSearch, facts_of

    return TableSearch(facts_of(options.table), max_bytes_billed=options.max_bytes_billed, tell=jobs.say)


def described(found: Found, opened: Opened, options: Options) -> Found:
    """What an index found, with the columns that ``--table`` has for it now.

    Raises:
      UsageError: there is no such table, or it can't be asked.
    """
    from beam_vision.search.joined import joined
    from beam_vision.search.nearest import TableSearch

    assert not isinstance(opened, TableSearch)
    return joined(
        found,
        options.table,
        model_digest=opened.model_digest,
        preprocessing_digest=opened.preprocessing_digest,
        max_bytes_billed=options.max_bytes_billed,
        tell=jobs.say,
    )


def find(opened: Opened, options: Options) -> tuple[Found, bool]:
    """The neighbours, and whether there may be several queries.

    Raises:
      UsageError: the query, ``--k`` or ``--where`` won't do.
      DigestMismatch: the model is not the one that made the index's vectors.
    """
    if options.key:
        key = key_of(options.key, opened)
        found = opened.search_key(key, options.k, where=options.where, include_self=options.include_self)
        return found, False
    if options.image:
        return opened.search(embed_file(opened, options), options.k, where=options.where), False
    vectors = read_vector_file(options.vector)
    return opened.search(vectors, options.k, where=options.where), vectors.ndim == 2


def key_of(asked: str, opened: Opened) -> str:
    """The key as asked for; or the absolute path it stands for, where that is the key of a local file."""
    path = storage.absolute(asked)
    return path if not opened.knows(asked) and path != asked and opened.knows(path) else asked


def read_vector_file(path: str) -> np.ndarray:
    """The array in a ``.npy`` file; pickled objects are refused.

    Raises:
      UsageError: no such file, or it holds no plain array.
    """
    import numpy as np

    if not storage.exists(path):
        raise UsageError(f"--vector {path}: no such file")
    try:
        return np.load(io.BytesIO(storage.read_bytes(path)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UsageError(f"--vector {path} is not a .npy file of numbers: {error}") from error


def embed_file(opened: Opened, options: Options) -> np.ndarray:
    """The embedding of an image file, made as the vectors searched were; float32 ``[D]``.

    Raises:
      DigestMismatch: the model, or how it is shown images, is not what made the index.
      UsageError: there is no such image or model, or the image can't be embedded.
    """
    import numpy as np

    from beam_vision.inference.engine import Engine, EngineSettings, warm_up
    from beam_vision.inference.loader import load
    from beam_vision.types import EncodedImage, Failure, ImageRef

    if not storage.exists(options.image) or storage.is_folder(options.image):
        raise UsageError(f"--image {options.image}: no such file")
    model = model_of(options, task="embed")
    opened.require_made_by(
        model_digest=model.spec.model_digest, preprocessing_digest=model.spec.preprocessing_digest
    )
    loaded = load(model.path, model.spec)
    warm_up(loaded)
    ref = ImageRef(key=options.image, uri=options.image)
    engine = Engine(model.spec, EngineSettings(task="embed", batch_size=1, decode_threads=1))
    results, _ = engine.predict([EncodedImage(ref, storage.read_bytes(options.image))], loaded)
    if isinstance(results[0], Failure):
        raise UsageError(f"--image {options.image}: {results[0].reason}: {results[0].detail}")
    return np.frombuffer(results[0].embedding or b"", "<f4")


def show(found: Found, *, several: bool, output_format: str) -> None:
    """Prints neighbours as a table or as one JSON array; ``query`` numbers are there for several queries."""
    from beam_vision.search import render

    numbered = [(number, each) for number, query in enumerate(found.neighbors) for each in query]
    if output_format == "json":
        names = ("key", "uri", "score", "rank", "label", "attributes")
        objects = (
            {**({"query": number} if several else {}), **{name: getattr(each, name) for name in names}}
            for number, each in numbered
        )
        jobs.emit("".join(render.json_array(objects)))
        return
    head = ["query", "rank", "score", "label", "key", "attributes"]
    rows = [
        [number, each.rank, f"{each.score:.4f}", each.label, each.key, each.attributes]
        for number, each in numbered
    ]
    first = 0 if several else 1
    jobs.emit(render.text_table(head[first:], [row[first:] for row in rows], widest=CELL_CHARS))
