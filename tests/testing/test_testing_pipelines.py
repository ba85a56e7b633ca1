"""Run-to-a-list keeps the shape of what was built."""

import apache_beam as beam
import pytest

from beam_vision import metrics
from beam_vision.failures import Outcome
from beam_vision.testing.pipelines import collect, collect_with_counters


def count_and_pass(value):
    metrics.count(metrics.READ)
    metrics.count(metrics.READ_BYTES, value)
    return value


def test_a_pcollection_becomes_a_list():
    assert sorted(collect(lambda p: p | beam.Create([1, 2, 2]))) == [1, 2, 2]
    assert collect(lambda p: p | beam.Create([])) == []


def test_named_tuples_tuples_and_dicts_keep_their_shape():
    def build(p):
        numbers = p | beam.Create([1, 2, 3])
        return Outcome(good=numbers, failed=numbers | beam.Filter(lambda value: value > 2))

    good, failed = outcome = collect(build)
    assert isinstance(outcome, Outcome)
    assert (sorted(good), failed) == ([1, 2, 3], [3])
    assert collect(lambda p: tuple(build(p)))[1] == [3]
    assert collect(lambda p: {"failed": build(p).failed}) == {"failed": [3]}


def test_counters_come_with_the_outputs():
    values, counters = collect_with_counters(lambda p: p | beam.Create([5, 7]) | beam.Map(count_and_pass))
    assert sorted(values) == [5, 7]
    assert counters == {metrics.READ: 2, metrics.READ_BYTES: 12}


def test_an_error_of_the_pipeline_reaches_the_test():
    with pytest.raises(ZeroDivisionError):
        collect(lambda p: p | beam.Create([0]) | beam.Map(lambda value: 1 / value))
