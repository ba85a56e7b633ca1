"""The estimate, worked out by hand, and what must hold whatever was measured."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.planning import estimate as estimates
from beam_vision.planning.estimate import Assumed, Range, draw, estimate, workers_for
from beam_vision.planning.measure import Seen, Timed
from beam_vision.planning.prices import Machine, read_prices
from beam_vision.types import ImageRef

PRICES = read_prices()
CPU = Machine(name="n1-standard-4", vcpus=4, memory_gb=15, disk_gb=25)
L4 = Machine(name="g2-standard-8", vcpus=8, memory_gb=32, disk_gb=50, gpu="l4", gpus=1)
PLAIN = Assumed(efficiency=0.5, startup_cpu_sec=100.0, startup_gpu_sec=200.0)


def seen(decode_sec, *, rows=1, read_cpu_sec=0.0, read_wall_sec=0.0):
    return Seen(
        ref=ImageRef(key="k", uri="u"),
        n_bytes=1000,
        read_cpu_sec=read_cpu_sec,
        read_wall_sec=read_wall_sec,
        steps_sec={"decode": decode_sec},
        rows=rows,
    )


def draws_of(decode_sec=0.010, model_sec=0.030, results_sec=0.0, **kwargs):
    timed = [Timed(32, 32 * model_sec, 16 * model_sec, 32 * results_sec)] * 3 if model_sec else []
    return draw([seen(decode_sec, **kwargs)] * 5, timed)


def same(found: Range, value):
    assert dataclasses.astuple(found) == pytest.approx((value, value, value))


def test_a_worker_without_a_gpu_by_hand():
    found = estimate(CPU, 360_000, draws_of(), PRICES, PLAIN)
    same(found.images_per_sec, 4 * 0.5 / 0.040)  # 50 a second
    assert found.limit == "model"
    assert found.workers == 3  # 2 would take 3600 s, and 100 s to start
    same(found.run_sec, 100 + 360_000 / 150)
    hour = 4 * 0.056 + 15 * 0.003557 + 25 * 0.000054
    assert found.worker_hour == pytest.approx(hour)
    same(found.cost, 3 * 2500 / 3600 * hour)
    same(found.cost_per_million, 1e6 / 50 / 3600 * hour)
    assert found.in_time
    assert found.gpu_busy is None


def test_a_gpu_that_waits_for_decoding_by_hand():
    assumed = dataclasses.replace(PLAIN, gpu_images_per_sec={"l4": 1000.0})
    found = estimate(L4, 1_000_000, draws_of(), PRICES, assumed)
    same(found.images_per_sec, 8 * 0.5 / 0.010)  # 400 decoded a second, the GPU could take 1000
    assert found.limit == "decode"
    same(found.gpu_busy, 0.4)
    same(found.vcpus_per_gpu, 1000 * 0.010 / 0.5)  # 20
    hour = 8 * 0.056 + 32 * 0.003557 + 50 * 0.000054 + 0.672
    same(found.cost_per_million, 1e6 / 400 / 3600 * hour)


def test_with_as_many_vcpus_as_the_ratio_says_the_gpu_is_just_busy():
    assumed = dataclasses.replace(PLAIN, gpu_images_per_sec={"l4": 1000.0})
    draws = draws_of()
    at = [
        estimate(dataclasses.replace(L4, vcpus=vcpus), 1000, draws, PRICES, assumed) for vcpus in (19, 20, 21)
    ]
    assert [item.limit for item in at[::2]] == ["decode", "model"]
    assert at[0].gpu_busy.value == pytest.approx(0.95)
    assert at[1].gpu_busy.value == pytest.approx(1.0)
    assert at[2].images_per_sec.value == pytest.approx(1000)


def test_a_gpus_factor_is_a_range_and_as_many_vcpus_as_it_says():
    draws = draws_of(decode_sec=1e-6)
    found = estimate(dataclasses.replace(L4, vcpus=1000), 1000, draws, PRICES, PLAIN)
    low, likely, high = PRICES.gpu_speed_vcpus["l4"]
    assert found.limit == "model"
    assert found.images_per_sec.value == pytest.approx(likely / 0.030, rel=0.1)
    assert low / 0.030 < found.images_per_sec.low < 0.7 * likely / 0.030
    assert 1.4 * likely / 0.030 < found.images_per_sec.high < high / 0.030


def test_one_process_bounds_a_worker_with_a_gpu():
    timed = [Timed(32, 32 * 0.001, 32 * 0.001, 32 * 0.003)] * 2
    draws = draw([seen(0.0001)] * 3, timed, beam_ms=2.0)
    found = estimate(dataclasses.replace(L4, vcpus=96), 1000, draws, PRICES, PLAIN)
    assert found.limit == estimates.ONE_PROCESS
    same(found.images_per_sec, 1 / 0.005)


def test_slow_files_bound_a_worker():
    found = estimate(CPU, 1000, draws_of(read_wall_sec=10.0), PRICES, PLAIN)
    assert found.limit == "waiting for files"
    same(found.images_per_sec, 4 * estimates.READS_AT_ONCE / 10)


def test_rows_multiply_the_models_time_and_readings_that_of_reading():
    draws = draw([seen(0.0, rows=4, read_cpu_sec=0.001)] * 2, [Timed(8, 0.8, 0.4, 0.08)], reads=2)
    assert draws.model_sec == pytest.approx(0.4)
    assert draws.model_wall_sec == pytest.approx(0.2)
    assert draws.steps_sec["results"] == pytest.approx(0.04)
    assert draws.steps_sec["read"] == pytest.approx(0.002)


def test_images_that_differ_give_an_interval_that_holds_their_mean_and_narrows():
    rng = np.random.default_rng(1)
    widths = []
    for n in (20, 500):
        times = rng.exponential(0.010, n)
        found = estimate(CPU, 1000, draw([seen(t) for t in times], []), PRICES, PLAIN)
        rate = found.images_per_sec
        assert rate.low < 2 / times.mean() < rate.high
        widths.append(rate.high / rate.low)
    assert 1.1 < widths[1] < 1.3 < widths[0]


def test_a_stream_pays_whole_workers_all_the_time_and_the_shuffle_of_its_files():
    streaming = Assumed(efficiency=0.5, startup_cpu_sec=0.0, mode="streaming")
    images = 120 * 3600  # a worker takes 50 a second
    found = estimate(CPU, images, draws_of(), PRICES, streaming, shuffled_bytes=2**30 / 1e3)
    hour = 4 * 0.069 + 15 * 0.0035557 + 25 * 0.000054
    assert found.worker_hour == pytest.approx(hour)
    assert (found.workers, found.in_time) == (3, True)
    same(found.run_sec, 3600)
    same(found.cost, 3 * hour + images / 1e3 * 0.018)
    same(found.cost_per_million, 1e6 / images * 3 * hour + 1e3 * 0.018)


def test_a_batch_jobs_shuffle_is_paid():
    found = estimate(CPU, 1000, draws_of(), PRICES, PLAIN, shuffled_bytes=2**30 / 1e3)
    without = estimate(CPU, 1000, draws_of(), PRICES, PLAIN)
    assert found.cost.value - without.cost.value == pytest.approx(0.011)
    assert found.cost_per_million.value - without.cost_per_million.value == pytest.approx(1e3 * 0.011)


@given(
    st.integers(1, 10**8), st.floats(0.01, 1e5), st.floats(0, 5000), st.floats(1, 10**5), st.integers(0, 50)
)
def test_workers_are_done_in_time_and_one_less_is_not(images, rate, startup_sec, deadline_sec, most):
    workers = workers_for(images, rate, startup_sec, Assumed(deadline_sec=deadline_sec, most_workers=most))
    assert 1 <= workers <= max(1, most or images)

    def run_sec(number):
        return startup_sec + images / (number * rate)

    if run_sec(workers) > deadline_sec * (1 + 1e-6):
        assert workers == (most or images)
    elif workers > 1:
        assert run_sec(workers - 1) > deadline_sec * (1 - 1e-6)


def test_a_job_that_can_not_be_in_time_says_so():
    few = dataclasses.replace(PLAIN, most_workers=2)
    found = estimate(CPU, 360_000, draws_of(), PRICES, few)
    assert (found.workers, found.in_time) == (2, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"efficiency": 0.0}, "--efficiency is 0.0"),
        ({"efficiency": 1.5}, "--efficiency is 1.5"),
        ({"vcpu_speed": 0.0}, "vcpu_speed is 0.0"),
        ({"gpu_images_per_sec": {"l4": 0.0}}, "l4=0.0"),
    ],
)
def test_what_can_not_be_assumed(settings, message):
    with pytest.raises(UsageError, match=message):
        Assumed(**settings)
