"""What a run measured, from whatever runner, and ``--metrics_file``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from beam_vision import measured, storage
from beam_vision.measured import Measured
from beam_vision.pipelines.submission import without_tracebacks


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run that ended.

    Attributes:
      runner: what ran it.
      measured: our metrics.
      used: on Dataflow what the service counted for the bill, by its own names (``TotalVcpuTime`` ...).
      gpu: the short name of its workers' GPU.
      notes: what couldn't be read.
      template: where the job was written instead of being run (``--template_location``); empty: it ran.
    """

    runner: str = "none"
    measured: Measured = field(default_factory=Measured)
    used: Mapping[str, float] | None = None
    gpu: str = ""
    notes: tuple[str, ...] = ()
    template: str = ""

    @property
    def stage_sec(self) -> dict[str, float]:
        """Seconds in each stage, summed over threads and workers."""
        return measured.stage_seconds(self.measured)


def ran(result: Any, runner: str) -> Ran:
    """What a pipeline's result says of its run.

    Metrics are no part of a job's result, so one that can't be read is a note.
    """
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    asking = (GoogleAPIError, GoogleAuthError, OSError)  # of a service
    reading = (RuntimeError, NotImplementedError, LookupError, ValueError)  # of an answer
    try:
        with without_tracebacks():
            ours = measured.from_results(result.metrics())
            return Ran(runner=runner, measured=ours, used=service_use(result))
    except (*asking, *reading) as error:
        return Ran(runner=runner, notes=(f"the runner's metrics can't be read: {error}",))


def service_use(result: Any) -> dict[str, float] | None:
    """What Dataflow counted for the bill: ``TotalVcpuTime`` (s), ``TotalMemoryUsage`` (MB s),
    ``TotalGpuTime`` (s), ``BillableShuffleDataProcessed`` (GB) ...; None elsewhere."""
    from apache_beam.runners.dataflow.dataflow_metrics import DataflowMetrics

    results = result.metrics()
    if not isinstance(results, DataflowMetrics):
        return None
    found = results.all_metrics(result.job_id())
    totals = [item for item in found if item.key.metric.name.startswith(("Total", "Billable"))]
    return {item.key.metric.name: float(item.result) for item in totals if item.result is not None}


def cost_of(ran: Ran) -> dict[str, Any]:
    """What the run cost, by the list prices that come with us, or why that isn't known."""
    if ran.used is None:
        why = ran.notes[0] if ran.notes else f"{ran.runner} doesn't count what is billed"
        return {"usd": None, "why": why}
    from beam_vision.planning.bill import cost_of_use
    from beam_vision.planning.prices import read_prices

    return cost_of_use(ran.used, read_prices(), gpu=ran.gpu)


def write_metrics(path: str, accounts: Mapping[str, Any], ran: Ran) -> None:
    """Writes ``--metrics_file``, where one is asked for."""
    if path:
        told = measured.report(accounts, ran.measured, runner=ran.runner, cost=cost_of(ran))
        storage.write_json(path, told | {"notes": [*accounts.get("notes", []), *ran.notes]})
