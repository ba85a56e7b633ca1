"""A PTransform that counts what became of each image of a backfill."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue

import beam_vision.coders  # noqa: F401
from beam_vision.sinks.accounts import Counted, accounts_path, of_end, of_input, write_accounts


class WriteAccounts(beam.PTransform):
    """PBegin -> one file with the :class:`~beam_vision.sinks.accounts.Accounts` of a run.

    Each collection is counted where it is made, so only sums go on from there.

    Args:
      folder: of the run's tables.
      run_id: names the file.
      inputs: PCollections of what was listed.
      ends: PCollections of the rows of predictions, dead letters, observations, and commits of one folder.
    """

    def __init__(
        self,
        folder: str,
        run_id: str,
        *,
        inputs: Iterable[beam.PCollection],
        ends: Iterable[beam.PCollection],
    ) -> None:
        super().__init__()
        self._path = accounts_path(folder, run_id)
        self._counted = [(part, of_input) for part in inputs] + [(part, of_end) for part in ends]

    def expand(self, begin: beam.pvalue.PBegin) -> beam.PCollection:
        """Counts, sums up, writes."""
        counts = [
            part | f"Count{number}" >> beam.ParDo(CountDoFn(count))
            for number, (part, count) in enumerate(self._counted)
        ]
        return (
            tuple(counts)
            | "Counts" >> beam.Flatten()
            | "Sum" >> beam.CombinePerKey(sum)
            | "AsOne" >> beam.combiners.ToDict()
            | "Write" >> beam.Map(write_accounts, self._path)
        )


@beam.typehints.with_output_types(Counted)
class CountDoFn(beam.DoFn):
    """Elements -> what they add to the accounts, summed up by bundle.

    Args:
      count: gives what one element adds.
    """

    def __init__(self, count: Callable[[Any], Iterator[Counted]]) -> None:
        self._count = count

    def start_bundle(self) -> None:
        """Begins with nothing."""
        self._sums: Counter[str] = Counter()

    def process(self, element: Any) -> None:
        """Takes one in."""
        for name, number in self._count(element):
            self._sums[name] += number

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives the sums."""
        window = GlobalWindow()
        for counted in self._sums.items():
            yield WindowedValue(counted, window.max_timestamp(), [window])
