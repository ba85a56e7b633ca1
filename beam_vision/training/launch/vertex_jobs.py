"""The two kinds of jobs of Vertex AI under one face, and what they look like to us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision import deps, storage
from beam_vision.errors import UsageError
from beam_vision.training.launch.base import Launched, State

if TYPE_CHECKING:
    from google.cloud.aiplatform_v1.services.job_service import JobServiceClient

_NAME = re.compile(r"projects/[^/]+/locations/([^/]+)/(customJobs|hyperparameterTuningJobs)/[^/]+\Z")
_STATES = {
    "QUEUED": State.WAITING,
    "PENDING": State.WAITING,
    "UNSPECIFIED": State.WAITING,
    "RUNNING": State.RUNNING,
    "UPDATING": State.RUNNING,
    "PAUSED": State.RUNNING,
    "CANCELLING": State.RUNNING,
    "SUCCEEDED": State.SUCCEEDED,
    "PARTIALLY_SUCCEEDED": State.SUCCEEDED,
    "FAILED": State.FAILED,
    "EXPIRED": State.FAILED,
    "CANCELLED": State.CANCELLED,
}


@dataclass(frozen=True)
class Kind:
    """One kind of job.

    Attributes:
      collection: its part of a name.
      message: its message of ``google.cloud.aiplatform_v1``.
      method: the end of its methods' names.
    """

    collection: str
    message: str
    method: str

    def made_of(self, values: Mapping[str, Any]) -> Any:
        """The message that plain values describe."""
        return getattr(deps.need("google.cloud.aiplatform_v1.types"), self.message)(dict(values))

    def create(self, client: JobServiceClient, parent: str, job: Any, *, timeout: float) -> Any:
        """Makes a job; asks once."""
        call = getattr(client, f"create_{self.method}")
        return call(parent=parent, **{self.method: job}, retry=None, timeout=timeout)

    def get(self, client: JobServiceClient, name: str, *, timeout: float) -> Any:
        """A job by its name."""
        return getattr(client, f"get_{self.method}")(name=name, retry=None, timeout=timeout)

    def list(self, client: JobServiceClient, parent: str, chosen: str, *, timeout: float) -> Iterable[Any]:
        """The jobs that a filter chooses."""
        call = getattr(client, f"list_{self.method}s")
        return call(request={"parent": parent, "filter": chosen}, retry=None, timeout=timeout)

    def cancel(self, client: JobServiceClient, name: str, *, timeout: float) -> None:
        """Asks for a job's end."""
        getattr(client, f"cancel_{self.method}")(name=name, retry=None, timeout=timeout)


CUSTOM = Kind("customJobs", "CustomJob", "custom_job")
TUNING = Kind("hyperparameterTuningJobs", "HyperparameterTuningJob", "hyperparameter_tuning_job")


def kind_of(name: str) -> Kind:
    """The kind of a job, by its name.

    Raises:
      UsageError: it is no name of a job.
    """
    return CUSTOM if _parts(name)[1] == CUSTOM.collection else TUNING


def location_of(name: str) -> str:
    """The region of a job, by its name."""
    return _parts(name)[0]


def project_of(name: str) -> str:
    """The project of a job, by its name."""
    _parts(name)
    return name.split("/")[1]


def _parts(name: str) -> tuple[str, str]:
    found = _NAME.match(name)
    if not found:
        raise UsageError(f"{name!r} is no job: it must be projects/P/locations/REGION/customJobs/ID")
    return found[1], found[2]


def to_launched(job: Any) -> Launched:
    """A CustomJob or a HyperparameterTuningJob as we see it."""
    spec = job.trial_job_spec if hasattr(job, "trial_job_spec") else job.job_spec
    folder = spec.base_output_directory.output_uri_prefix
    tuning = hasattr(job, "trial_job_spec")
    return Launched(
        name=job.name,
        display_name=job.display_name,
        state=_STATES[job.state.name.removeprefix("JOB_STATE_")],
        error=" ".join(job.error.message.split()),
        started=bool(job.start_time),
        created_sec=job.create_time.timestamp() if job.create_time else 0.0,
        output=folder if tuning or not folder else storage.join(folder, "model"),
        trials=tuple(map(_trial, job.trials)) if tuning else (),
    )


def _trial(trial: Any) -> dict[str, Any]:
    return {
        "id": trial.id,
        "state": trial.state.name.lower(),
        "job": trial.custom_job,
        "parameters": {one.parameter_id.replace("__", "."): one.value for one in trial.parameters},
        "metrics": {one.metric_id: one.value for one in trial.final_measurement.metrics},
    }
