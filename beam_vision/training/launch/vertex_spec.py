"""The requests that Vertex AI gets, as plain values under the names of ``google.cloud.aiplatform.v1``.

Pure: what ``--print_job`` shows is what is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from beam_vision import storage
from beam_vision.training.config import JobConfig
from beam_vision.training.launch.settings import LaunchSettings, Placement
from beam_vision.training.tune_space import Space

JOB_FILE = "job.json"
WORKER = "beam_vision.training.launch.worker"
SUBMISSION_LABEL = "beam_vision_submission"
"""A label whose value is one submission's own: a request that got no answer is found again by it."""


def job_name(config: JobConfig, settings: LaunchSettings) -> str:
    """The job's name for people, which is also its folder's below staging."""
    return settings.name or f"beam-vision-{config.task}-{config.digest}"


def job_folder(config: JobConfig, settings: LaunchSettings, submission: str) -> str:
    """The job's own folder below staging: ``STAGING/NAME/SUBMISSION``."""
    return storage.join(settings.staging, job_name(config, settings), submission)


def custom_job(
    config: JobConfig, settings: LaunchSettings, place: Placement, *, submission: str
) -> dict[str, Any]:
    """A CustomJob.

    Args:
      config: the job's description, which lies at ``job_folder(...)/job.json``.
      settings: its section ``launch``.
      place: where it shall run.
      submission: this submission's own id: lower-case letters, digits and hyphens, 63 at most.
    """
    folder = job_folder(config, settings, submission)
    return {
        "display_name": job_name(config, settings),
        "job_spec": _job_spec(settings, place, folder),
        "labels": _labels(config, settings, submission),
    }


def tuning_job(
    config: JobConfig, settings: LaunchSettings, place: Placement, space: Space, *, submission: str
) -> dict[str, Any]:
    """A HyperparameterTuningJob over the search space of the section ``tune``; else as :func:`custom_job`."""
    folder = job_folder(config, settings, submission)
    return {
        "display_name": job_name(config, settings),
        "study_spec": space.study_spec(),
        "max_trial_count": space.trials,
        "parallel_trial_count": space.parallel,
        "max_failed_trial_count": space.max_failed,
        "trial_job_spec": _job_spec(settings, place, folder, ["--objective", space.objective]),
        "labels": _labels(config, settings, submission),
    }


def _labels(config: JobConfig, settings: LaunchSettings, submission: str) -> dict[str, str]:
    return {"beam_vision_task": config.task, **settings.labels, SUBMISSION_LABEL: submission}


def _job_spec(
    settings: LaunchSettings, place: Placement, folder: str, more: Sequence[str] = ()
) -> dict[str, Any]:
    pool = {
        "machine_spec": _machine(place),
        "replica_count": 1,
        "disk_spec": {"boot_disk_type": "pd-ssd", "boot_disk_size_gb": settings.boot_disk_gb},
        "container_spec": {
            "image_uri": settings.image,
            "command": ["python", "-m", WORKER],
            "args": ["--config", storage.join(folder, JOB_FILE), *more],
            "env": [{"name": name, "value": value} for name, value in sorted(settings.env.items())],
        },
    }
    workers = [{**pool, "replica_count": settings.replicas - 1}] if settings.replicas > 1 else []
    spec = {
        "worker_pool_specs": [pool, *workers],
        "scheduling": _scheduling(settings, place),
        "base_output_directory": {"output_uri_prefix": folder},
    }
    for name in ("service_account", "network", "tensorboard"):
        if getattr(settings, name):
            spec[name] = getattr(settings, name)
    return spec


def _machine(place: Placement) -> dict[str, Any]:
    spec: dict[str, Any] = {"machine_type": place.machine_type}
    if place.accelerator:
        spec |= {"accelerator_type": place.accelerator, "accelerator_count": place.accelerators}
    return spec


def _scheduling(settings: LaunchSettings, place: Placement) -> dict[str, Any]:
    spec: dict[str, Any] = {"strategy": "SPOT" if place.spot else "STANDARD"}
    if settings.restart:
        spec["restart_job_on_worker_restart"] = True
    if settings.timeout_sec:
        spec["timeout"] = {"seconds": settings.timeout_sec}
    return spec
