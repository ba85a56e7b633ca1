"""Whether a region has the machines that a job asks for, and the project the quota for them.

Compute Engine's own words and figures: ``regions.get``, ``projects.get``, ``acceleratorTypes`` and
``machineTypes`` (REST reference of Compute Engine, v1).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from beam_vision.dataflow.machines import machine_of
from beam_vision.doctor.base import FAIL, OK, UNKNOWN, WARN, Finding
from beam_vision.doctor.google import Google
from beam_vision.doctor.job import Uses

_GPU_METRICS = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-p4": "NVIDIA_P4_GPUS",
    "nvidia-tesla-p100": "NVIDIA_P100_GPUS",
    "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS",
}
"""Metrics in ``regions.get``; H100 and newer ones are counted by family instead, which it doesn't list."""
_ALL_GPUS, _ALL_CPUS = "GPUS_ALL_REGIONS", "CPUS_ALL_REGIONS"
_SHARE_CPUS = ("n1", "e2", "g2")
"""Families that take from ``CPUS`` where the region has no metric of their own."""


@dataclass(frozen=True)
class Need:
    """What a worker takes of a metric."""

    metric: str
    each: int
    place: str


def check_region(google: Google, uses: Uses) -> Iterator[Finding]:
    """The region, its machines, and how many workers its quota allows."""
    from google.api_core import exceptions

    root = f"/compute/v1/projects/{uses.project}"
    try:
        region = google.get("compute", f"{root}/regions/{uses.region}")
    except exceptions.NotFound:
        said = f"there is no region {uses.region}"
        yield Finding("region", FAIL, said, "gcloud compute regions list")
        return
    state = region.get("status", "UP")
    yield Finding("region", OK if state == "UP" else WARN, f"{uses.region} is {state.lower()}")
    zones = sorted(one.rpartition("/")[2] for one in region.get("zones", ()))
    vcpus = None
    if uses.accelerator:
        yield from _offered(google, uses, "acceleratorTypes", uses.accelerator, zones)
    if uses.machine_type:
        yield from _offered(google, uses, "machineTypes", uses.machine_type, zones)
        machine = machine_of(uses.machine_type)
        vcpus = machine.vcpus if machine else None
    whole = google.get("compute", root)
    quotas = {
        **by_metric(region),
        **{n: q for n, q in by_metric(whole).items() if n.endswith("_ALL_REGIONS")},
    }
    yield from read_quota(uses, quotas, vcpus)


def by_metric(facts: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The quotas of a region or a project by metric: ``limit`` and ``usage``."""
    return {one["metric"]: one for one in facts.get("quotas", ())}


def _offered(google: Google, uses: Uses, kind: str, name: str, zones: list[str]) -> Iterator[Finding]:
    """In which zones of the region Compute Engine has something."""
    path = f"/compute/v1/projects/{uses.project}/aggregated/{kind}"
    items: dict[str, Any] = {}
    page: dict[str, Any] = {"filter": f"name = {name}", "includeAllScopes": False}
    while True:
        answer = google.get("compute", path, page)
        items.update(answer.get("items", {}))
        if not answer.get("nextPageToken"):
            break
        page = {**page, "pageToken": answer["nextPageToken"]}
    having = {
        scope.rpartition("/")[2]
        for scope, found in items.items()
        if any(one.get("name") == name for one in found.get(kind, ()))
    }
    here, shown = (
        sorted(having.intersection(zones)),
        "GPU type" if kind == "acceleratorTypes" else "machine type",
    )
    if here:
        yield Finding(shown, OK, f"{name} in {', '.join(here)}")
        return
    regions = sorted({zone.rpartition("-")[0] for zone in having})
    remedy = f"choose --region of {', '.join(regions[:8])}" if regions else "look whether the name is right"
    yield Finding(shown, FAIL, f"no zone of {uses.region} has {name}", remedy)


def needs(uses: Uses, vcpus: int | None, quotas: Mapping[str, Any]) -> list[Need]:
    """What a worker takes, of the metrics that can be named.

    Args:
      uses: what the job uses.
      vcpus: of a worker; None: not known.
      quotas: by metric; a family of machines that isn't there takes from ``CPUS``.
    """
    found = [Need("INSTANCES", 1, uses.region)]
    if uses.accelerator in _GPU_METRICS:
        found.append(Need(_GPU_METRICS[uses.accelerator], uses.accelerators, uses.region))
        found.append(Need(_ALL_GPUS, uses.accelerators, "all regions"))
    if vcpus is not None:
        metric = _cpus(uses.machine_type, quotas)
        found += [Need(metric, vcpus, uses.region)] if metric else []
        found.append(Need(_ALL_CPUS, vcpus, "all regions"))
    if uses.public_ips:
        found.append(Need("IN_USE_ADDRESSES", 1, uses.region))
    return found


def _cpus(machine_type: str, quotas: Mapping[str, Any]) -> str:
    family = "n1" if machine_type.startswith("custom-") else machine_type.partition("-")[0]
    own = f"{family.upper()}_CPUS"
    if own in quotas and family not in ("n1", "e2"):
        return own
    return "CPUS" if family in _SHARE_CPUS else ""


def read_quota(uses: Uses, quotas: Mapping[str, Mapping[str, Any]], vcpus: int | None) -> Iterator[Finding]:
    """How many workers each quota leaves room for.

    Args:
      uses: what the job uses.
      quotas: by metric, with ``limit`` and ``usage``.
      vcpus: of a worker; None: not known.
    """
    if uses.accelerator and uses.accelerator not in _GPU_METRICS:
        said = f"{uses.accelerator} is counted by GPU family, which Compute Engine's region doesn't list"
        yield Finding("quota GPUS_PER_GPU_FAMILY", UNKNOWN, said, _console(uses.project))
    for need in needs(uses, vcpus, quotas):
        quota = quotas.get(need.metric)
        if quota is not None:
            yield _room(uses, need, quota)
        elif need.metric.startswith("NVIDIA_"):
            yield Finding(
                f"quota {need.metric}", UNKNOWN, f"{need.place} doesn't list it", _console(uses.project)
            )


def _room(uses: Uses, need: Need, quota: Mapping[str, Any]) -> Finding:
    limit, usage = float(quota.get("limit", 0)), float(quota.get("usage", 0))
    room = max(0, int((limit - usage) // need.each))
    name = f"quota {need.metric}"
    said = f"{usage:g} of {limit:g} used in {need.place}: room for {room:,} workers"
    if room == 0:
        return Finding(name, FAIL, said, f"ask for {need.metric} in {need.place}: {_console(uses.project)}")
    if uses.workers > room:
        remedy = f"--max_num_workers={room}, or ask for more: {_console(uses.project)}"
        return Finding(name, WARN, f"{said}, and {uses.workers} are asked for", remedy)
    return Finding(name, OK, said)


def _console(project: str) -> str:
    return f"https://console.cloud.google.com/iam-admin/quotas?project={project}"
