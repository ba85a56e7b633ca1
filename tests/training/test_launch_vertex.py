"""Launching on Vertex AI: the real client library against a service on loopback."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import storage
from beam_vision.errors import JobError, UsageError
from beam_vision.inference.bundle import read_bundle
from beam_vision.pipelines import train_launch
from beam_vision.pipelines.cli import main
from beam_vision.testing.datasets import make_labelled
from beam_vision.testing.fake_vertex import Course, FakeVertex
from beam_vision.training.config import from_dict
from beam_vision.training.launch import preflight, quota, vertex, worker
from beam_vision.training.launch.base import State
from beam_vision.training.launch.settings import Placement, read_launch, without_env
from beam_vision.training.launch.vertex_api import Api
from beam_vision.training.launch.vertex_spec import SUBMISSION_LABEL
from beam_vision.training.tune_space import read_space

LAUNCH = {
    "project": "my-project",
    "region": "us-central1",
    "staging": "gs://lake/runs",
    "image": "us-docker.pkg.dev/my-project/vision/train:1",
    "machine_type": "n1-standard-8",
    "accelerator": "NVIDIA_TESLA_T4",
    "accelerators": 2,
    "replicas": 3,
    "spot": True,
    "restart": True,
    "service_account": "trainer@my-project.iam.gserviceaccount.com",
    "network": "projects/12345/global/networks/vision",
    "labels": {"team": "vision"},
    "timeout_sec": 3600,
    "env": {"TF_CPP_MIN_LOG_LEVEL": "3"},
    "name": "digits",
}
T4 = "custom_model_training_preemptible_nvidia_t4_gpus"
STOCKOUT = "Resources are insufficient in region: us-central1. Please try a different region."
TUNE = {
    "objective": "val_accuracy",
    "algorithm": "random",
    "trials": 6,
    "parallel": 2,
    "parameters": {
        "optimizer.learning_rate": {"min": 1e-4, "max": 1e-1, "scale": "log"},
        "optimizer.name": {"values": ["adam", "sgd"]},
        "model.embedding_dim": {"min": 16, "max": 64, "step": 16, "whole": True},
        "optimizer.nesterov": {"values": [True, False]},
        "run.epochs": {"min": 2, "max": 9, "whole": True},
    },
}


@pytest.fixture
def service(gcs, monkeypatch):
    with FakeVertex() as running:
        running.neighbours.buckets["lake"] = {"location": "US-CENTRAL1"}
        for name, value in running.environment.items():
            monkeypatch.setenv(name, value)
        yield running


@pytest.fixture
def dataset(gcs):
    folder = f"{gcs}/digits"
    if not storage.exists(f"{folder}/manifest.json"):
        make_labelled(folder, {"train": 6, "validation": 3}, side_px=16)
    return folder


@pytest.fixture
def api(service):
    with Api("my-project") as connections:
        yield connections


def job(tune=None, **changed):
    given = {"data": {"dataset": "gs://lake/digits"}, "launch": {**LAUNCH, **changed}, "tune": tune or {}}
    return from_dict(given)


def launcher(api, config, *, said=None, waits=None):
    """One that never sleeps for real; time goes on by what it would have slept."""
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds
        if waits is not None:
            waits.append(seconds)

    timing = vertex.Timing(sleep=sleep, clock=lambda: now[0])
    space = read_space(config) if config.tune else None
    told = [] if said is None else said
    settings = read_launch(config.launch)
    return vertex.Launcher(api, config, settings, space=space, tell=told.append, timing=timing)


def test_the_request_and_the_course_of_a_job(service, api):
    service.courses = [
        Course(("QUEUED", "PENDING", "RUNNING", "RUNNING", "SUCCEEDED"), lines=("a", "b", "c"))
    ]
    service.neighbours.page = 2
    said, waits = [], []
    ended = launcher(api, job(), said=said, waits=waits).run()

    assert ended.state is State.SUCCEEDED
    (request,) = service.asked("CreateCustomJob")
    assert request.parent == "projects/my-project/locations/us-central1"
    made = request.custom_job
    assert made.display_name == "digits"
    assert set(made.labels) == {"team", "beam_vision_task", SUBMISSION_LABEL}
    spec = made.job_spec
    chief, workers = spec.worker_pool_specs
    assert (chief.replica_count, workers.replica_count) == (1, 2)
    for pool in (chief, workers):
        assert pool.machine_spec.machine_type == "n1-standard-8"
        assert pool.machine_spec.accelerator_type.name == "NVIDIA_TESLA_T4"
        assert pool.machine_spec.accelerator_count == 2
        assert pool.disk_spec.boot_disk_size_gb == 100
        assert pool.container_spec.image_uri == LAUNCH["image"]
        assert [(one.name, one.value) for one in pool.container_spec.env] == [("TF_CPP_MIN_LOG_LEVEL", "3")]
    assert spec.scheduling.strategy.name == "SPOT"
    assert spec.scheduling.restart_job_on_worker_restart
    assert spec.scheduling.timeout.total_seconds() == 3600
    assert spec.service_account == LAUNCH["service_account"]
    assert spec.network == LAUNCH["network"]

    folder = spec.base_output_directory.output_uri_prefix
    assert folder == f"gs://lake/runs/digits/{made.labels[SUBMISSION_LABEL]}"
    assert ended.output == f"{folder}/model"
    command = [*chief.container_spec.command, *chief.container_spec.args]
    assert command == ["python", "-m", "beam_vision.training.launch.worker", "--config", f"{folder}/job.json"]
    assert from_dict(storage.read_json(f"{folder}/job.json")) == without_env(job())

    number = ended.name.rpartition("/")[2]
    assert [line for line in said if line.startswith(f"job {number} is")] == [
        f"job {number} is {state}" for state in ("waiting", "running", "succeeded")
    ]
    assert [line for line in said if line.startswith("workerpool")] == [
        f"workerpool0-0: {line}" for line in "abc"
    ]
    assert waits == [10.0] * 4


def test_what_is_printed_is_what_is_sent(service, api, capsys):
    options = train_launch.LaunchOptions(on="vertex", print_job=True)
    assert train_launch.launch(options, job(), []) == 0
    printed = json.loads(capsys.readouterr().out)
    assert not service.requests

    launcher(api, job()).run(wait=False)
    sent = type(service.asked("CreateCustomJob")[0].custom_job)
    asked = service.asked("CreateCustomJob")[0].custom_job
    own = asked.labels[SUBMISSION_LABEL]
    given = sent(json.loads(json.dumps(printed).replace("SUBMISSION", own)))
    given.name, given.create_time, given.state = asked.name, asked.create_time, asked.state
    assert given == asked


def test_a_job_that_fails_says_why_in_the_replicas_words(service, dataset, capsys):
    why = "The replica workerpool0-0 exited with a non-zero status of 1. Termination reason: Error."
    service.courses = [Course(("RUNNING", "FAILED"), error=why)]
    options = train_launch.LaunchOptions(on="vertex", poll_sec=0.01)
    with pytest.raises(
        JobError, match=r"customJobs/\d+ failed: The replica workerpool0-0 exited with a non-z"
    ):
        train_launch.launch(options, job(), [])
    assert len(service.jobs) == 1  # it had its machine: another one would not do better


def test_no_quota_leads_to_the_next_placement(service, api):
    service.quotas[("us-central1", T4)] = 5
    config = job(
        fallbacks=[{"accelerator": "NVIDIA_L4", "machine_type": "g2-standard-8", "region": "us-west1"}]
    )
    said = []
    ended = launcher(api, config, said=said).run()

    refused, taken = service.asked("CreateCustomJob")
    assert refused.parent.endswith("/us-central1")
    assert taken.parent.endswith("/us-west1")
    machine = taken.custom_job.job_spec.worker_pool_specs[0].machine_spec
    assert (machine.machine_type, machine.accelerator_type.name) == ("g2-standard-8", "NVIDIA_L4")
    assert "/locations/us-west1/" in ended.name
    (no_room,) = [line for line in said if line.startswith("no room")]
    assert f"aiplatform.googleapis.com/{T4} in us-central1 (the job takes 6)" in no_room
    assert "project my-project" in no_room


def test_no_quota_anywhere_names_every_quota(service, api):
    service.quotas.update({("us-central1", T4): 0, ("us-west1", T4): 0})
    config = job(fallbacks=[{"region": "us-west1"}])
    with pytest.raises(JobError, match=f"{T4} in us-central1.*{T4} in us-west1"):
        launcher(api, config).run()
    assert not service.jobs


def test_no_machine_leads_to_the_next_placement_too(service, api):
    service.courses = [Course(("PENDING", "FAILED"), error=STOCKOUT), Course()]
    ended = launcher(api, job(fallbacks=[{"region": "us-west1"}])).run()
    assert ended.state is State.SUCCEEDED
    assert "/locations/us-west1/" in ended.name


def test_a_job_that_had_begun_is_not_begun_anew(service, api):
    service.courses = [Course(("RUNNING", "FAILED"), error="no quota left on the bucket; insufficient luck")]
    ended = launcher(api, job(fallbacks=[{"region": "us-west1"}])).run()
    assert ended.state is State.FAILED
    assert len(service.jobs) == 1


def test_a_job_that_waits_too_long_is_cancelled_for_the_next_placement(service, api):
    service.courses = [Course(("PENDING",)), Course()]
    config = job(fallbacks=[{"spot": False}], max_wait_sec=60)
    ended = launcher(api, config).run()
    first, second = service.jobs
    assert service.asked("CancelCustomJob")[0].name == first
    assert ended.name == second
    assert service.jobs[second].message.job_spec.scheduling.strategy.name == "STANDARD"


def test_a_lost_answer_makes_no_second_job(service, api):
    service.faults["CreateCustomJob"] = [("done UNAVAILABLE", "socket closed")]
    launcher(api, job()).run()
    assert len(service.asked("CreateCustomJob")) == len(service.jobs) == 1


def test_a_lost_request_is_sent_again(service, api):
    service.faults["CreateCustomJob"] = [("UNAVAILABLE", "socket closed")] * 2
    service.faults["GetCustomJob"] = [("INTERNAL", "try again")]
    waits = []
    ended = launcher(api, job(), waits=waits).run()
    assert ended.state is State.SUCCEEDED
    assert (len(service.asked("CreateCustomJob")), len(service.jobs)) == (3, 1)
    assert waits[:3] == [1.0, 2.0, 1.0]


def test_too_many_requests_are_no_lack_of_quota_for_machines(service, api):
    service.faults["CreateCustomJob"] = [("RESOURCE_EXHAUSTED", "Too many requests a minute.")]
    ended = launcher(api, job(fallbacks=[{"region": "us-west1"}])).run()
    assert "/locations/us-central1/" in ended.name


@pytest.mark.parametrize(
    ("code", "said", "told"),
    [
        (
            "PERMISSION_DENIED",
            "Permission 'aiplatform.customJobs.create' denied",
            "needs roles/aiplatform.user",
        ),
        ("INVALID_ARGUMENT", "Machine type is not supported", "Machine type is not supported"),
    ],
)
def test_a_refusal_is_told_and_not_repeated(service, api, code, said, told):
    service.faults["CreateCustomJob"] = [(code, said)]
    with pytest.raises(UsageError, match=told):
        launcher(api, job(fallbacks=[{"region": "us-west1"}])).run()
    assert len(service.asked("CreateCustomJob")) == 1


def test_a_log_that_cant_be_read_is_said_once_and_stops_nothing(service, api):
    service.neighbours.broken.add("logging")
    said = []
    assert launcher(api, job(), said=said).run().state is State.SUCCEEDED
    assert len([line for line in said if "log can't be read" in line]) == 1


def test_a_detached_job_is_listed_followed_and_cancelled(service, dataset, capsys):
    service.courses = [Course(("RUNNING",), lines=("one", "two")), Course(("RUNNING", "SUCCEEDED"))]

    def run(**options):
        return train_launch.launch(train_launch.LaunchOptions(poll_sec=0.01, **options), job(), [])

    assert run(on="vertex", detach=True) == run(on="vertex", detach=True) == 0
    first, second = service.jobs
    assert not service.asked("GetCustomJob")
    capsys.readouterr()

    assert run(list_jobs=True, on="vertex") == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in listed] == [["waiting", "digits", second], ["waiting", "digits", first]]

    assert run(follow_job=second) == 0
    assert run(cancel_job=first) == 0
    with pytest.raises(JobError, match="was cancelled"):
        run(follow_job=first)
    assert "workerpool0-0: one" in capsys.readouterr().out
    with pytest.raises(UsageError, match="not found"):
        run(follow_job=first + "0")
    with pytest.raises(UsageError, match="is no job"):
        run(cancel_job="digits")


def test_a_tuning_job(service, api):
    config = job(tune=TUNE)
    ended = launcher(api, config).run()
    assert "/hyperparameterTuningJobs/" in ended.name
    asked = service.asked("CreateHyperparameterTuningJob")[0].hyperparameter_tuning_job
    assert (asked.max_trial_count, asked.parallel_trial_count) == (6, 2)
    (metric,) = asked.study_spec.metrics
    assert (metric.metric_id, metric.goal.name) == ("val_accuracy", "MAXIMIZE")
    assert asked.study_spec.algorithm.name == "RANDOM_SEARCH"
    rate, name, width, nesterov, epochs = asked.study_spec.parameters
    assert rate.parameter_id == "optimizer__learning_rate"
    assert (rate.double_value_spec.min_value, rate.double_value_spec.max_value) == (1e-4, 1e-1)
    assert rate.scale_type.name == "UNIT_LOG_SCALE"
    assert list(name.categorical_value_spec.values) == ["adam", "sgd"]
    assert list(width.discrete_value_spec.values) == [16, 32, 48, 64]
    assert list(nesterov.categorical_value_spec.values) == ["true", "false"]
    assert (epochs.integer_value_spec.min_value, epochs.integer_value_spec.max_value) == (2, 9)
    args = list(asked.trial_job_spec.worker_pool_specs[0].container_spec.args)
    assert args[-2:] == ["--objective", "val_accuracy"]
    with pytest.raises(UsageError, match="only bayesian and random"):
        launcher(api, job(tune={**TUNE, "algorithm": "hyperband"})).run()


def check(api, config, **more):
    return preflight.check(api, config, read_launch(config.launch), **more)


def test_preflight_says_what_it_found(service, api):
    service.quotas[("us-central1", T4)] = 6
    found = check(api, job())
    place = "Spot n1-standard-8 with 2 x NVIDIA_TESLA_T4 in us-central1"
    assert found["quota"][place] == {
        f"aiplatform.googleapis.com/{T4}": "6 of 6",
        "aiplatform.googleapis.com/custom_model_training_preemptible_cpus": "24 of any",
    }
    assert found["buckets"] == {"lake": "us-central1"}
    assert "iam.serviceAccounts.actAs" in found["permissions"]
    assert found["notes"] == []
    assert not service.requests  # nothing was made


def test_preflight_names_a_bucket_far_away(service, api):
    service.neighbours.buckets["lake"] = {"location": "EUROPE-WEST4"}
    (note,) = check(api, job())["notes"]
    assert "bucket lake in europe-west4" in note
    assert "run in us-central1" in note
    del service.neighbours.buckets["lake"]
    with pytest.raises(UsageError, match="gcloud storage buckets create gs://lake"):
        check(api, job())


def test_preflight_names_each_missing_permission_and_its_role(service, api):
    service.neighbours.denied = {
        "aiplatform.hyperparameterTuningJobs.create",
        "storage.objects.create",
        "iam.serviceAccounts.actAs",
    }
    with pytest.raises(UsageError) as error:
        check(api, job(tune=TUNE), tuning=True)
    for said in (
        "aiplatform.hyperparameterTuningJobs.create on project my-project (roles/aiplatform.user)",
        "storage.objects.create on bucket lake (roles/storage.objectAdmin)",
        "iam.serviceAccounts.actAs on service account trainer@my-project.iam.gserviceaccount.com",
    ):
        assert said in str(error.value)


def test_preflight_refuses_only_where_no_placement_has_quota(service, api):
    service.quotas[("us-central1", T4)] = 0
    found = check(api, job(fallbacks=[{"spot": False}]))
    assert f"no quota left of aiplatform.googleapis.com/{T4} in us-central1" in found["notes"][0]
    with pytest.raises(UsageError, match=f"{T4} in us-central1 .the job takes 6."):
        check(api, job())
    service.neighbours.broken.add("serviceusage")
    assert "not checked" in check(api, job())["notes"][0]


def test_a_local_dataset_is_refused(service, tmp_path):
    config = from_dict({"data": {"dataset": str(tmp_path)}, "launch": LAUNCH})
    with pytest.raises(UsageError, match="gcloud storage cp -r"):
        train_launch.launch(train_launch.LaunchOptions(on="vertex"), config, [])


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"machine": "n1-standard-8"}, "launch has no 'machine'; did you mean 'machine_type'"),
        ({"region": "us central"}, "launch.region is 'us central'"),
        ({"staging": "/tmp/runs"}, "launch.staging is '/tmp/runs'; it must be a folder of a bucket"),
        ({"accelerator": "T4"}, "launch.accelerator is 'T4'; it must be one of"),
        ({"accelerators": 0}, "give both or neither"),
        ({"labels": {"Team": "x"}}, "launch.labels has Team: x"),
        ({"network": "vision"}, "with the project's number"),
        ({"fallbacks": [{"replicas": 2}]}, r"launch.fallbacks\[0\] has no 'replicas'"),
        ({"image": ""}, "launch.image is ''"),
    ],
)
def test_a_bad_section_is_refused(changed, told):
    with pytest.raises(UsageError, match=told):
        read_launch({**LAUNCH, **changed})


@pytest.mark.parametrize(
    ("bucket", "near", "far"),
    [
        ({"location": "US"}, "us-west1", "europe-west4"),
        ({"location": "EU"}, "europe-west4", "us-west1"),
        ({"location": "NAM4"}, "us-east1", "us-west1"),
        (
            {"location": "US", "customPlacementConfig": {"dataLocations": ["US-WEST1"]}},
            "us-west1",
            "us-east1",
        ),
        ({"location": "US-EAST1"}, "us-east1", "us-east4"),
    ],
)
def test_where_a_bucket_is_near(bucket, near, far):
    assert preflight.is_near(near, bucket)
    assert not preflight.is_near(far, bucket)


@given(
    machine=st.sampled_from(
        [("n1-standard-8", 8, ""), ("a2-highgpu-2g", 24, "a2_"), ("g2-standard-4", 4, "g2_")]
    ),
    gpus=st.integers(1, 8),
    replicas=st.integers(1, 5),
    spot=st.booleans(),
)
def test_quota_is_by_replica_and_apart_for_spot(machine, gpus, replicas, spot):
    name, cpus, family = machine
    place = Placement(
        region="us-central1", machine_type=name, accelerator="NVIDIA_L4", accelerators=gpus, spot=spot
    )
    kind = "preemptible_" if spot else ""
    assert quota.needed(place, replicas) == {
        f"{quota.PREFIX}{kind}nvidia_l4_gpus": gpus * replicas,
        f"{quota.PREFIX}{kind}{family}cpus": cpus * replicas,
    }


def test_late_entries_of_the_log_come_too_and_none_twice(service, api):
    import datetime

    from beam_vision.training.launch.vertex_logs import LogReader

    start = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(seconds=30)
    reader = LogReader(api, start)
    service.neighbours.log("7", "second")
    assert reader.read(["7"]) == ["workerpool0-0: second"]
    service.neighbours.log("7", "first")
    late = service.neighbours.entries[-1]
    late["timestamp"] = (start + datetime.timedelta(seconds=5)).isoformat().replace("+00:00", "Z")
    service.neighbours.log("8", "another job's")
    assert reader.read(["7"]) == ["workerpool0-0: first"]
    assert reader.read(["7"]) == []


def test_waiting_really_waits(service, api):
    config = job()
    timing = vertex.Timing(poll_sec=0.05)
    start = time.monotonic()
    vertex.Launcher(api, config, read_launch(config.launch), tell=lambda line: None, timing=timing).run()
    assert time.monotonic() - start >= 0.1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"model": {"architecture": "mobilenett"}}, "model.architecture 'mobilenett' is not known"),
        ({"export": {"gate": "acuracy>=0.9"}}, "export.gate acuracy>=0.9: no such figure; did you mean"),
        ({"run": {"monitor": "val_acc"}}, "run.monitor 'val_acc' is no figure of an epoch; did you mean"),
        ({"data": {"dataset": "gs://lake/nothing"}}, "no TFRecord dataset at gs://lake/nothing"),
        ({"task": "detect"}, "has no boxes"),
    ],
)
def test_a_job_that_can_not_be_is_refused_before_a_machine_is_hired(service, dataset, changed, told):
    with pytest.raises(UsageError, match=told):
        train_launch.launch(train_launch.LaunchOptions(on="vertex"), job().replace(**changed), [])
    assert not service.requests


@pytest.mark.slow
def test_a_container_really_trains_and_its_bundle_becomes_latest_past_the_gate(
    service, tmp_path, warm_children, capsys
):
    make_labelled(tmp_path / "elsewhere", {"train": 32, "validation": 16}, side_px=32)

    def container(argv, env, tell):
        (tmp_path / "elsewhere").rename(tmp_path / "dataset")  # which the image has, and this machine hasn't
        return worker.main(argv, env, tell)

    service.runs = container
    config = {
        "data": {"dataset": str(tmp_path / "dataset"), "image_size": 32, "batch_size": 16},
        "model": {"embedding_dim": 8},
        "run": {"epochs": 1, "jit": False},
        "export": {"keras": False, "check_images": 0, "golden_images": 0},
        "launch": {**LAUNCH, "replicas": 1, "env": {}},
    }
    path, models = tmp_path / "job.json", tmp_path / "models"
    path.write_text(json.dumps(config))
    train = ["train", "--config", str(path), "--output", str(models), "--versioned"]
    assert main([*train, "--gate", "accuracy>=0", "--on", "vertex", "--poll_sec", "0.2"]) == 0
    told = capsys.readouterr()
    assert "workerpool0-0: epoch   1" in told.out
    assert "LATEST is v1, before nothing: accuracy" in told.err
    spec = read_bundle(str(models))
    assert (spec.task, spec.height_px, spec.embedding_dim) == ("classify", 32, 8)

    (made,) = service.jobs.values()
    staged = f"{made.message.job_spec.base_output_directory.output_uri_prefix}/model"
    assert read_bundle(staged) == spec
    assert main([*train, "--gate", "accuracy>=1.1", "--publish", staged]) == 1
    assert "v2 missed its gate" in capsys.readouterr().err
    assert (models / "LATEST").read_text().strip() == "v1"
    assert (models / "v2" / "model_spec.json").exists()
