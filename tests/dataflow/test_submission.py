"""Whole jobs sent to a Dataflow service on loopback by Beam's own runner, and what is said of their end."""

import json
import time
import types

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.utils import retry
from google.api_core import exceptions
from google.auth.exceptions import RefreshError
from requests.exceptions import ConnectTimeout

from beam_vision import table
from beam_vision.errors import JobError
from beam_vision.pipelines import cli
from beam_vision.pipelines.submission import service_errors
from beam_vision.testing import images, models
from beam_vision.testing.dataflow_job import dataflow_args
from beam_vision.testing.fake_dataflow import FakeDataflow

JOB_TYPE_BATCH = 1


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch):
    """Beam looks at a job every 5 seconds, and waits as long before it tries again."""
    quick = types.SimpleNamespace(sleep=lambda sec: time.sleep(min(sec, 0.05)), time=time.time)
    monkeypatch.setattr(dataflow_runner, "time", quick)
    monkeypatch.setattr(retry.Clock, "sleep", lambda self, sec: time.sleep(min(sec, 0.05)))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake")
    images.make_lake(folder, per_class=2)
    (folder / "red" / "text.jpg").write_bytes(b"this is not an image\n")
    return folder


@pytest.fixture
def service():
    with FakeDataflow() as service:
        yield service


@pytest.fixture
def predict(service, model, lake, tmp_path):
    """The job on the command line's own way."""

    def run(*more):
        argv = ["predict", "--task", "classify", "--images", str(lake), "--model", model, "--no-check_model"]
        argv += ["--output", str(tmp_path / "table"), *dataflow_args(tmp_path, endpoint=service.endpoint)]
        return cli.main([*argv, *more])

    return run


def test_a_job_is_sent_run_and_accounted_for(predict, service, tmp_path, capsys):
    summary = tmp_path / "summary.json"
    assert predict("--summary", str(summary), "--gpu=l4", "--right_fit") == 0
    (job,) = service.jobs
    assert job.state == "JOB_STATE_DONE"
    assert (job.region, job.body["name"], job.body["type"]) == ("us-central1", "job", JOB_TYPE_BATCH)
    said = json.loads(summary.read_text())
    assert (said["inputs"], said["outputs"], said["failed"]) == (7, 6, 1)
    assert said["failed_by_reason"] == {"not_an_image": 1}
    manifest = table.read_manifest(str(tmp_path / "table"))
    assert (manifest.run_id, manifest.rows) == (said["run_id"], 6)
    assert "1 x nvidia-l4" in capsys.readouterr().err


def test_what_the_service_counted_stands_in_the_metrics_file_and_is_priced(predict, service, tmp_path):
    service.used = {
        **{"TotalVcpuTime": 7200.0, "TotalMemoryUsage": 3600.0 * 32_000, "TotalPdUsage": 3600.0 * 50},
        **{"TotalSsdUsage": 0.0, "TotalGpuTime": 1800.0, "BillableShuffleDataProcessed": 0.5},
    }
    written = tmp_path / "metrics.json"
    assert predict("--metrics_file", str(written), "--gpu=l4") == 0
    told = json.loads(written.read_text())
    assert told["runner"] == "DataflowRunner"
    counters = {name: one["value"] for name, one in told["counters"].items()}
    assert {name: counters[name] for name in ("images_listed", "images_done", "images_failed")} == {
        **{"images_listed": 7, "images_done": 6, "images_failed": 1}
    }
    assert told["distributions"]["batch_size"]["sum"] == 6
    assert not [name for name in told["distributions"] if name.endswith(("_MEAN", "_COUNT"))]
    cost = told["cost"]
    assert cost["amounts"] == {
        **{"vcpu_hours": 2, "memory_gb_hours": 32, "disk_gb_hours": 50, "ssd_gb_hours": 0},
        **{"gpu_hours": 0.5, "shuffle_gb": 0.5},
    }
    expected = 2 * 0.056 + 32 * 0.003557 + 50 * 0.000054 + 0.5 * 0.672 + 0.5 * 0.011
    assert cost["usd"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("code", "said"), [(403, "no right to see metrics"), (500, "try again")])
def test_metrics_that_can_not_be_read_fail_no_run(predict, service, tmp_path, capsys, caplog, code, said):
    service.metrics_refusal = (code, said)
    written = tmp_path / "metrics.json"
    assert predict("--metrics_file", str(written)) == 0
    told = json.loads(written.read_text())
    assert said in told["notes"][-1]
    assert (told["counters"], told["cost"]["usd"], told["accounts"]["outputs"]) == ({}, None, 6)
    assert said in told["cost"]["why"]
    assert "Traceback" not in capsys.readouterr().err + caplog.text


