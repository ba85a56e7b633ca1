"""What the metrics of a run came to: read from Beam's result, and told in one JSON file.

The table of all metrics, with unit and meaning, is :data:`MEANINGS`; ``docs/metrics.md`` shows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision import metrics
from beam_vision.metrics import Spread


@dataclass(frozen=True)
class Meaning:
    """What a metric is.

    Attributes:
      kind: ``counter``, or ``distribution`` (count, sum, min, max and mean of what was observed).
      unit: of the counter, or of each observation.
      text: what it counts.
    """

    kind: str
    unit: str
    text: str


def _counter(unit: str, text: str) -> Meaning:
    return Meaning("counter", unit, text)


def _distribution(unit: str, text: str) -> Meaning:
    return Meaning("distribution", unit, text)


MEANINGS: Mapping[str, Meaning] = {
    metrics.LISTED: _counter("images", "found by the listing, each key once, and each refused duplicate"),
    metrics.SKIPPED_FILES: _counter("files", "passed over by the listing: their names are no images'"),
    metrics.READ: _counter("images", "whose bytes were read"),
    metrics.READ_BYTES: _counter("bytes", "of encoded images read"),
    metrics.DECODED: _counter("images", "decoded for a model"),
    metrics.INFERRED: _counter("images", "for which the model gave an answer"),
    metrics.DONE: _counter("images", "finished: row staged or record written"),
    metrics.FAILED: _counter("images", "failed, in all; `images_failed_REASON` counts each reason"),
    metrics.RESUMED: _counter("images", "left out because an earlier run had finished them (`--resume`)"),
    metrics.BATCHES: _counter("batches", "given to the model"),
    metrics.BISECTED: _counter("batches", "halved to find the image that the model fails on"),
    metrics.HALVED: _counter("batches", "halved because the device's memory was short"),
    metrics.MESSAGES: _counter("messages", "taken by a stream"),
    metrics.MESSAGES_SKIPPED: _counter("messages", "that are no images, by their attributes"),
    metrics.DUPLICATES: _counter("frames", "seen before: same camera and capture time"),
    metrics.GATED: _counter("frames", "not predicted, because they show what the last one showed"),
    metrics.SAVED_MS: _counter("ms", "of inference that gating saved, by the mean time of an image"),
    metrics.TOO_LATE: _counter("observations", "too late for the counts of their window"),
    metrics.LATE_ROWS: _counter("rows", "written to a window that had been written before"),
    metrics.ALERTS: _counter("alerts", "raised for cameras"),
    metrics.SWAPS: _counter("models", "swapped in while a stream ran"),
    metrics.REFUSED_MODELS: _counter("models", "refused when they were to be swapped in"),
    metrics.PUBLISHED: _counter("messages", "published"),
    metrics.APPENDED: _counter("rows", "appended to a table of BigQuery"),
    metrics.REFUSED_ROWS: _counter("rows", "that BigQuery refused; they are failures"),
    metrics.BATCH_SIZE: _distribution("images", "in a batch given to the model"),
    metrics.READ_MS: _distribution("ms", "to read a batch of images, over the threads that share it"),
    metrics.DECODE_MS: _distribution("ms", "to decode an image, in its thread"),
    metrics.DECODE_WAIT_MS: _distribution("ms", "that the model stood idle until a batch was decoded"),
    metrics.INFERENCE_MS: _distribution("ms", "that the model took for a batch"),
    metrics.MODEL_LOAD_MS: _distribution("ms", "to load a model; its count is the number of copies loaded"),
}


_ACCOUNTS = (
    *("inputs", "outputs", "failed", "already_done", "failed_by_reason"),
    *("digests", "output", "failures"),
)
"""What of a summary stands in the metrics file, too."""


@dataclass(frozen=True)
class Measured:
    """All of our metrics of a run, summed over steps and workers.

    Attributes:
      counters: by name.
      spreads: of distributions, by name.
    """

    counters: Mapping[str, int] = field(default_factory=dict)
    spreads: Mapping[str, Spread] = field(default_factory=dict)

    def sum_sec(self, name: str) -> float:
        """What a distribution of milliseconds sums to, in seconds; 0 where nothing was observed."""
        return self.spreads[name].sum / 1000 if name in self.spreads else 0.0


def from_tally() -> Measured:
    """What this process has counted since the tally was cleared."""
    return Measured(metrics.TALLY.counts(), metrics.TALLY.spreads())


def from_results(results: Any) -> Measured:
    """Our metrics in Beam's ``MetricResults``, of whatever runner; committed values where it knows them."""
    from apache_beam.metrics import MetricsFilter

    found = results.query(MetricsFilter().with_namespace(metrics.NAMESPACE))
    counters: dict[str, int] = {}
    for item in found["counters"]:
        name = item.key.metric.name
        counters[name] = counters.get(name, 0) + int(item.result or 0)  # Prism: None for 0
    spreads: dict[str, Spread] = {}
    for item in found["distributions"]:
        value = item.result
        if value is not None and value.count:
            one = Spread(int(value.count), int(value.sum), int(value.min), int(value.max))
            name = item.key.metric.name
            spreads[name] = spreads[name].merged(one) if name in spreads else one
    return Measured(counters, spreads)


