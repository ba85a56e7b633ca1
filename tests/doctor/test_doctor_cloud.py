"""What is asked of a project, over real HTTP and with real tokens, from a cloud on loopback."""

import socket

import pytest

from beam_vision.doctor import cloud as questions
from beam_vision.doctor.google import Google
from beam_vision.doctor.job import Uses
from beam_vision.testing.fake_cloud import AGENT, EMAIL, NUMBER, WORKER
from beam_vision.warehouse.names import parse_table

USES = Uses(on_dataflow=True, project="my-project", region="us-central1")


@pytest.fixture
def key(cloud, tmp_path, monkeypatch):
    """The key of a service account of the cloud's; requests without its token are refused."""
    cloud.needs_token = True
    for name, value in cloud.key_file(str(tmp_path / "key.json")).items():
        monkeypatch.setenv(name, value)


def test_a_key_gives_a_token_that_every_request_carries(cloud, key, google, find):
    (found,) = find(questions.check_credentials, google).values()
    assert (found.status, found.said) == ("ok", f"of {EMAIL}")
    assert find(questions.check_project, google, "my-project")["project"].status == "ok"
    assert cloud.asked[0] == ("POST", "oauth2/token")


def test_a_key_that_was_taken_back_fails_with_the_login(cloud, key, google, find):
    cloud.refused = "invalid_grant"
    (found,) = find(questions.check_credentials, google).values()
    assert found.status == "fail"
    assert "not valid" in found.said
    assert "invalid_grant" in found.said
    assert "gcloud auth application-default login" in found.remedy
    (after,) = find(questions.check_apis, google, USES).values()
    assert after.status == "unknown"
    assert [path for _, path in cloud.asked] == ["oauth2/token"], "what is known isn't asked again"


@pytest.mark.parametrize(("needed", "status"), [(True, "fail"), (False, "ok")])
def test_credentials_that_are_not_there_matter_where_they_are_needed(
    needed, status, tmp_path, monkeypatch, find
):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with Google() as google:
        (found,) = find(questions.check_credentials, google, needed=needed).values()
        assert (found.status, found.said.partition(";")[0]) == (status, "there are no credentials")
        (project,) = find(questions.check_project, google, "my-project").values()
    assert (project.status, project.said) == ("unknown", "there are no credentials")


def test_a_key_file_that_is_not_there_is_named(tmp_path, monkeypatch, find):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "gone.json"))
    with Google() as google:
        (found,) = find(questions.check_credentials, google).values()
    assert found.status == "fail"
    assert "gone.json" in found.said


def test_offline_nothing_is_asked_twice_and_all_is_unknown(monkeypatch, find):
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CLOUD_EMULATOR_REST", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with Google() as google:
            found = [
                *find(questions.check_project, google, "my-project").values(),
                *find(questions.check_apis, google, USES).values(),
                *find(questions.check_permissions, google, USES).values(),
            ]
    assert [one.status for one in found] == ["unknown"] * 3
    assert all("can't be reached (127.0.0.1: Connection refused)" in one.said for one in found)


def test_a_service_that_is_silent_costs_one_timeout(cloud, find):
    cloud.silent.add("serviceusage")
    with Google(0.3) as google:
        first = find(questions.check_apis, google, USES)
        second = find(questions.check_apis, google, USES)
        other = find(questions.check_project, google, "my-project")
    assert [one.status for one in (*first.values(), *second.values())] == ["unknown", "unknown"]
    assert "timed out" in first["question"].said
    assert other["project"].status == "ok", "one that answers is asked all the same"
    assert len([path for _, path in cloud.asked if path.startswith("serviceusage")]) == 1


def test_a_project_is_named_with_its_number_or_is_not_there(cloud, google, find):
    assert NUMBER in find(questions.check_project, google, "my-project")["project"].said
    other = find(questions.check_project, google, "another-project")["project"]
    assert (other.status, other.remedy) == ("fail", "gcloud projects list")
    cloud.state = "DELETE_REQUESTED"
    gone = find(questions.check_project, google, "my-project")["project"]
    assert (gone.status, gone.remedy) == ("fail", "gcloud projects undelete my-project")


