"""Runs transforms in this process and gives what came out as lists.

>>> good, failed = collect(lambda p: p | ListImages("lake"))
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import beam_vision.coders  # noqa: F401  (the coders of our types)
from beam_vision.metrics import NAMESPACE

_OUTPUTS: dict[int, list] = {}
_NUMBERS = itertools.count()


class _KeepDoFn(beam.DoFn):
    """Appends to a list of this process; FnApiRunner's workers are threads of it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def process(self, element: Any) -> None:
        _OUTPUTS[self._number].append(element)


def collect(build: Callable[[beam.Pipeline], Any]) -> Any:
    """Runs what ``build`` builds and gives its outputs as lists.

    Args:
      build: takes the pipeline and returns a PCollection, or a tuple, named tuple or dict of them.

    Returns:
      The same shape with a list in place of each PCollection. The order within a list is not defined.
    """
    return collect_with_counters(build)[0]


def collect_with_counters(build: Callable[[beam.Pipeline], Any]) -> tuple[Any, dict[str, int]]:
    """As :func:`collect`, with the value of each of our counters (see :mod:`beam_vision.metrics`)."""
    numbers: list[int] = []
    try:
        pipeline = beam.Pipeline(runner=FnApiRunner())
        shape = _map(build(pipeline), lambda pcoll: _keep(pcoll, numbers))
        result = pipeline.run()
        result.wait_until_finish()
        counters = result.metrics().query(beam.metrics.MetricsFilter().with_namespace(NAMESPACE))["counters"]
        totals = {counter.key.metric.name: 0 for counter in counters}
        for counter in counters:
            totals[counter.key.metric.name] += counter.committed
        return _map(shape, lambda number: _OUTPUTS[number]), totals
    finally:
        for number in numbers:
            _OUTPUTS.pop(number, None)


def _keep(pcoll: beam.PCollection, numbers: list[int]) -> int:
    number = next(_NUMBERS)
    numbers.append(number)
    _OUTPUTS[number] = []
    _ = pcoll | f"Keep {number}" >> beam.ParDo(_KeepDoFn(number))
    return number


def _map(shape: Any, fn: Callable[[Any], Any]) -> Any:
    """``shape`` with ``fn`` applied to each leaf."""
    if isinstance(shape, Mapping):
        return {name: fn(leaf) for name, leaf in shape.items()}
    if isinstance(shape, tuple):
        leaves = [fn(leaf) for leaf in shape]
        return type(shape)(*leaves) if hasattr(shape, "_fields") else tuple(leaves)
    return fn(shape)
