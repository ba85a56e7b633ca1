"""The project in Google Cloud: credentials, APIs, permissions, the workers' account."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from beam_vision.doctor.base import FAIL, OK, UNKNOWN, WARN, Finding
from beam_vision.doctor.google import Google, explain, message_of
from beam_vision.doctor.job import Uses

ON_PROJECT = {
    "dataflow.jobs.create": "roles/dataflow.developer",
    "dataflow.jobs.get": "roles/dataflow.developer",
    "dataflow.jobs.cancel": "roles/dataflow.developer",
    "dataflow.messages.list": "roles/dataflow.developer",
}
"""What the account that submits needs, and the role that has it ("Dataflow security and permissions")."""
ACT_AS = "iam.serviceAccounts.actAs"
EVERYTHING = frozenset({"roles/owner", "roles/editor"})
MORE = {
    "roles/storage.objectAdmin": {"roles/storage.admin", "roles/storage.objectUser"},
    "roles/bigquery.dataEditor": {"roles/bigquery.dataOwner", "roles/bigquery.admin"},
    "roles/bigquery.jobUser": {"roles/bigquery.user", "roles/bigquery.admin"},
    "roles/pubsub.subscriber": {"roles/pubsub.editor", "roles/pubsub.admin"},
    "roles/pubsub.viewer": {"roles/pubsub.editor", "roles/pubsub.admin"},
    "roles/pubsub.publisher": {"roles/pubsub.editor", "roles/pubsub.admin"},
    "roles/artifactregistry.reader": {
        "roles/artifactregistry.writer",
        "roles/artifactregistry.repoAdmin",
        "roles/artifactregistry.admin",
    },
}
"""Roles that hold another's permissions too."""


def check_credentials(google: Google, *, needed: bool = True) -> Iterator[Finding]:
    """Whether there are credentials that give a token now.

    Args:
      google: connections.
      needed: whether anything is to be done in the cloud; where not, none may be there.
    """
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError

    try:
        found, _ = google.login()
    except DefaultCredentialsError as error:
        said, remedy = explain(error)
        if needed:
            yield Finding("credentials", FAIL, said, remedy)
        else:
            yield Finding("credentials", OK, f"{said}; nothing here needs them")
        return
    except TransportError as error:
        yield Finding("credentials", UNKNOWN, *explain(error))
        return
    except GoogleAuthError as error:
        status = UNKNOWN if error.retryable else FAIL
        yield Finding("credentials", status, *explain(error))
        return
    yield Finding("credentials", OK, f"of {account_of(found)}")


def account_of(credentials: Any) -> str:
    """Whose credentials they are."""
    named = (getattr(credentials, name, "") for name in ("service_account_email", "signer_email", "account"))
    return next(filter(None, named), type(credentials).__module__.rpartition(".")[2].replace("_", " "))


def check_project(google: Google, project: str) -> Iterator[Finding]:
    """Whether the project is there and alive."""
    from google.api_core import exceptions

    try:
        facts = google.get("cloudresourcemanager", f"/v3/projects/{project}")
    except (exceptions.NotFound, exceptions.Forbidden) as error:
        if isinstance(error, exceptions.Forbidden) and "enable" in explain(error)[1]:
            raise
        said = f"{project} is not there, or this account may not see it ({message_of(error)})"
        yield Finding("project", FAIL, said, "gcloud projects list")
        return
    state = facts.get("state", "ACTIVE")
    if state != "ACTIVE":
        yield Finding("project", FAIL, f"{project} is {state}", f"gcloud projects undelete {project}")
        return
    yield Finding("project", OK, f"{project} ({number_of(facts)})")


def number_of(facts: dict[str, Any]) -> str:
    """The number in what Resource Manager says of a project."""
    return str(facts.get("name", "")).rpartition("/")[2]


def apis_of(uses: Uses) -> list[str]:
    """The APIs that a job uses."""
    names = []
    if uses.on_dataflow:
        names += ["dataflow", "compute", "logging", "storage"]
    if uses.buckets:
        names.append("storage")
    if uses.tables or uses.queries:
        names += ["bigquery", "bigquerystorage"]
    if uses.subscriptions or uses.topics:
        names.append("pubsub")
    if ".pkg.dev/" in uses.image:
        names.append("artifactregistry")
    return [f"{name}.googleapis.com" for name in dict.fromkeys(names)]


def check_apis(google: Google, uses: Uses) -> Iterator[Finding]:
    """Whether the APIs that a job uses are enabled."""
    wanted = apis_of(uses)
    if not wanted:
        return
    names = [f"projects/{uses.project}/services/{name}" for name in wanted]
    answer = google.get("serviceusage", f"/v1/projects/{uses.project}/services:batchGet", {"names": names})
    states = {one["name"].rpartition("/")[2]: one.get("state") for one in answer.get("services", [])}
    off = [name for name in wanted if states.get(name) != "ENABLED"]
    if off:
        remedy = f"gcloud services enable {' '.join(off)} --project {uses.project}"
        yield Finding("APIs", FAIL, f"not enabled: {', '.join(off)}", remedy)
    else:
        yield Finding("APIs", OK, ", ".join(name.partition(".")[0] for name in wanted))


