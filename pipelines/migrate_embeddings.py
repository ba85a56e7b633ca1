"""``beam-vision migrate-embeddings``: bring a table in BigQuery to another model, then switch."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.warehouse import clients, migrate, migrate_view
from beam_vision.warehouse.names import TableName, parse_table

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

    from beam_vision.warehouse.migrate_overlap import Overlap

NAME = "migrate-embeddings"
DESCRIPTION = (
    "Writes the embeddings of another model beside those of a table in BigQuery, as a second column. Says\n"
    "how many images have both, and how alike their neighbours are. With --switch, makes the view\n"
    "TABLE_current give the new ones as `embedding`, in one statement; --back goes back."
)
EXAMPLE = (
    "beam-vision migrate-embeddings --table bigquery://my-project.lake.images "
    "--from bigquery://my-project.lake.images_v2 --switch"
)
_LIKE = "bigquery://PROJECT.DATASET.TABLE"


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``migrate-embeddings`` takes."""

    table: str = option(help="the table whose images get another space", metavar=_LIKE)
    from_: str = option(
        "", help="the table with the same keys, as predict wrote it with the other model", metavar=_LIKE
    )
    k: int = option(10, help="neighbours of an image that are compared", metavar="K")
    sample: int = option(100, help="images whose neighbours are compared", metavar="N")
    switch: bool = option(False, help="then make the view TABLE_current give the other model's embeddings")
    back: bool = option(False, help="make the view TABLE_current give the table's own embeddings again")
    min_coverage: float = option(
        1.0, help="switch only when at least this share of the images has the other model's embedding"
    )
    min_overlap: float = option(
        0.0, help="switch only when at least this share of neighbours is the same in both spaces"
    )
    max_bytes_billed: int = option(
        0, help="refuse a statement that would be billed for more bytes; 0: no such limit", metavar="BYTES"
    )
    output_format: str = option("table", help="how to print", choices=("table", "json"))
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


def check(options: Options) -> None:
    """Whether the options go together.

    Raises:
      UsageError: they don't.
    """
    if options.back == bool(options.from_):
        raise UsageError("give either --from TABLE, of the other model, or --back")
    if options.back and options.switch:
        raise UsageError("--switch goes to the other model and --back to the table's own: give one")
    for name in ("k", "sample"):
        if not 1 <= getattr(options, name) <= 10_000:
            raise UsageError(f"--{name} is 1 to 10,000, not {getattr(options, name)}")
    for name in ("min_coverage", "min_overlap"):
        if not 0 <= getattr(options, name) <= 1:
            raise UsageError(f"--{name} is a share, 0 to 1, not {getattr(options, name)}")


def preflight(client: Client, options: Options) -> dict[str, Any]:
    """What would be done.

    Raises:
      UsageError: it can't be.
    """
    table = parse_table(options.table, option="--table")
    if options.back:
        return {
            "table": table.uri,
            "view": migrate_view.current_view(table).uri,
            "space": _own(client, table).facts,
        }
    plan = migrate.plan(client, table, parse_table(options.from_, option="--from"))
    return {
        "table": table.uri,
        "from": plan.source.uri,
        "old": asdict(plan.old),
        "new": asdict(plan.new),
        "statement": migrate.merge_sql(plan),
        "view": migrate_view.current_view(table).uri if options.switch else None,
    }


def _own(client: Client, table: TableName) -> migrate.Space:
    return migrate.spaces_of(client, table)[0]


