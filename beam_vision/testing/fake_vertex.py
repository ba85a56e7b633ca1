"""A Vertex AI for tests, on loopback: its job service over gRPC, its neighbours over REST.

The real client library talks to it. It checks requests as the service does, keeps quotas by region and metric
with the service's own words for an exceeded one, moves each job on by one state a look, and can have a job's
container really do its work here.

>>> with FakeVertex() as vertex:
...     os.environ.update(vertex.environment)
"""

from __future__ import annotations

import datetime
import itertools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.cloud.aiplatform_v1 import types
from google.protobuf import empty_pb2

from beam_vision.testing.fake_vertex_rest import Neighbours
from beam_vision.training.launch.vertex_api import EMULATOR_HOST, EMULATOR_REST

SERVICE = "google.cloud.aiplatform.v1.JobService"
Run = Callable[[list[str], Mapping[str, str], Callable[[str], None]], int]
ENDS = ("SUCCEEDED", "FAILED", "CANCELLED")
_GPUS = {"NVIDIA_TESLA_T4": "nvidia_t4_gpus", "NVIDIA_L4": "nvidia_l4_gpus"}
_LABEL = re.compile(r"[a-z0-9_-]{1,63}\Z")


@dataclass(frozen=True)
class Course:
    """What a job goes through.

    Attributes:
      states: one a look, the last one stays; as the ends of JobState's names.
      error: of a job that fails, the service's or the replica's words.
      lines: what its first replica says, one a look.
    """

    states: tuple[str, ...] = ("PENDING", "RUNNING", "SUCCEEDED")
    error: str = ""
    lines: tuple[str, ...] = ()


@dataclass
class FakeVertex:
    """The service; a context manager.

    Attributes:
      project: the only one that it knows.
      quotas: what is left, by (region, metric without ``aiplatform.googleapis.com/``); what isn't there isn't
        limited.
      courses: of the jobs to come, in order; when there are none left: the usual one.
      runs: what a job's container does, in a thread here, in place of a course: from its arguments, its
        environment and what takes its lines to its exit code.
      faults: of the requests to come, by method, in order: a gRPC code and a message that it fails with; a
        code after ``"done "`` is told though the request was done, as when an answer is lost.
      requests: what was asked for, in order: (method, message).
      neighbours: the other services.
    """

    project: str = "my-project"
    quotas: dict[tuple[str, str], int] = field(default_factory=dict)
    courses: list[Course] = field(default_factory=list)
    runs: Run | None = None
    faults: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    requests: list[tuple[str, Any]] = field(default_factory=list)
    neighbours: Neighbours = field(default_factory=Neighbours)

    def __post_init__(self) -> None:
        self.jobs: dict[str, _Job] = {}
        self._ids = itertools.count(4000000000000000001)
        self._lock = threading.Lock()

    def __enter__(self) -> FakeVertex:
        self._server = grpc.server(ThreadPoolExecutor(8))
        port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, dict(self._handlers())),)
        )
        self._server.start()
        self.neighbours.quotas = self.quotas
        rest = self.neighbours.start()
        self.environment = {EMULATOR_HOST: f"127.0.0.1:{port}", EMULATOR_REST: rest}
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None)
        self.neighbours.stop()

    def asked(self, method: str) -> list[Any]:
        """The requests of one method, in order."""
        return [message for name, message in self.requests if name == method]

    def _handlers(self) -> Iterator[tuple[str, grpc.RpcMethodHandler]]:
        for kind, collection in (("CustomJob", "customJobs"), ("HyperparameterTuningJob", None)):
            collection = collection or "hyperparameterTuningJobs"
            message, listed = getattr(types, kind), getattr(types, f"List{kind}sResponse")
            calls = {
                f"Create{kind}": (self._creates(kind, collection), message),
                f"Get{kind}": (self._get, message),
                f"List{kind}s": (self._lists(kind, collection, listed), listed),
                f"Cancel{kind}": (self._cancel, None),
            }
            for name, (call, answer) in calls.items():
                yield name, self._handler(name, call, answer)

    def _handler(self, name: str, call: Callable, answer: Any) -> grpc.RpcMethodHandler:
        def handle(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock:
                self.requests.append((name, request))
                fault = self.faults.get(name, [])
                code, said = fault.pop(0) if fault else ("", "")
                if code and not code.startswith("done "):
                    context.abort(grpc.StatusCode[code], said)
                try:
                    made = call(request)
                except _RefusedError as error:
                    context.abort(grpc.StatusCode[error.code], str(error))
                if code:
                    context.abort(grpc.StatusCode[code.removeprefix("done ")], said)
                return made

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=getattr(types, f"{name}Request").deserialize,
            response_serializer=answer.serialize if answer else empty_pb2.Empty.SerializeToString,
        )

    def _creates(self, kind: str, collection: str) -> Callable:
        asked_for = "custom_job" if kind == "CustomJob" else "hyperparameter_tuning_job"

        def create(request: Any) -> Any:
            job = getattr(request, asked_for)
            spec = job.job_spec if kind == "CustomJob" else job.trial_job_spec
            region = request.parent.rpartition("/")[2]
            if request.parent != f"projects/{self.project}/locations/{region}":
                raise _RefusedError("PERMISSION_DENIED", f"Permission denied on resource {request.parent}")
            check(job, spec)
            self._take_quota(region, spec)
            job.name = f"{request.parent}/{collection}/{next(self._ids)}"
            job.create_time = datetime.datetime.now(datetime.timezone.utc)
            course = self.courses.pop(0) if self.courses else Course()
            made = _Job(job, spec, course, self.neighbours)
            self.jobs[job.name] = made
            if self.runs is not None:
                made.run(self.runs)
            return job

        return create

    def _take_quota(self, region: str, spec: Any) -> None:
        short = [name for name, asked in uses(spec).items() if asked > self.quotas.get((region, name), asked)]
        if short:
            listed = ", ".join(f"aiplatform.googleapis.com/{name}" for name in short)
            raise _RefusedError(
                "RESOURCE_EXHAUSTED", f"The following quota metrics exceed quota limits: {listed}"
            )

    def _get(self, request: Any) -> Any:
        return self._known(request.name).look()

    def _lists(self, kind: str, collection: str, answer: Any) -> Callable:
        field_of = "custom_jobs" if kind == "CustomJob" else "hyperparameter_tuning_jobs"

        def list_jobs(request: Any) -> Any:
            key, _, value = request.filter.removeprefix("labels.").replace(":", "=").partition("=")
            value = value.strip('"')
            found = [
                job.message
                for name, job in self.jobs.items()
                if name.startswith(f"{request.parent}/{collection}/")
                and (job.message.labels.get(key) == value or (value == "*" and key in job.message.labels))
            ]
            return answer(**{field_of: found})

        return list_jobs

    def _cancel(self, request: Any) -> Any:
        self._known(request.name).stop()
        return empty_pb2.Empty()

    def _known(self, name: str) -> _Job:
        if name not in self.jobs:
            raise _RefusedError("NOT_FOUND", f"The resource {name} is not found.")
        return self.jobs[name]


