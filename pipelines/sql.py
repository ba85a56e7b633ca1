"""``beam-vision sql``: a SELECT over a table's images and failures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import table
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse

if TYPE_CHECKING:
    from beam_vision.search.sql import Result

NAME = "sql"
DESCRIPTION = (
    "Runs one SELECT over a table: `images` are its rows, `failures` the images that failed.\n"
    "cosine_similarity(a, b) compares vectors, embedding_of('KEY') is the vector of an image."
)
EXAMPLE = (
    "beam-vision sql \"SELECT key, cosine_similarity(embedding, embedding_of('lake/cat/1.jpg')) AS score "
    'FROM images ORDER BY score DESC LIMIT 10" --table embedded/'
)


PIECES_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``sql`` takes."""

    statement: str = option(help="the SELECT", metavar="SELECT", positional=True)
    table: str = option(help="the table, as predict writes it", metavar="DEST")
    output_format: str = option("table", help="how to print", choices=("table", "json", "csv"))
    max_rows: int = option(
        200, help="rows that a printed table shows at most; json and csv have them all", metavar="N"
    )


def preflight(options: Options) -> dict[str, Any]:
    """What would be read.

    Raises:
      UsageError: there is no table, or ``--max_rows`` is less than 1.
    """
    if options.max_rows < 1:
        raise UsageError(f"--max_rows is at least 1, not {options.max_rows}")
    return {"table": options.table, "parts": len(table.part_paths(options.table))}


def run(argv: list[str]) -> int:
    """Prints what a SELECT gives. Exit code 2 when it is wrong."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    preflight(options)
    from beam_vision.search.sql import query

    with query(options.table, options.statement) as result:
        pieces = render(result, options)
        while text := "".join(itertools.islice(pieces, PIECES_AT_ONCE)):
            jobs.emit(text)
    return 0


def render(result: Result, options: Options) -> Iterator[str]:
    """The result as text, a row at a time; a printed table is one piece, bounded by ``--max_rows``."""
    from beam_vision.search import render

    rows = itertools.chain.from_iterable(result.batches)
    if options.output_format == "json":
        yield from render.json_array(dict(zip(result.names, row, strict=True)) for row in rows)
    elif options.output_format == "csv":
        yield from render.csv_lines(itertools.chain([result.names], rows))
    else:
        shown = list(itertools.islice(rows, options.max_rows))
        yield render.text_table(result.names, shown)
        if next(rows, None) is not None:
            jobs.say(f"only the first {len(shown):,} rows are shown; see --max_rows and --output_format")