def check_permissions(google: Google, uses: Uses) -> Iterator[Finding]:
    """Whether the account that submits may make jobs, and use the workers' account."""
    if not uses.on_dataflow:
        return
    path = f"/v3/projects/{uses.project}:testIamPermissions"
    held = set(
        google.post("cloudresourcemanager", path, {"permissions": list(ON_PROJECT)}).get("permissions", ())
    )
    missing = [name for name in ON_PROJECT if name not in held]
    if missing:
        roles = " and ".join(dict.fromkeys(ON_PROJECT[name] for name in missing))
        said = f"this account lacks {', '.join(missing)} on project {uses.project}"
        yield Finding("permissions", FAIL, said, f"grant it {roles}")
    else:
        yield Finding("permissions", OK, f"this account may make and watch jobs in {uses.project}")
    account = uses.account or default_account(google, uses.project)
    body = {"permissions": [ACT_AS]}
    answer = google.post("iam", f"/v1/projects/-/serviceAccounts/{account}:testIamPermissions", body)
    if ACT_AS in answer.get("permissions", ()):
        yield Finding("workers' account", OK, f"this account may use {account}")
    else:
        remedy = f"grant this account roles/iam.serviceAccountUser on {account}"
        yield Finding("workers' account", FAIL, f"this account lacks {ACT_AS} on {account}", remedy)


def default_account(google: Google, project: str) -> str:
    """The account that workers run as where none is named: Compute Engine's default one."""
    facts = google.get("cloudresourcemanager", f"/v3/projects/{project}")
    return f"{number_of(facts)}-compute@developer.gserviceaccount.com"


def roles_of(uses: Uses) -> dict[str, str]:
    """The roles that the workers' account needs, and for what."""
    roles = {"roles/dataflow.worker": "to work for Dataflow"}
    if uses.buckets:
        roles["roles/storage.objectAdmin"] = f"for {', '.join(f'gs://{name}' for name in uses.buckets)}"
    if uses.queries:
        roles["roles/bigquery.jobUser"] = "for queries"
    if uses.tables:
        roles["roles/bigquery.dataEditor"] = "for tables"
        roles["roles/bigquery.jobUser"] = "for jobs of BigQuery"
    if uses.subscriptions:
        roles["roles/pubsub.subscriber"] = "for the subscription"
        roles["roles/pubsub.viewer"] = "to look at the subscription"
    if uses.topics:
        roles["roles/pubsub.publisher"] = "for topics"
    if ".pkg.dev/" in uses.image:
        roles["roles/artifactregistry.reader"] = "for the container's image"
    return roles


def check_worker_roles(google: Google, uses: Uses) -> Iterator[Finding]:
    """Whether the project's policy gives the workers' account and Dataflow's own what they need.

    Roles may also come from a folder, an organization, a group, or the bucket, table or topic itself, which
    the project's policy doesn't show: what is missing there is a warning.
    """
    if not uses.on_dataflow:
        return
    number = number_of(google.get("cloudresourcemanager", f"/v3/projects/{uses.project}"))
    account = uses.account or f"{number}-compute@developer.gserviceaccount.com"
    policy = google.post("cloudresourcemanager", f"/v3/projects/{uses.project}:getIamPolicy", {})
    held = _held(policy, f"serviceAccount:{account}")
    missing = {
        role: why
        for role, why in roles_of(uses).items()
        if not held & {role, *EVERYTHING, *MORE.get(role, ())}
    }
    if missing:
        said = f"{account} has not, on project {uses.project}: "
        said += "; ".join(f"{role} ({why})" for role, why in missing.items())
        yield Finding("workers' roles", WARN, said, _grant(uses.project, account, missing))
    else:
        yield Finding("workers' roles", OK, f"{account} has what it needs")
    agent = f"service-{number}@dataflow-service-producer-prod.iam.gserviceaccount.com"
    if "roles/dataflow.serviceAgent" not in _held(policy, f"serviceAccount:{agent}"):
        said = f"{agent} has not roles/dataflow.serviceAgent: Dataflow can't start workers"
        remedy = _grant(uses.project, agent, {"roles/dataflow.serviceAgent": ""})
        yield Finding("Dataflow's agent", WARN, said, remedy)


def _held(policy: dict[str, Any], member: str) -> set[str]:
    """The roles that a policy gives without a condition."""
    bindings = policy.get("bindings", [])
    return {one["role"] for one in bindings if member in one.get("members", ()) and "condition" not in one}


def _grant(project: str, account: str, roles: dict[str, str]) -> str:
    command = f"gcloud projects add-iam-policy-binding {project} --member serviceAccount:{account} --role"
    return "; ".join(f"{command} {role}" for role in roles)