class _RefusedError(Exception):
    def __init__(self, code: str, said: str) -> None:
        super().__init__(said)
        self.code = code


def check(job: Any, spec: Any) -> None:
    """Refuses what Vertex AI refuses."""
    pools = list(spec.worker_pool_specs)
    problems = {
        "display_name is required": not job.display_name,
        "labels are invalid": not all(_LABEL.match(x) for pair in job.labels.items() for x in pair),
        "worker_pool_specs is required": not pools,
        "replica_count of the first worker pool must be 1": pools and pools[0].replica_count != 1,
        "machine_type is required": not all(pool.machine_spec.machine_type for pool in pools),
        "image_uri is required": not all(pool.container_spec.image_uri for pool in pools),
        "accelerator_count is required": any(
            bool(p.machine_spec.accelerator_type) != bool(p.machine_spec.accelerator_count) for p in pools
        ),
        "base_output_directory is not a Cloud Storage path": not (
            spec.base_output_directory.output_uri_prefix.startswith("gs://")
        ),
    }
    for said, is_so in problems.items():
        if is_so:
            raise _RefusedError("INVALID_ARGUMENT", said)


def uses(spec: Any) -> dict[str, int]:
    """The quota that a job takes, by metric."""
    used: dict[str, int] = {}
    spot = "preemptible_" if spec.scheduling.strategy.name == "SPOT" else ""
    for pool in spec.worker_pool_specs:
        machine = pool.machine_spec
        family, *_, cpus = machine.machine_type.split("-")
        named = {f"{spot}{'' if family in ('n1', 'e2') else family + '_'}cpus": int(cpus)}
        if machine.accelerator_type:
            named[spot + _GPUS[machine.accelerator_type.name]] = machine.accelerator_count
        for name, number in named.items():
            metric = f"custom_model_training_{name}"
            used[metric] = used.get(metric, 0) + number * pool.replica_count
    return used


class _Job:
    """A job that was made."""

    def __init__(self, message: Any, spec: Any, course: Course, neighbours: Neighbours) -> None:
        self.message = message
        self.spec = spec
        self.course = course
        self._neighbours = neighbours
        self._looks = 0
        self._working: threading.Thread | None = None
        self._code: int | None = None
        self._stopped = False

    @property
    def id(self) -> str:
        """The last part of its name."""
        return self.message.name.rpartition("/")[2]

    def look(self) -> Any:
        """Moves on by one state."""
        if self._working is not None:
            return self._look_at_work()
        at = min(self._looks, len(self.course.states) - 1)
        if self._looks < len(self.course.lines):
            self._neighbours.log(self.id, self.course.lines[self._looks])
        self._looks += 1
        return self._become("CANCELLED" if self._stopped else self.course.states[at], self.course.error)

    def run(self, runs: Run) -> None:
        """Begins what the container of the first pool does."""
        container = self.spec.worker_pool_specs[0].container_spec
        folder = self.spec.base_output_directory.output_uri_prefix
        env = {"AIP_MODEL_DIR": f"{folder}/model/", "AIP_CHECKPOINT_DIR": f"{folder}/checkpoints/"}
        env |= {one.name: one.value for one in container.env}

        def work() -> None:
            self._code = runs(list(container.args), env, lambda line: self._neighbours.log(self.id, line))

        self._working = threading.Thread(target=work)
        self._working.start()

    def _look_at_work(self) -> Any:
        assert self._working is not None
        if self._working.is_alive():
            return self._become("RUNNING", "")
        said = f"The replica workerpool0-0 exited with a non-zero status of {self._code}."
        return self._become("FAILED" if self._code else "SUCCEEDED", said)

    def _become(self, state: str, error: str) -> Any:
        self.message.state = types.JobState[f"JOB_STATE_{state}"]
        if state == "RUNNING" and not self.message.start_time:
            self.message.start_time = datetime.datetime.now(datetime.timezone.utc)
        if state == "FAILED":
            self.message.error = {"code": 8 if "quota" in error else 3, "message": error}
        return self.message

    def stop(self) -> None:
        """Ends it, as a cancelled job ends."""
        self._stopped = self.message.state.name.removeprefix("JOB_STATE_") not in ENDS
