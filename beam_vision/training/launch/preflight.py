"""What is asked before a job is made: where the buckets are, what may be done, what quota there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from beam_vision.errors import UsageError
from beam_vision.regions import is_near
from beam_vision.training.config import JobConfig
from beam_vision.training.launch import quota
from beam_vision.training.launch.settings import LaunchSettings, Placement
from beam_vision.training.launch.vertex_api import Api, errors, explain, message_of

_ROLES = {
    "aiplatform": "roles/aiplatform.user",
    "logging": "roles/logging.viewer",
    "storage": "roles/storage.objectAdmin",
    "iam": "roles/iam.serviceAccountUser",
}


def check(api: Api, config: JobConfig, settings: LaunchSettings, *, tuning: bool = False) -> dict[str, Any]:
    """Asks everything, and says what was found.

    Args:
      api: connections.
      config: the job's description.
      settings: its section ``launch``.
      tuning: whether it will be a tuning job.

    Returns:
      ``permissions``, ``buckets``, ``quota``, and ``notes``: what isn't right but may do, in words.

    Raises:
      UsageError: a bucket isn't there, permissions are missing, or no placement has enough quota.
    """
    notes: list[str] = []
    try:
        held = _check_permissions(api, settings, tuning)
        buckets = _check_buckets(api, config, settings, notes)
    except errors() as error:
        raise explain(error, f"project {settings.project}") from error
    return {
        "permissions": held,
        "buckets": buckets,
        "quota": _check_quota(api, settings, notes),
        "notes": notes,
    }


def _check_permissions(api: Api, settings: LaunchSettings, tuning: bool) -> list[str]:
    """The permissions that the account has; all that the launch needs."""
    kinds = ("customJobs", "hyperparameterTuningJobs") if tuning else ("customJobs",)
    on_project = [f"aiplatform.{kind}.{one}" for kind in kinds for one in ("create", "get", "list", "cancel")]
    on_project.append("logging.logEntries.list")
    on_bucket = [f"storage.objects.{one}" for one in ("create", "get", "list", "delete")]
    project = f"/v1/projects/{settings.project}:testIamPermissions"
    held = _held(api.rest("cloudresourcemanager", project, body={"permissions": on_project}))
    held += _held(_ask_bucket(api, settings.bucket, "/iam/testPermissions", {"permissions": on_bucket}))
    wanted = dict.fromkeys(on_project, f"project {settings.project}")
    wanted |= dict.fromkeys(on_bucket, f"bucket {settings.bucket}")
    account, acts = settings.service_account, "iam.serviceAccounts.actAs"
    if account:
        path = f"/v1/projects/-/serviceAccounts/{account}:testIamPermissions"
        held += _held(api.rest("iam", path, body={"permissions": [acts]}))
        wanted[acts] = f"service account {account}"
    missing = [
        f"{one} on {place} ({_ROLES[one.partition('.')[0]]})"
        for one, place in wanted.items()
        if one not in held
    ]
    if missing:
        raise UsageError(f"the account that runs this lacks permissions: {'; '.join(missing)}")
    return sorted(held)


def _held(answer: Mapping[str, Any]) -> list[str]:
    return list(answer.get("permissions", ()))


def _ask_bucket(
    api: Api, bucket: str, part: str = "", params: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    from google.api_core.exceptions import NotFound

    try:
        return api.rest("storage", f"/storage/v1/b/{bucket}{part}", params=params)
    except NotFound as error:
        raise UsageError(
            f"bucket {bucket} is not there; it is made by: gcloud storage buckets create gs://{bucket} "
            "--location=REGION"
        ) from error


def _check_buckets(api: Api, config: JobConfig, settings: LaunchSettings, notes: list[str]) -> dict[str, str]:
    """Where the buckets of staging and dataset are; notes those that the job would reach across regions."""
    uses = {settings.bucket: "launch.staging"}
    if config.data.dataset.startswith("gs://"):
        uses.setdefault(config.data.dataset.removeprefix("gs://").partition("/")[0], "data.dataset")
    found = {}
    for bucket, use in uses.items():
        facts = _ask_bucket(api, bucket)
        found[bucket] = str(facts.get("location", "")).lower()
        for region in dict.fromkeys(place.region for place in settings.placements()):
            if not is_near(region, facts):
                notes.append(
                    f"{use} is in bucket {bucket} in {found[bucket]}, and the job may run in {region}: what "
                    f"crosses regions is slow and costs; a bucket in {region} is better"
                )
    return found


def _check_quota(api: Api, settings: LaunchSettings, notes: list[str]) -> dict[str, dict[str, str]]:
    """By placement and metric: how much the job takes of how much."""
    found: dict[str, dict[str, str]] = {}
    short: list[str] = []
    for place in settings.placements():
        said = found[str(place)] = {}
        lacking = []
        for metric, asked in quota.needed(place, settings.replicas).items():
            limit = _limit(api, metric, place, notes)
            said[metric] = f"{asked} of {'unknown' if limit is None else 'any' if limit < 0 else limit}"
            if limit is not None and 0 <= limit < asked:
                lacking.append(metric)
        if lacking:
            short.append(quota.explain(lacking, place, settings.replicas, settings.project))
    if len(short) == len(found):
        raise UsageError("; ".join(short))
    notes += short
    return found


def _limit(api: Api, metric: str, place: Placement, notes: list[str]) -> int | None:
    """The project's limit of a metric in a region; -1: there is none; None: it can't be told."""
    path = f"/v1beta1/projects/{api.project}/services/aiplatform.googleapis.com/consumerQuotaMetrics/"
    try:
        answer = api.rest("serviceusage", path + quote(metric, safe=""), params={"view": "FULL"})
    except errors() as error:
        note = f"quota could not be read, and is not checked: {message_of(error)}"
        if note not in notes:
            notes.append(note)
        return None
    limits = [one for one in answer.get("consumerQuotaLimits", []) if "{region}" in one.get("unit", "")]
    return min((_of_region(one.get("quotaBuckets", []), place.region) for one in limits), default=None)


def _of_region(buckets: Sequence[Mapping[str, Any]], region: str) -> int:
    """The bucket that is for a region, else the one for all."""
    chosen = [one for one in buckets if one.get("dimensions", {}).get("region") == region]
    chosen = chosen or [one for one in buckets if not one.get("dimensions")]
    return int(chosen[0].get("effectiveLimit", -1)) if chosen else -1
