"""PTransforms that write a table of BigQuery's, and read what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

import beam_vision.coders  # noqa: F401
from beam_vision.errors import Reason, VisionError
from beam_vision.sinks import parts
from beam_vision.sinks import warehouse_commit as committing
from beam_vision.sinks import warehouse_load as loading
from beam_vision.sinks.commit import Commit
from beam_vision.sinks.letters import Letter
from beam_vision.sinks.rows import RowSettings, to_table
from beam_vision.sinks.transforms import StageRows, WriteTable
from beam_vision.sinks.warehouse_commit import Report, WarehousePlan
from beam_vision.table import Part
from beam_vision.types import Prediction
from beam_vision.warehouse.names import TableName
from beam_vision.warehouse.schema import faults


class ReadDoneKeys(beam.PTransform):
    """PBegin -> the keys of the images whose rows a table holds; one may come several times.

    Args:
      name: the table.
      settings: what its rows have in common.
    """

    def __init__(self, name: TableName, settings: RowSettings) -> None:
        super().__init__()
        self._name = name
        self._settings = settings

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Reads the one column."""
        once = begin | "Table" >> beam.Create([self._name.uri])
        return once | "ReadKeys" >> beam.FlatMap(_done_keys, self._name, self._settings)


def _done_keys(_: str, name: TableName, settings: RowSettings) -> Iterator[str]:
    return committing.done_keys(name, settings)


class StageWarehouseRows(StageRows):
    """As :class:`~beam_vision.sinks.transforms.StageRows`; an image with a row it would refuse fails."""

    def write(self, elements: list[tuple[Prediction, ...]]) -> Iterator[Any]:
        """Writes one Parquet file of what BigQuery takes."""
        refused = self._refused(elements)
        key = self._settings.image_key
        good = []
        for rows in elements:
            why = refused.get(key(rows[0]))
            if why is None:
                good.append(rows)
            else:
                yield self.failed(VisionError(Reason.REFUSED, why), rows)
        if good:
            yield from super().write(good)

    def _refused(self, images: list[tuple[Prediction, ...]]) -> dict[str, str]:
        """Why images can't be written, by key."""
        table = to_table([row for rows in images for row in rows], self._settings, self._output.run_id)
        found = faults(table, embedding_dim=self._settings.embedding_dim)
        if not found:
            return {}
        keys = table.column(self._settings.image_column)
        return {keys[number].as_py(): why for number, why in found.items()}


@dataclass(frozen=True)
class WarehouseSteps:
    """Into a table of BigQuery's; see :mod:`beam_vision.sinks.warehouse_commit`."""

    plan: WarehousePlan
    settings: RowSettings
    letter: Letter
    job: str

    def write_part(self, task: parts.PartTask) -> Part:
        """Writes a file to load."""
        return loading.write_part(task, self.plan.output.staging("parts"), self.settings)

    def commit(self, plan: Commit, written: list[Part]) -> Report:
        """Loads and merges."""
        return committing.commit(self.plan, self.settings, plan, written, letter=self.letter, job=self.job)

    def clean(self, committed: Report) -> Report:
        """Removes what was staged."""
        committing.clean(self.plan, letter=self.letter)
        return committed


class WriteWarehouse(WriteTable):
    """Outcome(Prediction, Failure) -> exactly one :class:`~beam_vision.sinks.warehouse_commit.Report`.

    Rows are staged in files as they come; at the end the accounts are checked, the rows loaded beside the
    table and merged into it. A run that is killed, at any point, has changed nothing or everything.

    Args:
      plan: what was found at the table.
      settings: what the rows have in common.
      options: as for :class:`~beam_vision.sinks.transforms.WriteTable`.
    """

    def __init__(self, plan: WarehousePlan, settings: RowSettings, **options: Any) -> None:
        super().__init__(plan.output, settings, **{"part_bytes": loading.PART_BYTES, **options})
        self._plan = plan

    def stage_rows(self) -> StageWarehouseRows:
        """What stages the rows."""
        return StageWarehouseRows(self._output, self._settings, self._flush, attempt=self._attempt)

    def steps(self) -> WarehouseSteps:
        """What loads, merges and cleans up."""
        return WarehouseSteps(self._plan, self._settings, self._letter, self._job)