def stage_seconds(measured: Measured) -> dict[str, float]:
    """Seconds in each stage, summed over threads and workers; stages that didn't happen are left out."""
    names = {
        "read": metrics.READ_MS,
        "decode": metrics.DECODE_MS,
        "wait for decode": metrics.DECODE_WAIT_MS,
        "inference": metrics.INFERENCE_MS,
        "model load": metrics.MODEL_LOAD_MS,
    }
    happened = {label: name for label, name in names.items() if name in measured.spreads}
    return {label: round(measured.sum_sec(name), 3) for label, name in happened.items()}


def waited_share(measured: Measured) -> float | None:
    """The share of a model's time that it stood idle, waiting for images to be decoded; None without a model.

    ``wait / (wait + inference)``, both summed over model copies. Near 0 the model is the limit; near 1
    decoding is, and more processor cores for each model copy bring speed.
    """
    waited, ran = measured.sum_sec(metrics.DECODE_WAIT_MS), measured.sum_sec(metrics.INFERENCE_MS)
    return round(waited / (waited + ran), 4) if waited + ran > 0 else None


def report(
    accounts: Mapping[str, Any], measured: Measured, *, runner: str, cost: Mapping[str, Any]
) -> dict[str, Any]:
    """The content of ``--metrics_file``.

    Args:
      accounts: a run's summary, as plain JSON values.
      measured: what its metrics came to.
      runner: what ran it.
      cost: what it cost, or why that isn't known.
    """
    wall_sec = accounts["wall_sec"]
    model_sec = measured.sum_sec(metrics.INFERENCE_MS)
    return {
        "kind": "beam-vision metrics",
        "version": 1,
        "job": accounts["job"],
        "run_id": accounts["run_id"],
        "runner": runner,
        "accounts": {name: accounts[name] for name in _ACCOUNTS if name in accounts},
        "wall_sec": round(wall_sec, 3),
        "rates": {
            "images_per_sec": round(accounts["images_per_sec"], 3),
            "read_bytes_per_sec": _rate(measured.counters.get(metrics.READ_BYTES), wall_sec),
            "model_images_per_sec": _rate(measured.counters.get(metrics.INFERRED), model_sec),
        },
        "stage_sec": stage_seconds(measured),
        "model_waited_share": waited_share(measured),
        "cost": dict(cost),
        "counters": {
            name: _told(name, {"value": value}) for name, value in sorted(measured.counters.items())
        },
        "distributions": {
            name: _told(name, spread.to_json()) for name, spread in sorted(measured.spreads.items())
        },
    }


def _rate(amount: int | None, seconds: float) -> float | None:
    """How many a second; None where there were none, or no time was measured."""
    return round(amount / seconds, 3) if amount and seconds > 0 else None


def _told(name: str, value: dict[str, Any]) -> dict[str, Any]:
    meaning = MEANINGS.get(name) or MEANINGS[metrics.FAILED]  # images_failed_REASON
    return {**value, "unit": meaning.unit}


def table() -> str:
    """The metrics as a table in Markdown."""
    rows = [f"| `{name}` | {one.kind} | {one.unit} | {one.text} |" for name, one in MEANINGS.items()]
    return "\n".join(["| name | kind | unit | meaning |", "|---|---|---|---|", *rows])
