"""``beam-vision sql``: a SELECT, or a ready query, over a table's images and failures."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import table
from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.model_options import ModelFactOptions
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.warehouse.names import is_bigquery, parse_table

if TYPE_CHECKING:
    from beam_vision.search.ready import ReadyQuery
    from beam_vision.search.sql import Result

NAME = "sql"
DESCRIPTION = (
    "Runs one SELECT in GoogleSQL over a table, in a folder or in BigQuery: `images` are its rows,\n"
    "`failures` the images that failed. cosine_similarity(a, b) compares vectors, embedding_of('KEY') is\n"
    "the vector of an image, attributes['name'] an attribute; VECTOR_SEARCH runs on both. Values are\n"
    "parameters: @name and --param name=VALUE. --list_queries shows the queries that are ready."
)
EXAMPLE = (
    "beam-vision sql --query nearest_to_key --param key=lake/cat/1.jpg --table embedded/\n"
    "  beam-vision sql \"SELECT key, cosine_similarity(embedding, embedding_of('lake/cat/1.jpg')) AS score "
    'FROM images ORDER BY score DESC LIMIT 10" --table bigquery://project.dataset.table'
)


PIECES_AT_ONCE = 1000


@dataclass(frozen=True, kw_only=True)
class Options(ModelFactOptions):
    """What ``sql`` takes."""

    statement: str = option("", help="the SELECT", metavar="SELECT", positional=True)
    table: str = option(
        "",
        help="the table, as predict or stream writes it: a folder, or bigquery://PROJECT.DATASET.TABLE",
        metavar="DEST",
    )
    query: str = option("", help="a ready query, in place of a SELECT", metavar="NAME")
    list_queries: bool = option(False, help="show the ready queries and their parameters")
    param: tuple[str, ...] = option(
        (),
        help="the value of a parameter: NAME=VALUE; or NAME:TYPE=VALUE, where a SELECT of your own needs "
        "another type than STRING",
        metavar="NAME=VALUE",
        repeated=True,
    )
    image: str = option("", help="the embedding of this file is @vector; needs --model", metavar="FILE")
    model: str = option("", help="the model that made the table, for --image", metavar="DIR")
    vector: str = option("", help="or this vector is @vector: [D]", metavar="FILE.npy")
    check_model: bool = option(False, help="try the model in a child process first, on generated images")
    join: tuple[str, ...] = option(
        (), help="a further table, and its name in the SELECT", metavar="NAME=DEST", repeated=True
    )
    dialect: str = option(
        "googlesql", help="of the SELECT; duckdb: for tables in folders", choices=("googlesql", "duckdb")
    )
    max_bytes_billed: int = option(
        0, help="on BigQuery, run nothing that is billed for more bytes; 0: no limit", metavar="N"
    )
    cost_only: bool = option(False, help="on BigQuery, say what it would cost, and run nothing")
    output_format: str = option("table", help="how to print", choices=("table", "json", "csv"))
    max_rows: int = option(
        200, help="rows that a printed table shows at most; json and csv have them all", metavar="N"
    )


def preflight(options: Options) -> dict[str, Any]:
    """What would be read.

    Raises:
      UsageError: there is no table; not one of a SELECT and ``--query``; options that don't go together.
    """
    if options.max_rows < 1:
        raise UsageError(f"--max_rows is at least 1, not {options.max_rows}")
    if options.max_bytes_billed < 0:
        raise UsageError(f"--max_bytes_billed is at least 0, not {options.max_bytes_billed}")
    if not options.table:
        raise UsageError("--table DEST is needed: a folder, or bigquery://PROJECT.DATASET.TABLE")
    if bool(options.statement) == bool(options.query):
        raise UsageError("give either a SELECT or --query NAME (--list_queries shows the names)")
    if bool(options.image) != bool(options.model):
        raise UsageError("--image FILE and --model DIR go together: the model that made the table")
    if options.image and options.vector:
        raise UsageError("--image and --vector are both @vector; give one")
    if is_bigquery(options.table):
        parse_table(options.table, option="--table")
        if options.dialect != "googlesql":
            raise UsageError(f"BigQuery takes GoogleSQL alone; {options.dialect} is for tables in folders")
        return {"table": options.table}
    if options.cost_only or options.max_bytes_billed:
        raise UsageError(
            f"--table {options.table} is a folder, where a query costs nothing; leave the limit out"
        )
    return {"table": options.table, "parts": len(table.part_paths(options.table))}


def run(argv: list[str]) -> int:
    """Prints what a SELECT gives. Exit code 2 when it is wrong."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    if options.list_queries:
        jobs.emit(listing())
        return 0
    preflight(options)
    from beam_vision.pipelines.sql_parameters import parameters_of
    from beam_vision.search.sql import query
    from beam_vision.warehouse.cost import Bill

    ready = _ready(options)
    statement = ready.sql if ready else options.statement
    joins, bill = joins_of(options, ready), Bill(jobs.say)
    parameters = parameters_of(options, ready, bill)
    if options.cost_only:
        from beam_vision.search.warehouse_sql import prepared

        with prepared(options.table, statement, parameters, joins=joins) as plan:
            jobs.emit("\n".join(plan.notes))
        return 0
    with query(
        options.table,
        statement,
        parameters,
        joins=joins,
        max_bytes_billed=options.max_bytes_billed,
        dialect=options.dialect,
        tell=jobs.say,
        charge=bill.query,
    ) as result:
        pieces = render(result, options)
        while text := "".join(itertools.islice(pieces, PIECES_AT_ONCE)):
            jobs.emit(text)
    return 0


def _ready(options: Options) -> ReadyQuery | None:
    """The ready query that is asked for, if one is.

    Raises:
      UsageError: there is no such one; it is asked for in another dialect.
    """
    from beam_vision.search.ready import ready_query

    if not options.query:
        return None
    if options.dialect != "googlesql":
        raise UsageError("ready queries are GoogleSQL; leave --dialect out")
    return ready_query(options.query)


def joins_of(options: Options, ready: ReadyQuery | None) -> dict[str, str]:
    """The further tables, by name.

    Raises:
      UsageError: a ready query needs another one; a text that is not ``NAME=DEST``.
    """
    joins: dict[str, str] = {}
    for text in options.join:
        name, equals, place = text.partition("=")
        if not equals or not name or not place:
            raise UsageError(f"--join {text}: write NAME=DEST")
        if name.lower() in (each.lower() for each in joins):
            raise UsageError(f"--join {name} is given twice")
        joins[name] = place
    missing = {name: what for name, what in (ready.joins if ready else {}).items() if name not in joins}
    for name, what in missing.items():
        raise UsageError(f"--query {options.query} needs --join {name}=DEST: {what}")
    return joins


def listing() -> str:
    """The ready queries, each with its parameters."""
    from beam_vision.search.ready import ready_queries, ready_query

    lines = []
    for query in map(ready_query, ready_queries()):
        lines += [query.name, f"  {query.about}"]
        lines += [f"  --join {name}=DEST: {what}" for name, what in query.joins.items()]
        for each in query.parameters:
            if not each.computed:
                default = "" if each.default is None else f" = {each.default or repr('')}"
                lines.append(f"  --param {each.name}: {each.kind}{default}: {each.about}")
    return "\n".join(lines)


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
