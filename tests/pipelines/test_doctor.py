"""``beam-vision doctor``, run as its users run it, here and against a cloud on loopback."""

import importlib
import json
import socket

import pytest

from beam_vision.doctor.image import BEAM_LABEL, PYTHON_LABEL
from beam_vision.pipelines import cli, doctor
from beam_vision.pipelines.doctor_options import JOBS, read
from beam_vision.testing import models
from beam_vision.testing.fake_cloud import FakeCloud
from beam_vision.testing.images import make_lake

QUICK = ["--no-libraries", "--output_format", "json"]
IMAGE = "us-docker.pkg.dev/my-project/repo/beam-vision:1"
ZONES = {"us-central1-a"}


@pytest.fixture
def look(capsys, tmp_path, monkeypatch):
    """Runs the doctor where no programs are; gives its exit code, its answer and its findings by name."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def look(*argv, quick=QUICK):
        code = cli.main(["doctor", *argv, *quick])
        answer = json.loads(capsys.readouterr().out)
        return code, answer, {one["name"]: one for one in answer["findings"]}

    return look


@pytest.fixture
def cloud(monkeypatch):
    """A project in which a job on Dataflow finds all it needs."""
    here = doctor.versions()
    with FakeCloud() as fake:
        fake.enabled |= {"artifactregistry"}
        fake.buckets["lake"] = {"location": "US-CENTRAL1"}
        fake.offered = {"nvidia-tesla-t4": ZONES, "n1-standard-8": ZONES}
        fake.images[IMAGE] = {"Labels": {BEAM_LABEL: here.beam, PYTHON_LABEL: here.python}}
        monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
        monkeypatch.setenv("CLOUD_EMULATOR_REST", fake.address)
        yield fake


PREDICT = ["predict", "--task", "embed", "--images", "gs://lake/photos", "--model", "gs://lake/model"]
PREDICT += ["--output", "gs://lake/table", "--gpu", "t4", "--no-preflight"]
DATAFLOW = ["--runner=DataflowRunner", "--project=my-project", "--region=us-central1"]
DATAFLOW += ["--temp_location=gs://lake/temp", f"--sdk_container_image={IMAGE}"]


def of(answer, status):
    return {one["name"] for one in answer["findings"] if one["status"] == status}


def test_a_job_on_dataflow_that_finds_all_it_needs(look, cloud):
    code, answer, found = look(*PREDICT, *DATAFLOW)
    assert not of(answer, "fail") | of(answer, "unknown"), answer["findings"]
    assert (code, answer["ok"], answer["job"]) == (0, True, "predict")
    names = {"credentials", "project", "APIs", "permissions", "workers' account", "workers' roles", "region"}
    names |= {"GPU type", "machine type", "quota NVIDIA_T4_GPUS", "quota CPUS", "bucket lake", "submission"}
    assert names | {"container", "Python", "packages"} <= set(found)
    assert found["quota NVIDIA_T4_GPUS"]["said"].endswith("room for 3 workers")
    assert answer["counts"]["ok"] == len(of(answer, "ok"))


def test_whatever_is_wrong_is_said_at_once(look, cloud):
    cloud.enabled -= {"dataflow"}
    cloud.denied = {"dataflow.jobs.create", "storage.objects.create"}
    cloud.buckets["lake"] = {"location": "EUROPE-WEST4"}
    cloud.images[IMAGE] = {"Labels": {BEAM_LABEL: "2.50.0", PYTHON_LABEL: "3.11"}}
    cloud.offered.pop("nvidia-tesla-t4")
    code, answer, found = look(*PREDICT, *DATAFLOW, "--max_num_workers=100")
    assert code == 1
    assert of(answer, "fail") == {"APIs", "permissions", "bucket lake", "container", "GPU type"}
    assert "quota NVIDIA_T4_GPUS" in of(answer, "warn")
    assert all(one["remedy"] for one in answer["findings"] if one["status"] == "fail")
    assert "dataflow.googleapis.com" in found["APIs"]["remedy"]


def test_options_that_dataflow_would_not_take_fail(look, cloud):
    argv = [one.replace("gs://lake/table", "table") for one in PREDICT if one not in ("--gpu", "t4")]
    code, answer, _ = look(*argv, *DATAFLOW[:-1])
    said = " ".join(one["said"] for one in answer["findings"] if one["name"] == "submission")
    assert code == 1
    assert "--output table is on this machine" in said
    assert "workers would lack beam_vision" in said


def test_beams_options_alone_are_looked_at_too(look, cloud):
    code, answer, found = look(*DATAFLOW)
    assert code == 0, answer
    assert found["region"]["status"] == "ok"
    assert "options" not in found


def test_right_fitting_takes_the_quota_of_inferences_machines(look, cloud):
    _, _, found = look(*PREDICT, "--right_fit", *DATAFLOW)
    assert found["GPU type"]["said"] == "nvidia-tesla-t4 in us-central1-a"
    assert "room for 3 workers" in found["quota NVIDIA_T4_GPUS"]["said"]


def test_a_job_here_runs_its_own_checks_and_asks_no_cloud(look, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    make_lake(tmp_path / "lake", per_class=1)
    model = models.save_onnx(str(tmp_path / "colours.onnx"))
    argv = ["predict", "--task", "classify", "--images", str(tmp_path / "lake"), "--model", model]
    argv += ["--output", str(tmp_path / "table"), "--no-check_model"]
    code, _, found = look(*argv)
    assert (code, found["options"]["status"]) == (0, "ok")
    assert found["credentials"]["status"] == "ok"
    assert not (tmp_path / "table").exists()
    assert f"disk {tmp_path / 'table'}" in found
    argv[argv.index("--images") + 1] = str(tmp_path / "nowhere")
    code, _, found = look(*argv)
    assert (code, found["options"]["status"]) == (1, "fail")
    assert "nowhere" in found["options"]["said"]


def test_offline_what_is_in_the_cloud_is_unknown_and_soon(look, tmp_path, monkeypatch):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    argv = [one for one in PREDICT if one != "--no-preflight"]
    with socket.socket() as taken:  # bound and not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CLOUD_EMULATOR_REST", f"http://127.0.0.1:{taken.getsockname()[1]}")
        code, answer, found = look(*argv, *DATAFLOW)
    unknown = {"project", "APIs", "permissions", "workers' roles", "region", "bucket lake", "container"}
    assert of(answer, "unknown") == unknown | {"options"}
    assert all("can't be reached" in found[name]["said"] for name in unknown)
    assert (code, found["submission"]["status"]) == (0, "ok"), "what can be checked, is"


def test_a_stream_from_the_emulators_needs_no_login(look, pubsub, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    subscription = pubsub.subscription(pubsub.topic())
    argv = ["stream", "--task", "classify", "--input", f"pubsub://{subscription}", "--model", "m"]
    code, _, found = look(*argv, "--output", str(tmp_path / "table"), "--no-preflight")
    assert code == 0
    assert found["emulators"]["status"] == "warn"
    assert found["credentials"]["status"] == "ok"
    assert found["dead letter"]["status"] == "warn"
    assert "project" not in found


@pytest.mark.parametrize("named", [[], ["--job", "predict"]])
def test_redrive_takes_the_options_of_its_job_and_reads_nothing_for_it(look, cloud, named):
    argv = ["redrive", "--failures", "gs://lake/table/failures", *named, *PREDICT[1:], *DATAFLOW]
    code, answer, found = look(*argv)
    assert (code, answer["job"]) == (0, "redrive")
    assert "--failures" in found["bucket lake"]["said"]
    assert found["GPU type"]["status"] == "ok"
    without = read("redrive", ["--failures", "f", "--images", "photos", "--output", "records"])
    assert "splits" in without.options


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["predcit", "--task", "embed"], "'predcit' is none of them"),
        (["train", "--config", "x"], "'train' is none of them"),
        (["--runer=DataflowRunner"], "did you mean --runner?"),
        (["verify-tfrecords", "folder", "--imagse", "x"], "unknown option --imagse"),
        (["--timeout_sec", "0"], "--timeout_sec is 0.0"),
    ],
)
def test_what_can_not_be_read_is_refused(argv, said, capsys):
    assert cli.main(["doctor", *argv]) == 2
    assert said in capsys.readouterr().err


def test_every_job_that_it_takes_is_one_of_ours():
    assert set(JOBS) <= set(cli.JOBS)
    for job in JOBS:
        assert importlib.import_module(f"beam_vision.pipelines.{job.replace('-', '_')}").Options


@pytest.mark.slow
def test_the_table_shows_groups_and_remedies_and_all_libraries(warm_children, capsys, cloud):
    cloud.enabled -= {"dataflow"}
    assert cli.main(["doctor", *DATAFLOW]) == 1
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")][:4] == [
        "this machine",
        "Google Cloud",
        "data",
        "job",
    ]
    for name in ("TensorFlow", "Keras", "Beam", "tfx-bsl", "ScaNN", "crc32c", "ONNX Runtime"):
        (line,) = [line for line in lines if line.split()[1:2] == [name.split()[0]]]
        assert line.split()[0] == "ok", line
    at = next(index for index, line in enumerate(lines) if line.split()[:2] == ["fail", "APIs"])
    assert lines[at + 1].strip() == "-> gcloud services enable dataflow.googleapis.com --project my-project"
    assert lines[-1].endswith("1 fail")
