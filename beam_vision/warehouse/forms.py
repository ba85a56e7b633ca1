"""What a table of each kind is in BigQuery: its columns, its partitions, and what its description says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from beam_vision import stream_table
from beam_vision.warehouse import schema

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import SchemaField

BATCH = "beam-vision table"
STREAM = "beam-vision stream"
FAILURES = "beam-vision failures"
METRICS = "beam-vision metrics"

_MARK = "beam-vision: "
TIME_OF = {
    stream_table.PREDICTIONS: "capture_time",
    stream_table.COUNTS: "window_start",
    stream_table.HEALTH: "window_start",
    stream_table.LATENCY: "window_start",
    stream_table.ALERTS: "time",
    stream_table.ROLLOUTS: "time",
    stream_table.FAILURES: "time",
}
"""The column by whose days each table of a stream is partitioned."""


class RowFacts(Protocol):
    """What rows of a batch table have in common, as ``sinks.rows.RowSettings`` says it."""

    @property
    def task(self) -> str: ...  # noqa: D102
    @property
    def embedding_dim(self) -> int | None: ...  # noqa: D102
    @property
    def model_digest(self) -> str: ...  # noqa: D102
    @property
    def preprocessing_digest(self) -> str: ...  # noqa: D102
    @property
    def options_digest(self) -> str: ...  # noqa: D102
    @property
    def rows(self) -> str: ...  # noqa: D102
    def schema(self) -> pa.Schema: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Form:
    """What a table should be.

    Attributes:
      fields: its columns.
      partition: the column by whose days it is partitioned; ``""``: it isn't.
      clustering: the columns that it is clustered by.
      about: one line for people.
      facts: what else must hold of its rows; ``kind`` always, and by it ``task``, ``row_kind``,
        ``embedding_dim`` and the digests. They stand in the description.
    """

    fields: tuple[SchemaField, ...]
    partition: str = ""
    clustering: tuple[str, ...] = ()
    about: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """The table's description: ``about``, and the facts as a line of JSON."""
        return described(self.about, self.facts)


def described(about: str, facts: Mapping[str, Any]) -> str:
    """A description that says ``about`` to people and ``facts`` to :func:`facts_in`."""
    return f"{about}\n{_MARK}{json.dumps(dict(facts), sort_keys=True, ensure_ascii=True)}"


def facts_in(description: str | None) -> dict[str, Any]:
    """The facts in a description; none where it has no such line, or one that somebody has broken."""
    for line in (description or "").splitlines():
        if line.startswith(_MARK):
            try:
                found = json.loads(line.removeprefix(_MARK))
            except ValueError:
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def redescribed(description: str | None, facts: Mapping[str, Any]) -> str:
    """The same description with other facts; what people wrote around them stays."""
    lines = (description or "").splitlines()
    kept = [line for line in lines if not line.startswith(_MARK)]
    return described("\n".join(kept), facts)


def batch_form(settings: RowFacts) -> Form:
    """The table of a batch job: a row for each image, box or tile, once for each model.

    Args:
      settings: what its rows have in common: a ``sinks.rows.RowSettings``.
    """
    facts = {
        "kind": BATCH,
        "task": settings.task,
        "row_kind": settings.rows,
        "embedding_dim": settings.embedding_dim,
        "model_digest": settings.model_digest,
        "preprocessing_digest": settings.preprocessing_digest,
        "options_digest": settings.options_digest,
    }
    what = f"{settings.rows.capitalize()}, each a row, as a model of the task {settings.task} saw them"
    return Form(
        fields=tuple(schema.fields(schema.batch_schema(settings.schema()))),
        partition=schema.WRITTEN_AT,
        clustering=("key",),
        about=f"{what}; written by beam-vision predict.",
        facts=facts,
    )


def stream_schema(table: str, *, task: str = "classify", embedding_dim: int | None = None) -> pa.Schema:
    """The columns of a streaming job's table in BigQuery, in our Arrow form: its own, and ``written_at``."""
    import pyarrow as pa

    columns = stream_table.schema(table, task=task, embedding_dim=embedding_dim)
    return columns.append(pa.field(schema.WRITTEN_AT, pa.timestamp("us", tz="UTC"), nullable=False))


def stream_form(table: str, *, task: str = "classify", embedding_dim: int | None = None) -> Form:
    """One of the tables of a streaming job.

    Args:
      table: one of :data:`beam_vision.stream_table.TABLES`.
      task, embedding_dim: decide the columns of ``predictions``, and are facts of that table alone.
    """
    columns = stream_schema(table, task=task, embedding_dim=embedding_dim)
    facts: dict[str, Any] = {"kind": STREAM, "table": table}
    if table == stream_table.PREDICTIONS:
        facts |= {"task": task, "embedding_dim": embedding_dim}
    clustering = tuple(name for name in ("camera", "row_id") if name in columns.names)
    return Form(
        fields=tuple(schema.fields(columns)),
        partition=TIME_OF[table],
        clustering=clustering,
        about=f"The {table} of a stream of cameras, at least once each; written by beam-vision stream.",
        facts=facts,
    )


def failures_form() -> Form:
    """The table of what failed in batch jobs: the failures of the last run into each output."""
    return Form(
        fields=tuple(schema.fields(schema.failures_schema())),
        partition=schema.WRITTEN_AT,
        clustering=("output", "key"),
        about="What failed, of the last run into each output; beam-vision redrive runs it again.",
        facts={"kind": FAILURES},
    )


def metrics_form(columns: pa.Schema) -> Form:
    """The table of evaluations: a row for each class of each, and one for all classes.

    Args:
      columns: in our Arrow form.
    """
    return Form(
        fields=tuple(schema.fields(columns)),
        partition="evaluated_at",
        clustering=("model_digest", "label"),
        about="COCO's metrics, by class and over all classes (label null); written by beam-vision evaluate.",
        facts={"kind": METRICS},
    )
