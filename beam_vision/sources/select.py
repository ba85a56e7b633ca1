"""Each key once: of all that was listed, what is to be opened, what was already done, and what fails here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.pvalue import TaggedOutput

from beam_vision import metrics
from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.failures import FAILED, failure
from beam_vision.types import Failure, ImageRef

ALREADY_DONE = "already_done"


class Selected(NamedTuple):
    """What :class:`SelectKeys` gives: each input is in one of the three.

    Attributes:
      refs: PCollection of refs, each key once.
      failed: PCollection of Failure.
      already_done: PCollection with a 1 for each key under ``without_keys``.
    """

    refs: beam.PCollection
    failed: beam.PCollection
    already_done: beam.PCollection


class SelectKeys(beam.PTransform):
    """PCollection[(key, ref or Failure)], keys may come twice -> :class:`Selected`. The one shuffle.

    Args:
      run_id: stands in each failure.
      attempt: stands in each failure.
      limit: only the first so many inputs, sorted by key; what is beyond is no input. 0: all.
      only_keys: PCollection[str]; just these are inputs. One that isn't listed is a Failure
        ``no_longer_listed``. A ``limit`` is then the first so many of these keys.
      without_keys: PCollection[str]; these come out as already done.
    """

    def __init__(
        self,
        run_id: str = "",
        attempt: int = 1,
        *,
        limit: int = 0,
        only_keys: beam.PCollection | None = None,
        without_keys: beam.PCollection | None = None,
    ) -> None:
        super().__init__()
        self._select = SelectDoFn(only=only_keys is not None, run_id=run_id, attempt=attempt)
        self._limit = limit
        self._only_keys = only_keys
        self._without_keys = without_keys

    def expand(self, listed: beam.PCollection) -> Selected:
        """Groups by key and decides on each."""
        only = self._only_keys
        if self._limit and only is None:
            listed = listed | "Limit" >> _Smallest(self._limit, key=_order)
        grouped = {"listed": listed}
        if only is not None:
            if self._limit:
                only = only | "DistinctKeys" >> beam.Distinct() | "LimitKeys" >> _Smallest(self._limit)
            grouped["only"] = only | "OnlyKeys" >> beam.Map(_with_none)
        if self._without_keys is not None:
            grouped["without"] = self._without_keys | "WithoutKeys" >> beam.Map(_with_none)
        found = (
            grouped
            | "GroupByKey" >> beam.CoGroupByKey()
            | "Select" >> beam.ParDo(self._select).with_outputs(FAILED, ALREADY_DONE, main="refs")
        )
        return Selected(found.refs, found[FAILED], found[ALREADY_DONE])


class SelectDoFn(beam.DoFn):
    """All that is known of a key -> its one ref; failures; or a 1 if it is done already.

    Of several listings of a key the first by content is kept, in whatever order they come; each other one
    is a Failure ``duplicate_key``.

    Args:
      only: whether just the keys under ``only`` are inputs.
      run_id: stands in each failure.
      attempt: stands in each failure.
    """

    def __init__(self, *, only: bool = False, run_id: str = "", attempt: int = 1) -> None:
        self._only = only
        self._stamp: dict[str, Any] = {"run_id": run_id, "attempt": attempt}

    def process(self, element: tuple[str, Mapping[str, Iterable[Any]]]) -> Iterator[Any]:
        """Decides on one key."""
        key, found = element
        if self._only and not any(True for _ in found["only"]):
            return
        kept = None
        for item in found["listed"]:
            if isinstance(item, Failure):
                yield self._failed(item)
            elif kept is None:
                kept = item
            else:
                kept, other = sorted((kept, item), key=canonical)
                yield self._failed(_duplicate(other))
        if kept is not None:
            yield from self._selected(kept, done=any(True for _ in found.get("without", ())))
        elif self._only and not any(True for _ in found["listed"]):
            error = VisionError(
                Reason.NO_LONGER_LISTED, f"{key} was asked for, but the source has it no more"
            )
            yield self._failed(failure(error, ImageRef(key=key, uri=key), Stage.SOURCE))

    def _selected(self, ref: Any, *, done: bool) -> Iterator[Any]:
        metrics.count(metrics.LISTED)
        if done:
            metrics.count(metrics.RESUMED)
            yield TaggedOutput(ALREADY_DONE, 1)
        else:
            yield ref

    def _failed(self, item: Failure) -> TaggedOutput:
        metrics.count(metrics.LISTED)
        metrics.count_failure(item.reason)
        return TaggedOutput(FAILED, dataclasses.replace(item, **self._stamp))


class _Smallest(beam.PTransform):
    """The smallest ``count`` elements."""

    def __init__(self, count: int, key: Any = None) -> None:
        super().__init__()
        self._count = count
        self._key = key

    def expand(self, values: beam.PCollection) -> beam.PCollection:
        smallest = beam.combiners.Top.Smallest(self._count, key=self._key)
        return values | "Smallest" >> smallest | "Each" >> beam.FlatMap(list)


def canonical(item: Any) -> str:
    """A text for a ref or a Failure that is the same whenever its content is."""
    return json.dumps(dataclasses.asdict(item), sort_keys=True)


def _duplicate(ref: Any) -> Failure:
    about = f" (this one with labels {list(ref.labels)})" if ref.labels else ""
    error = VisionError(
        Reason.DUPLICATE_KEY,
        f"{ref.uri} has a key that was listed before{about}; the first by content was kept",
    )
    return failure(error, ref, Stage.SOURCE)


def _order(keyed: tuple[str, Any]) -> tuple[str, str]:
    return keyed[0], canonical(keyed[1])


def _with_none(key: str) -> tuple[str, None]:
    return key, None
