"""What the metrics of a run come to."""

from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import measured, metrics
from beam_vision.metrics import Spread

DOCS = Path(__file__).parent.parent / "docs"
NAMES = {
    value
    for name, value in vars(metrics).items()
    if name.isupper() and isinstance(value, str) and name != "NAMESPACE"
}


def test_every_metric_has_one_meaning_and_the_docs_show_it():
    assert set(measured.MEANINGS) == NAMES
    assert measured.table() in (DOCS / "metrics.md").read_text()


@given(st.lists(st.integers(-1000, 1000), min_size=1), st.lists(st.integers(-1000, 1000), min_size=1))
def test_spreads_merge_to_that_of_all_values(ones, others):
    def of(values):
        tally = metrics.Tally()
        for value in values:
            tally.add_observation("x", value)
        return tally.spreads()["x"]

    assert of(ones).merged(of(others)) == of(ones + others)
    assert of(ones) == Spread(len(ones), sum(ones), min(ones), max(ones))


class Counted(beam.DoFn):
    def process(self, number):
        metrics.count(metrics.READ)
        metrics.count_failure("corrupt" if number % 2 else "truncated")
        metrics.observe(metrics.BATCH_SIZE, number)
        yield number


def test_beams_results_sum_over_the_steps_that_count_alike():
    metrics.TALLY.clear()
    pipeline = beam.Pipeline(runner=FnApiRunner())
    numbers = pipeline | beam.Create([3, 4, 8])
    _ = numbers | "One" >> beam.ParDo(Counted()) | "Two" >> beam.ParDo(Counted())
    result = pipeline.run()
    result.wait_until_finish()
    found = measured.from_results(result.metrics())
    assert found.counters == {
        "images_read": 6,
        "images_failed": 6,
        "images_failed_corrupt": 2,
        "images_failed_truncated": 4,
    }
    assert found.spreads == {"batch_size": Spread(count=6, sum=30, min=3, max=8)}
    assert found == measured.from_tally()


def test_the_share_that_the_model_waited():
    def waited(wait_ms, model_ms):
        spreads = {metrics.DECODE_WAIT_MS: Spread(1, wait_ms, wait_ms, wait_ms)}
        return measured.waited_share(
            measured.Measured({}, spreads | {metrics.INFERENCE_MS: Spread(2, model_ms, 1, model_ms)})
        )

    assert (waited(0, 100), waited(300, 100), waited(100, 0)) == (0.0, 0.75, 1.0)
    assert measured.waited_share(measured.Measured()) is None


def test_a_report_has_units_and_leaves_out_what_did_not_happen():
    found = measured.Measured(
        {"images_read": 4, "images_failed_corrupt": 1}, {"decode_ms_per_image": Spread(4, 8, 1, 3)}
    )
    accounts = {"job": "predict", "run_id": "r", "inputs": 5, "wall_sec": 2.0, "images_per_sec": 2.5}
    told = measured.report(accounts, found, runner="FnApiRunner", cost={"usd": None, "why": "local"})
    assert told["counters"]["images_failed_corrupt"] == {"value": 1, "unit": "images"}
    assert told["distributions"]["decode_ms_per_image"] == {
        **{"count": 4, "sum": 8, "min": 1, "max": 3, "mean": 2.0, "unit": "ms"}
    }
    assert told["stage_sec"] == {"decode": 0.008}
    assert told["rates"]["model_images_per_sec"] is None
    assert told["accounts"] == {"inputs": 5}


def test_what_was_never_observed_took_no_time():
    assert measured.Measured().sum_sec(metrics.READ_MS) == 0.0
    assert measured.stage_seconds(measured.Measured()) == {}
    assert pytest.approx(0.5) == measured.Measured({}, {"x": Spread(1, 500, 500, 500)}).sum_sec("x")
