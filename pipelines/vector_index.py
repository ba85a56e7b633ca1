"""``beam-vision vector-index``: BigQuery's own index of a table's embeddings, from advice to recall."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.warehouse.names import TableName, parse_table, quoted

if TYPE_CHECKING:
    from google.cloud.bigquery import Client

    from beam_vision.search.vector_index import Advice, Needs
    from beam_vision.search.vector_index_state import IndexState

NAME = "vector-index"
DESCRIPTION = (
    "advise says which vector index a table in BigQuery should have, and why; create makes it and waits\n"
    "until it covers the table; status shows its coverage, age and recall, and when to rebuild it."
)
EXAMPLE = "beam-vision vector-index create --table bigquery://my-project.lake.images --filters label,camera"
ACTIONS = ("advise", "create", "status", "rebuild", "drop")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``vector-index`` takes."""

    action: str = option(help="what to do", choices=ACTIONS, positional=True)
    table: str = option(help="the table", metavar="bigquery://PROJECT.DATASET.TABLE")
    column: str = option("embedding", help="the column of embeddings", metavar="NAME")
    filters: str = option("", help="columns that searches filter on, comma-separated", metavar="NAMES")
    storing: str = option(
        "key", help="columns that searches select; IVF stores them and saves a join", metavar="NAMES"
    )
    batch: int = option(1, help="how many query vectors a usual query has", metavar="N")
    index_type: str = option("auto", help="the kind of index", choices=("auto", "ivf", "tree_ah"))
    num_lists: int = option(0, help="lists of IVF, 1 to 5000; 0: BigQuery's choice", metavar="N")
    leaf_embeddings: int = option(
        0, help="vectors in a leaf of TREE_AH, 500 or more; 0: BigQuery's choice", metavar="N"
    )
    index_name: str = option("", help="the index (default: the table's own, or COLUMN_index)", metavar="NAME")
    replace: bool = option(False, help="with create, replace the index that the column has")
    wait_sec: float = option(
        3600.0, help="how long create waits until the index covers the table; 0: not at all", metavar="SEC"
    )
    sample: int = option(
        0, help="with status, measure recall on so many images by brute force, and keep it", metavar="N"
    )
    k: int = option(10, help="neighbours a query, for --sample", metavar="K")
    job: str = option("", help="with status, say whether this query used the index", metavar="JOB_ID")
    max_bytes_billed: int = option(
        0, help="refuse queries that would be billed for more bytes; 0: no limit", metavar="BYTES"
    )
    output_format: str = option("table", help="how to print", choices=("table", "json"))


def preflight(options: Options) -> TableName:
    """The table.

    Raises:
      UsageError: its name, another name, or a number won't do.
    """
    name = parse_table(options.table, option="--table")
    for each in (options.column, options.index_name or "index", *_names(options.filters)):
        quoted(each)
    for option_name, least in (
        ("k", 1),
        ("batch", 1),
        ("sample", 0),
        ("wait_sec", 0),
        ("max_bytes_billed", 0),
    ):
        value = getattr(options, option_name)
        if value < least:
            raise UsageError(f"--{option_name} is at least {least}, not {value}")
    return name