def test_apis_that_are_off_are_enabled_by_one_command(cloud, google, find):
    uses = Uses(
        on_dataflow=True,
        project="my-project",
        tables={parse_table("my-project.lake.rows"): "output"},
        image="us-docker.pkg.dev/p/r/i:1",
    )
    found = find(questions.check_apis, google, uses)["APIs"]
    off = "bigquery.googleapis.com bigquerystorage.googleapis.com artifactregistry.googleapis.com"
    assert (found.status, found.remedy) == ("fail", f"gcloud services enable {off} --project my-project")
    cloud.enabled |= {"bigquery", "bigquerystorage", "artifactregistry"}
    assert find(questions.check_apis, google, uses)["APIs"].status == "ok"


def test_an_api_that_is_off_itself_is_told_from_a_lack_of_rights(cloud, google, find):
    said = "Service Usage API has not been used in project 1 before: see serviceusage.googleapis.com"
    cloud.faults["serviceusage"] = (403, said)
    (found,) = find(questions.check_apis, google, USES).values()
    assert (found.status, found.remedy) == ("unknown", "gcloud services enable serviceusage.googleapis.com")
    cloud.faults["serviceusage"] = (403, "Permission denied to list services")
    (found,) = find(questions.check_apis, google, USES).values()
    assert found.status == "unknown"
    assert "may not look" in found.said


def test_permissions_that_are_missing_are_named_with_the_role(cloud, google, find):
    found = find(questions.check_permissions, google, USES)
    assert {one.status for one in found.values()} == {"ok"}
    assert WORKER in found["workers' account"].said
    cloud.denied = {"dataflow.jobs.create", "iam.serviceAccounts.actAs"}
    found = find(questions.check_permissions, google, USES)
    assert {one.status for one in found.values()} == {"fail"}
    assert "dataflow.jobs.create" in found["permissions"].said
    assert "dataflow.jobs.get" not in found["permissions"].said
    assert found["permissions"].remedy == "grant it roles/dataflow.developer"
    assert "roles/iam.serviceAccountUser" in found["workers' account"].remedy


def test_the_account_that_is_named_is_the_one_that_is_looked_at(cloud, google, find):
    account = "worker@my-project.iam.gserviceaccount.com"
    uses = Uses(on_dataflow=True, project="my-project", account=account, buckets={"lake": ("images",)})
    assert account in find(questions.check_permissions, google, uses)["workers' account"].said
    assert ("POST", f"iam/v1/projects/-/serviceAccounts/{account}:testIamPermissions") in cloud.asked
    found = find(questions.check_worker_roles, google, uses)["workers' roles"]
    assert found.status == "warn"
    assert "roles/dataflow.worker" in found.said
    assert "roles/storage.objectAdmin" in found.said
    bind = f"--member serviceAccount:{account} --role roles/dataflow.worker"
    assert bind in found.remedy
    cloud.roles[account] = {"roles/dataflow.worker", "roles/storage.admin"}
    assert find(questions.check_worker_roles, google, uses)["workers' roles"].status == "ok"


def test_dataflows_own_agent_needs_its_role(cloud, google, find):
    assert "Dataflow's agent" not in find(questions.check_worker_roles, google, USES)
    cloud.roles[AGENT] = set()
    found = find(questions.check_worker_roles, google, USES)["Dataflow's agent"]
    assert found.status == "warn"
    assert "roles/dataflow.serviceAgent" in found.remedy


def test_a_policy_that_may_not_be_read_is_unknown_not_wrong(cloud, google, find):
    cloud.faults["cloudresourcemanager"] = (403, "The caller does not have permission")
    (found,) = find(questions.check_worker_roles, google, USES).values()
    assert found.status == "unknown"


def test_a_run_on_this_machine_asks_for_no_roles(cloud, google, find):
    uses = Uses(project="my-project", buckets={"lake": ("images",)})
    assert not find(questions.check_permissions, google, uses)
    assert not find(questions.check_worker_roles, google, uses)
    assert questions.apis_of(uses) == ["storage.googleapis.com"]
    assert not cloud.asked
