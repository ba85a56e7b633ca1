import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.streaming.sketch import RELATIVE_ERROR, SMALLEST, Sketch, merged, sketch_of

NUMBERS = st.floats(-1e9, 1e9)


@given(st.lists(NUMBERS, min_size=1), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_within_one_percent(numbers, q):
    exact = sorted(numbers)[math.floor(q * (len(numbers) - 1))]
    found = sketch_of(numbers).quantile(q)
    assert abs(found - exact) <= RELATIVE_ERROR * abs(exact) * (1 + 1e-9) + SMALLEST


@given(st.lists(NUMBERS), st.lists(NUMBERS), st.lists(NUMBERS))
def test_merging_is_as_if_made_at_once_in_any_order(a, b, c):
    whole = sketch_of(a + b + c)
    assert merged(merged(sketch_of(a), sketch_of(b)), sketch_of(c)) == whole
    assert merged(sketch_of(c), merged(sketch_of(b), sketch_of(a))) == whole


def test_merging_changes_neither():
    a, b = sketch_of([1, 2, 3]), sketch_of([2])
    merged(a, b)
    assert (a, b) == (sketch_of([1, 2, 3]), sketch_of([2]))


def test_of_nothing_there_is_no_quantile():
    assert sketch_of([]).quantile(0.5) is None
    assert Sketch().count == 0


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_what_is_no_finite_number_is_left_out(number):
    assert sketch_of([1.0, number]) == sketch_of([1.0])


def test_extreme_numbers_stay_in_bounds():
    sketch = sketch_of([0.0, 1e-300, 1e300, -1e300])
    assert sketch.count == 4
    assert sketch.quantile(0) < -1e80
    assert sketch.largest == 1e300


def test_latencies_of_a_minute_take_little_room():
    latencies = np.random.default_rng(0).lognormal(4.5, 0.8, 1800)
    sketch = sketch_of(latencies)
    assert len(sketch.buckets) < 300
    assert sketch.quantile(0.95) == pytest.approx(np.quantile(latencies, 0.95), rel=0.02)