def run(argv: list[str]) -> int:
    """Does what is asked for. Exit code 2 when it can't be, 1 when an index doesn't get ready."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE, beam=False)
    options, _ = parse(parser, Options, argv, beam=False)
    name = preflight(options)
    from beam_vision.warehouse import clients

    client = clients.client(name.project)  # a vector search runs in its table's project
    try:
        {"advise": _advise, "create": _create, "status": _status}.get(options.action, _change)(
            client, name, options
        )
    finally:
        client.close()
    return 0


def _names(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(",") if each.strip())


def _advised(client: Client, name: TableName, options: Options) -> tuple[Needs, Advice]:
    from beam_vision.search.vector_index import advise
    from beam_vision.search.vector_index_table import needs_of

    needs = needs_of(
        client,
        name,
        column=options.column,
        filters=_names(options.filters),
        storing=_names(options.storing),
        batch=options.batch,
    )
    advice = advise(
        needs,
        kind="" if options.index_type == "auto" else options.index_type.upper(),
        num_lists=options.num_lists,
        leaf_embeddings=options.leaf_embeddings,
        storing=_names(options.storing),
    )
    return needs, advice


def _statement(name: TableName, options: Options, advice: Advice, index: str) -> str:
    from beam_vision.search.vector_index import create_sql

    return create_sql(name, index, advice, column=options.column, replace=options.replace)


def _advise(client: Client, name: TableName, options: Options) -> None:
    needs, advice = _advised(client, name, options)
    index = options.index_name or f"{options.column}_index"
    statement = _statement(name, options, advice, index) if advice.kind else ""
    if options.output_format == "json":
        jobs.emit(_json({"needs": asdict(needs), "advice": asdict(advice), "ddl": statement}))
        return
    head = f"{name.path}: {needs.rows:,} rows, vectors of {needs.dim:,} numbers"
    jobs.emit("\n".join([head, *(f"- {reason}" for reason in advice.reasons)]))
    if statement:
        jobs.emit(f"\n{statement}")


def _create(client: Client, name: TableName, options: Options) -> None:
    from beam_vision.search.vector_index_state import index_of
    from beam_vision.search.vector_index_table import create, wait_for
    from beam_vision.search.vector_index_text import described

    _, advice = _advised(client, name, options)
    if not advice.kind:
        raise UsageError(f"no index is made for {name.uri}: {advice.reasons[0].removeprefix('none: ')}")
    there = index_of(client, name, options.column)
    if there and not options.replace:
        raise UsageError(
            f"{name.uri} has the vector index {there.name!r} of {options.column} already ({there.kind}, "
            f"{there.coverage_percent} % covered); --replace makes it anew"
        )
    index = options.index_name or (there.name if there else f"{options.column}_index")
    statement = _statement(name, options, advice, index)
    jobs.say("\n".join(f"- {reason}" for reason in advice.reasons))
    jobs.say(statement)
    create(client, name, statement)
    if not options.wait_sec:
        jobs.say("the index is being built; see `beam-vision vector-index status`")
        return
    ready = wait_for(client, name, index, wait_sec=options.wait_sec, tell=jobs.say)
    _show(options, described(ready), {"index": asdict(ready)})


def _change(client: Client, name: TableName, options: Options) -> None:
    """Rebuilds or drops the index."""
    from beam_vision.search.vector_index_state import drop_sql, rebuild_sql
    from beam_vision.search.vector_index_table import create

    index = _required(client, name, options).name
    statement = drop_sql(name, index) if options.action == "drop" else rebuild_sql(name, index)
    jobs.say(statement)
    create(client, name, statement)
    done = "is dropped" if options.action == "drop" else "is being rebuilt, and serves as it is meanwhile"
    jobs.say(f"the vector index {index!r} of {name.uri} {done}")


def _required(client: Client, name: TableName, options: Options) -> IndexState:
    from beam_vision.search.vector_index_state import indexes_of

    states = indexes_of(client, name)
    for each in states:
        if each.name == options.index_name or (not options.index_name and each.column == options.column):
            return each
    wanted = repr(options.index_name) if options.index_name else f"of {options.column}"
    known = ", ".join(each.name for each in states)
    has = f"it has {known}" if known else "make one by `beam-vision vector-index create`"
    raise UsageError(f"{name.uri} has no vector index {wanted}; {has}")


def _status(client: Client, name: TableName, options: Options) -> None:
    from beam_vision.search import vector_index_history as kept
    from beam_vision.search import vector_index_state as states
    from beam_vision.search.vector_index_text import described, past

    index = _required(client, name, options)
    drift = _drift(client, name) if index.usable else None
    rows = described(index)
    facts: dict[str, Any] = {"index": asdict(index), "drift": drift}
    if options.sample:
        measured = _measured(client, name, options, index, drift)
        rows.append((f"recall@{options.k}", measured.text))
        facts["measured"] = asdict(measured)
    if options.job:
        facts["job"] = used = _use(client, name, options.job)
        rows.append((f"job {options.job}", used))
    history = kept.history_of(client, name, index.name)
    why = states.rebuild_reason(drift=drift, recalls=kept.recalls_of(history, index, options.k))
    facts |= {"rebuild": why, "history": history}
    rows.append(("drift", "not known" if drift is None else f"{drift:.2f} of 1 since it was built"))
    rows.append(("rebuild", f"yes: {why}; see `vector-index rebuild`" if why else "not needed"))
    rows += [("history", past(each)) for each in history]
    _show(options, rows, facts)


def _drift(client: Client, name: TableName) -> float | None:
    """The drift, or a line that says why it can't be known: readers may not ask for it."""
    from beam_vision.search.vector_index_state import drift_of

    try:
        return drift_of(client, name)
    except UsageError as error:
        jobs.say(f"drift is not known: {error}")
        return None


def _measured(
    client: Client, name: TableName, options: Options, index: IndexState, drift: float | None
) -> Any:
    from beam_vision.search import vector_index_history as kept
    from beam_vision.search import vector_index_recall as recall
    from beam_vision.search.vector_index_table import rows_of

    if not index.usable:
        raise UsageError(
            f"the vector index {index.name!r} is not usable yet ({index.status}, {index.coverage_percent} % "
            "covered); recall can be measured when it is"
        )
    asked: dict[str, Any] = {"column": index.column, "k": options.k, "sample": options.sample}
    jobs.say(f"measuring recall {recall.price(client, name, **asked).text}")
    measured = recall.measure(client, name, **asked, max_bytes_billed=options.max_bytes_billed)
    rows = rows_of(client, name)
    where = kept.remember(client, name, index, measured, table_rows=rows, drift=drift)
    jobs.say(f"kept in {where.uri}")
    return measured


def _use(client: Client, name: TableName, job_id: str) -> str:
    from beam_vision.search.vector_index_use import use_of
    from beam_vision.warehouse import clients

    try:
        found = client.get_job(job_id, location=client.get_dataset(f"{name.project}.{name.dataset}").location)
    except clients.errors() as error:
        raise clients.explain(error, f"{name.project}: job {job_id}", "roles/bigquery.jobUser") from error
    return use_of(found).text


def _show(options: Options, rows: list[tuple[str, str]], facts: dict[str, Any]) -> None:
    if options.output_format == "json":
        jobs.emit(_json(facts))
        return
    width = max(len(name) for name, _ in rows) + 2
    jobs.emit("\n".join(f"{name:<{width}}{text}" for name, text in rows))


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, default=lambda each: each.isoformat())