def run(argv: list[str]) -> int:
    """Migrates, reports, switches. Exit code 2 when it can't be done so, 1 when the new space won't do."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    check(options)
    table = parse_table(options.table, option="--table")
    with contextlib.closing(clients.client(table.project)) as client:
        if options.preflight_only:
            return jobs.show_plan(preflight(client, options))
        if options.back:
            show(switched(client, table, _own(client, table)), options)
            return 0
        source = parse_table(options.from_, option="--from")
        return migrated(client, migrate.plan(client, table, source), options)


def migrated(client: Client, plan: migrate.Migration, options: Options) -> int:
    """Fills the column, reports, and switches where that was asked for.

    Raises:
      UsageError: BigQuery refuses.
      JobError: too few images are in the new space, or it is too unlike the old one, to switch.
    """
    from beam_vision.warehouse.migrate_overlap import overlap

    limit = options.max_bytes_billed
    migrate.add_column(client, plan)
    jobs.say(f"bringing {plan.source.path} over: {migrate.price(client, plan).text}")
    changed = migrate.merge(client, plan, max_bytes_billed=limit)
    covered = migrate.coverage(client, plan)
    alike = overlap(client, plan, k=options.k, sample=options.sample, max_bytes_billed=limit)
    report = {
        "table": plan.table.uri,
        "column": plan.new.column,
        "old": plan.old.facts,
        "new": plan.new.facts,
        "changed": changed,
        "coverage": {**asdict(covered), "share": covered.share},
        "overlap": asdict(alike) if alike else None,
    }
    problem = why_not(covered, alike, options) if options.switch else ""
    if options.switch and not problem:
        report |= switched(client, plan.table, plan.new)
    show(report, options)
    if problem:
        raise JobError(f"not switched: {problem}")
    return 0


def why_not(covered: migrate.Coverage, alike: Overlap | None, options: Options) -> str:
    """Why the view can't be switched; ``""`` when it can."""
    if not covered.covered or covered.share < options.min_coverage:
        eg = f" (such as {covered.example})" if covered.example else ""
        return (
            f"{covered.rows - covered.covered:,} of {covered.rows:,} images{eg} have no embedding of the "
            f"other model, and --min_coverage is {options.min_coverage:g}; predict them into "
            f"{options.from_}, and run this again"
        )
    mean = alike.mean if alike else 0.0
    if mean < options.min_overlap:
        return f"{mean:.1%} of the neighbours are the same, and --min_overlap is {options.min_overlap:g}"
    return ""


def switched(client: Client, table: TableName, space: migrate.Space) -> dict[str, Any]:
    """Switches the view, and says to what.

    Raises:
      UsageError: BigQuery refuses.
    """
    statement = migrate_view.switch(client, table, space)
    return {
        "view": migrate_view.current_view(table).uri,
        "view_gives": {"column": space.column, **space.facts},
        "statement": statement,
    }


def show(report: dict[str, Any], options: Options) -> None:
    """Prints the report."""
    if options.output_format == "json":
        jobs.emit(json.dumps(report, indent=2, ensure_ascii=False))
        return
    jobs.emit("\n".join(f"{name:<12}{text}" for name, text in lines(report)))


def lines(report: dict[str, Any]) -> list[tuple[str, str]]:
    """The report for people: a name and a text each."""
    made = [("table", report["table"])] if "table" in report else []
    if "column" in report:
        made += [
            ("column", f"{report['column']} ({report['changed']:,} rows changed)"),
            ("from", _space(report["old"])),
            ("to", _space(report["new"])),
            ("coverage", _coverage(report["coverage"])),
            ("overlap", _overlap(report["overlap"])),
        ]
    if "view" in report:
        made.append(("view", f"{report['view']} gives {report['view_gives']['column']}"))
        made.append(("now", _space(report["view_gives"])))
    return made


def _space(facts: dict[str, Any]) -> str:
    return (
        f"model {facts['model_digest']}, preprocessing {facts['preprocessing_digest']}, "
        f"{facts['embedding_dim']:,} dimensions"
    )


def _coverage(found: dict[str, Any]) -> str:
    missing = f"; without: {found['example']}, ..." if found["example"] else ""
    return f"{found['covered']:,} of {found['rows']:,} images ({found['share']:.1%}){missing}"


def _overlap(found: dict[str, Any] | None) -> str:
    if found is None:
        return "no two images are in both spaces"
    return (
        f"{found['mean']:.1%} of the {found['k']} nearest are the same, the mean of {found['queries']:,} "
        f"images (worst: {found['worst']:.1%}, {found['worst_key']})"
    )
