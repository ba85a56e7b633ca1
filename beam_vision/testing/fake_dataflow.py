"""A Dataflow service on loopback: it takes jobs from Beam's own runner, runs them, and says how it went.

The job is what the service would get: the staged pipeline, with container images for workers. Its steps run
on ``FnApiRunner`` in this process, from that staged file alone; what the submitter does afterwards finds what
workers wrote.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
import traceback
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apache_beam.metrics.metric import MetricResults
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.portability.fn_api_runner.fn_runner import RunnerResult
from apache_beam.transforms.environments import EmbeddedPythonEnvironment

_JOBS = re.compile(r"/v1b3/projects/(?P<project>[^/]+)/locations/(?P<region>[^/]+)/jobs\Z")
_JOB = re.compile(
    r"/v1b3/projects/[^/]+/locations/[^/]+/jobs/(?P<id>[^/]+?)(?:/(?P<what>messages|metrics))?\Z"
)

SERVICE_METRICS = {
    "TotalVcpuTime": "Service-cpu_num_seconds",
    "TotalMemoryUsage": "Service-mem_mb_seconds",
    "TotalPdUsage": "Service-pd_gb_seconds",
    "TotalSsdUsage": "Service-pd_ssd_gb_seconds",
    "TotalGpuTime": "Service-gpu_num_seconds",
    "TotalShuffleDataProcessed": "Service-shuffle_service_actual_gb",
    "BillableShuffleDataProcessed": "Service-shuffle_service_chargeable_gb",
}
"""What the service counts for the bill, and its other name, which tells the unit (the GPU's by analogy)."""


@dataclass
class Sent:
    """A job that was taken.

    Attributes:
      body: the job as it was sent.
      region: in its path.
      id: of the service's.
      state: such as ``JOB_STATE_RUNNING``.
      messages: what the service says of it.
      metrics: what it measured, as the service gives it.
    """

    body: dict[str, Any]
    region: str
    id: str
    state: str = "JOB_STATE_PENDING"
    messages: list[dict[str, str]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)

    def say(self, importance: str, text: str) -> None:
        """A message, now."""
        self.messages.append(
            {
                "id": str(len(self.messages)),
                "time": _now(),
                "messageText": text,
                "messageImportance": f"JOB_MESSAGE_{importance}",
            }
        )

    @property
    def answer(self) -> dict[str, Any]:
        """What the service gives for it."""
        given = {"id": self.id, "currentState": self.state, "name": self.body.get("name", "")}
        return given | {"type": self.body.get("type", ""), "location": self.region}


@dataclass
class FakeDataflow:
    """The service; use it in a ``with`` block.

    Attributes:
      refusal: the HTTP status and the message with which jobs are refused; None: they are taken.
      ending: the state and the error message with which a job ends without being run; None: it is run.
      taken_id: the id of a job of the same name that runs already, and is given instead; ``""``: none does.
      used: what it counts for the bill of each job, by the names of :data:`SERVICE_METRICS`.
      metrics_refusal: the HTTP status and the message with which it refuses to say what a job measured.
      jobs: those that were taken, in order.
    """

    refusal: tuple[int, str] | None = None
    ending: tuple[str, str] | None = None
    taken_id: str = ""
    used: dict[str, float] = field(default_factory=dict)
    metrics_refusal: tuple[int, str] | None = None
    jobs: list[Sent] = field(default_factory=list)

    def __enter__(self) -> FakeDataflow:
        handler = type("Handler", (_Handler,), {"service": self})
        self._threads: list[threading.Thread] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join(60)
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        """For ``--dataflow_endpoint``."""
        return f"http://localhost:{self._server.server_address[1]}"

    def take(self, body: dict[str, Any], region: str) -> tuple[int, dict[str, Any]]:
        """Answers a job that is sent, and begins to run it."""
        if self.refusal:
            return _error(*self.refusal)
        if self.taken_id:
            return 200, {"id": self.taken_id, "name": body["name"], "clientRequestId": "of-another-request"}
        job = Sent(body, region, f"2026-01-01_00_00_00-{len(self.jobs)}")
        self.jobs.append(job)
        answer = job.answer | {"clientRequestId": body.get("clientRequestId", "")}
        thread = threading.Thread(target=self._run, args=(job,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return 200, answer

    def find(self, job_id: str, what: str) -> tuple[int, dict[str, Any]]:
        """Answers what is asked of a job: itself, its messages or its metrics."""
        job = next((one for one in self.jobs if one.id == job_id), None)
        if job is None:
            return _error(404, f"(1234): Information about job {job_id} could not be found.")
        if what == "metrics" and self.metrics_refusal:
            return _error(*self.metrics_refusal)
        answers: dict[str, dict[str, Any]] = {
            "messages": {"jobMessages": job.messages},
            "metrics": {"metrics": job.metrics, "metricTime": _now()},
        }
        return 200, answers.get(what, job.answer)

    def _run(self, job: Sent) -> None:
        job.state = "JOB_STATE_RUNNING"
        job.say("BASIC", "Worker configuration: as asked.")
        state, said = self.ending or _run_staged(job)
        for name, value in self.used.items():
            context = {"original_name": SERVICE_METRICS[name]}
            job.metrics += _both("dataflow/v1b3", name, context, scalar=value)
        if said:
            job.say("ERROR", said)
        job.state = state


def _run_staged(job: Sent) -> tuple[str, str]:
    """Runs a job from its staged pipeline; its last state, and what went wrong. Keeps what it measured."""
    options = job.body["environment"]["sdkPipelineOptions"]["options"]
    proto = beam_runner_api_pb2.Pipeline.FromString(Path(options["pipelineUrl"]).read_bytes())
    try:
        result = run_here(proto)
    except Exception:  # noqa: BLE001  (the service says of whatever a worker raised)
        return "JOB_STATE_FAILED", traceback.format_exc()
    job.metrics += _user_metrics(result.metrics(), proto)
    return "JOB_STATE_DONE", ""


def run_here(proto: beam_runner_api_pb2.Pipeline) -> RunnerResult:
    """Runs a pipeline as it was staged, but its workers in this process and not in their containers."""
    here = EmbeddedPythonEnvironment.default().to_runner_api(None)
    for environment in proto.components.environments.values():
        hints = dict(environment.resource_hints)
        environment.CopyFrom(here)
        environment.resource_hints.update(hints)
    return FnApiRunner().run_via_runner_api(proto, PipelineOptions([]))


def _user_metrics(results: MetricResults, proto: beam_runner_api_pb2.Pipeline) -> list[dict[str, Any]]:
    """A pipeline's own counters and distributions, step by step, as the service gives them."""
    ids = {one.unique_name: name for name, one in proto.components.transforms.items()}
    found, updates = results.query(), []
    for item in (*found["counters"], *found["distributions"]):
        name, namespace = item.key.metric.name, item.key.metric.namespace
        context = {"namespace": namespace, "step": ids.get(item.key.step, item.key.step)}
        if isinstance(item.result, int):
            updates += _both("user", name, context, scalar=item.result)
            continue
        parts = {part: getattr(item.result, part) for part in ("count", "sum", "min", "max")}
        updates += _both("user", name, context, distribution=parts)
        for part in ("count", "min", "max", "mean"):  # for its pages: each stands alone, too
            updates += _both("user", f"{name}_{part.upper()}", context, scalar=getattr(item.result, part))
    return updates


def _both(origin: str, name: str, context: dict[str, str], **value: Any) -> list[dict[str, Any]]:
    """A metric as it was attempted and as it was committed; the service gives both."""
    contexts = ({**context, "tentative": "true"}, context)
    return [
        {"name": {"origin": origin, "name": name, "context": one}, "updateTime": _now(), **value}
        for one in contexts
    ]


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat().replace("+00:00", "Z")


def _error(code: int, said: str) -> tuple[int, dict[str, Any]]:
    return code, {"error": {"code": code, "message": said}}


class _Handler(BaseHTTPRequestHandler):
    service: FakeDataflow

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        found = _JOBS.match(urlsplit(self.path).path)
        self._answer(*(self.service.take(body, found["region"]) if found else _error(404, self.path)))

    def do_GET(self) -> None:
        found = _JOB.match(urlsplit(self.path).path)
        self._answer(*(self.service.find(found["id"], found["what"]) if found else _error(404, self.path)))

    def _answer(self, code: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""
