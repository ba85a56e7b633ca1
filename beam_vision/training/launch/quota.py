"""Which quotas of Vertex AI a placement takes from, by their exact names, and how much of each.

A project has one quota a region for each kind of accelerator and each family of machines, and others for Spot
machines (``preemptible``). Names are as in "Vertex AI quotas and limits" and as its errors say them.
"""

from __future__ import annotations

import re

from beam_vision.training.launch.settings import ACCELERATORS, Placement

PREFIX = "aiplatform.googleapis.com/custom_model_training_"
_GPU_MACHINES = {
    "a2-highgpu": {1: 12, 2: 24, 4: 48, 8: 96},
    "a2-megagpu": {16: 96},
    "a2-ultragpu": {1: 12, 2: 24, 4: 48, 8: 96},
    "a3-highgpu": {1: 26, 2: 52, 4: 104, 8: 208},
    "a3-megagpu": {8: 208},
    "a3-ultragpu": {8: 224},
}
"""CPUs of the machines that are named by their GPUs (Compute Engine, "GPU machine types")."""
_NO_NAME = ("n1", "e2")  # families whose quota has no family's name
_METRIC = re.compile(r"aiplatform\.googleapis\.com/[a-z0-9_]+")
_SHORT_OF = re.compile(r"insufficient|not enough resources|stockout|currently unavailable", re.IGNORECASE)


def needed(place: Placement, replicas: int) -> dict[str, int]:
    """Quota by the metric's full name: how much of it the job takes.

    Args:
      place: where it runs.
      replicas: how many machines.

    Returns:
      E.g. ``{"aiplatform.googleapis.com/custom_model_training_nvidia_t4_gpus": 2, ...}``; machines that name
      no number of CPUs that is known here have no CPU quota in it.
    """
    spot = "preemptible_" if place.spot else ""
    found = {}
    if place.accelerator:
        found[f"{PREFIX}{spot}{ACCELERATORS[place.accelerator]}"] = place.accelerators * replicas
    cpus = cpus_of(place.machine_type)
    if cpus is not None:
        family = place.machine_type.partition("-")[0]
        named = "" if family in _NO_NAME else f"{family}_"
        found[f"{PREFIX}{spot}{named}cpus"] = cpus * replicas
    return found


def cpus_of(machine_type: str) -> int | None:
    """CPUs of a machine, by its name; None where the name doesn't tell."""
    head, _, tail = machine_type.rpartition("-")
    if head in _GPU_MACHINES and tail.endswith("g") and tail[:-1].isdigit():
        return _GPU_MACHINES[head].get(int(tail[:-1]))
    return int(tail) if tail.isdigit() else None


def exceeded(message: str) -> list[str]:
    """The metrics that Vertex AI's error says are exceeded, in its order; none where it is another error."""
    return _METRIC.findall(message) if "quota" in message.lower() else []


def is_out_of_room(message: str) -> bool:
    """Whether an error says that there is no quota or no free machine, so that another place may do."""
    return bool(exceeded(message) or _SHORT_OF.search(message))


def explain(metrics: list[str], place: Placement, replicas: int, project: str) -> str:
    """In words: which quota is missing, how much the job takes, where to ask for more."""
    asked = needed(place, replicas)
    parts = [
        f"{metric} in {place.region}" + (f" (the job takes {asked[metric]})" if metric in asked else "")
        for metric in metrics
    ]
    return (
        f"no quota left of {' and '.join(parts)} in project {project}; ask for more at "
        f"https://console.cloud.google.com/iam-admin/quotas?project={project}, or name launch.fallbacks"
    )