def test_what_a_run_committed_is_judged_here(predict, service, capsys):
    assert predict("--max_failure_rate=0.1") == 1
    assert service.jobs[0].state == "JOB_STATE_DONE"
    assert "1 of 7 images failed (14.3%)" in capsys.readouterr().err


def test_a_job_that_fails_says_why_in_the_services_words(predict, service, tmp_path, capsys):
    service.ending = (
        "JOB_STATE_FAILED",
        "Startup of the worker pool in zone us-central1-a failed: no L4 GPUs.",
    )
    assert predict() == 1
    said = capsys.readouterr().err
    assert "failed: Dataflow ended the job: FAILED: Startup of the worker pool" in said
    assert "Traceback" not in said
    assert not (tmp_path / "table" / "manifest.json").exists()


def test_what_a_worker_raises_is_said_without_its_traceback(predict, service, capsys):
    assert predict("--require_gpu") == 1
    assert service.jobs[0].state == "JOB_STATE_FAILED"
    said = capsys.readouterr().err
    assert "--require_gpu: this process sees no GPU" in said
    assert "Traceback" not in said


def test_a_cancelled_job_is_no_success(predict, service, capsys):
    service.ending = ("JOB_STATE_CANCELLED", "")
    assert predict() == 1
    assert "failed: Dataflow ended the job: CANCELLED" in capsys.readouterr().err


def test_a_refused_job_says_what_google_says_and_what_to_do(predict, service, capsys):
    service.refusal = (429, "Quota exceeded for quota metric 'Concurrent jobs'")
    assert predict() == 1
    said = capsys.readouterr().err
    assert "failed: Google answers 429: " in said
    assert "Quota exceeded for quota metric" in said
    assert "take fewer workers (--max_num_workers)" in said
    assert "Traceback" not in said
    assert not service.jobs


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (exceptions.Forbidden("no"), "Google answers 403: no; see what is missing with `beam-vision doctor`"),
        (exceptions.NotFound("no project"), "Google answers 404: no project; see that the project"),
        (exceptions.BadRequest("machine type"), "Google answers 400: machine type$"),
        (RefreshError("expired"), "Google refuses the credentials: expired; log in with `gcloud auth"),
        (ConnectTimeout(), "Dataflow at https://.* can't be reached: ConnectTimeout"),
    ],
)
def test_each_kind_of_refusal_is_a_line(error, said):
    options = PipelineOptions(["--runner=DataflowRunner"])
    with pytest.raises(JobError, match=said), service_errors(options):
        raise error


def test_what_other_runners_raise_is_left_alone():
    with pytest.raises(exceptions.NotFound), service_errors(PipelineOptions([])):
        raise exceptions.NotFound("a bucket")


def test_a_job_of_the_same_name_is_said_to_run(predict, service, capsys):
    service.taken_id = "2026-01-01_00_00_00-7"
    assert predict() == 1
    assert "already active job named job with id: 2026-01-01_00_00_00-7" in capsys.readouterr().err


def test_a_service_that_is_not_there_is_a_line(predict, capsys, caplog):
    with FakeDataflow() as gone:
        pass
    assert predict(f"--dataflow_endpoint={gone.endpoint}") == 1
    said = capsys.readouterr().err
    assert f"failed: Dataflow at {gone.endpoint} can't be reached: ConnectionError" in said
    assert "Traceback" not in said + caplog.text


def test_records_are_written_by_a_job_on_dataflow(service, lake, tmp_path, capsys):
    argv = ["create-tfrecords", "--images", str(lake), "--output", str(tmp_path / "records")]
    given = [*argv, "--summary", str(tmp_path / "summary.json")]
    sending = dataflow_args(tmp_path, endpoint=service.endpoint)
    assert cli.main([*given, *sending]) == 0
    said = json.loads((tmp_path / "summary.json").read_text())
    assert (said["inputs"], said["outputs"], said["failed"]) == (7, 6, 1)
    assert [job.state for job in service.jobs] == ["JOB_STATE_DONE"]
    away = ["--dataflow_endpoint=https://dataflow.googleapis.com", "--temp_location=gs://b/temp"]
    assert cli.main([*given, *sending, *away, "--staging_location=gs://b/staging"]) == 2
    assert "--images" in (refused := capsys.readouterr().err)
    assert "is on this machine, where workers don't reach it" in refused
