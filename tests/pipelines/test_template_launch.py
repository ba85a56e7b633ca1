"""A flex template's launcher, without the cloud: the entry file is given what Dataflow gives it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_vision import storage
from beam_vision.errors import JobError, Reason, Stage, UsageError
from beam_vision.pipelines import cli, evaluate, template_launch
from beam_vision.pipelines.template_jobs import template_jobs
from beam_vision.sinks import failures
from beam_vision.testing import datasets, images, models
from beam_vision.testing.dataflow_job import dataflow_args, submitted
from beam_vision.testing.detections import write_coco, write_detections
from beam_vision.testing.fake_dataflow import run_here
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.types import Box, Failure

IMAGE = "us-docker.pkg.dev/p/r/beam-vision/job:0.1.0"
ENTRY = Path(__file__).parent.parent.parent / "templates" / "flex" / "launch.py"
FRAMES = "pubsub://projects/my-project/subscriptions/frames"


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    """All that the jobs read: images, a model, a table of boxes, a dataset, a dead letter."""
    folder = tmp_path_factory.mktemp("lake")
    files = images.make_lake(folder / "images", per_class=1)
    models.save_onnx(str(folder / "colours.onnx"))
    boxes = {str(one.path): [Box(1, 2, 20, 30, label="red", score=1.0)] for one in files}
    write_detections(str(folder / "found"), boxes, size_px=(64, 48))
    truth = {os.path.relpath(name, folder / "images"): own for name, own in boxes.items()}
    write_coco(str(folder / "truth.json"), truth, size_px=(64, 48))
    write_embeddings(str(folder / "embedded"), clustered(20, 4), parts=2)
    datasets.make_labelled(folder / "dataset", {"train": 2})
    return folder


@pytest.fixture
def parameters(lake, tmp_path):
    """What the launcher of each job gets, besides what all get."""
    source, output = f"--images={lake}/images", f"--output={tmp_path}/out"
    model = [f"--model={lake}/colours.onnx", "--check_model=false"]
    truth = [f"--truth={lake}/truth.json", f"--image_root={lake}/images"]
    return {
        "create-tfrecords": [source, output, "--splits=train=0.5,test=0.5", "--resume=false"],
        "verify-tfrecords": [
            f"--dataset={lake}/dataset",
            f"--report={tmp_path}/report.json",
            "--decode=false",
        ],
        "synth-detection": [output, f"--cutouts={lake}/images", f"--backgrounds={lake}/images", "--count=3"],
        "predict": [source, output, *model, "--task=classify", "--limit=", "--top_k=2"],
        "redrive": [source, output, *model, "--task=classify", f"--failures={tmp_path}/out/failures"],
        "evaluate": [f"--predictions={lake}/found", *truth, output, "--task=detect"],
        "build-index": [f"--table={lake}/embedded", f"--output={tmp_path}/index", "--shards=2"],
        "stream": [f"--input={FRAMES}", output, *model, "--task=classify", "--enable_streaming_engine=true"],
    }


STEPS = {
    "create-tfrecords": "WriteShards",
    "verify-tfrecords": "VerifyDataset",
    "synth-detection": "MakeScenes",
    "predict": "WriteTable",
    "redrive": "ReadFailedKeys",
    "evaluate": "Conclude",
    "build-index": "BuildShards",
    "stream": "WriteWindows",
}


@pytest.fixture
def launch(tmp_path):
    """``launch(job, *arguments)``: what Dataflow would run."""

    def launch(job, *words, image=IMAGE):
        environ = {template_launch.JOB: job, template_launch.IMAGE: image}

        def run(argv):
            own = [word for word in argv if not word.startswith("--sdk_container_image=us-")]
            return template_launch.launch([*own, *words], environ)

        return submitted(run, [], tmp_path)

    return launch


def fail_once(folder, key):
    """A dead letter with an image of an earlier run."""
    torn = Failure(key, key, Stage.DECODE, Reason.CORRUPT, "torn")
    staged = failures.stage(str(folder), "run-0", [torn])
    found = failures.write_parts(str(folder), "run-0", [staged])
    failures.record(str(folder), "run-0", found, job="predict")


@pytest.mark.parametrize("job", template_jobs())
def test_the_launcher_writes_the_job_and_runs_nothing(job, launch, parameters, lake, tmp_path):
    if job == "redrive":
        fail_once(tmp_path / "out" / "failures", str(lake / "images" / "red" / "0000.jpg"))
    sent = launch(job, *parameters[job])
    assert sent.job["type"] == ("JOB_TYPE_STREAMING" if job == "stream" else "JOB_TYPE_BATCH")
    assert sent.images == {IMAGE}, "launcher and workers have one image"
    assert STEPS[job] in {step.partition("(")[0] for step in sent.steps}
    assert not [name for name in sent.staged if "session" in name or "requirements" in name]
    assert not [name for name in sent.staged if name.endswith((".tar.gz", ".whl"))], "the image has it all"
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert not (tmp_path / "report.json").exists()


@pytest.mark.parametrize("job", ["predict", "create-tfrecords"])
@pytest.mark.parametrize("broken", [1, 4])
def test_a_template_judges_its_run_on_a_worker(job, broken, launch, parameters, lake, tmp_path):
    """As the command does: what was made is in place, and the job fails where too many images did."""
    mixed = tmp_path / "images"
    good = sorted((lake / "images").rglob("*.jpg"))
    for i in range(4):
        (mixed / "any").mkdir(parents=True, exist_ok=True)
        data = b"this is not an image" if i < broken else good[0].read_bytes() + bytes([i])
        (mixed / "any" / f"{i}.jpg").write_bytes(data)
    given = [word for word in parameters[job] if not word.startswith("--images=")]
    strict = launch(job, *given, f"--images={mixed}", "--max_failure_rate=0.2")
    said = "1 of 4 images failed" if broken == 1 else "no image came through: all 4 failed"
    with pytest.raises(JobError, match=said):
        run_here(strict.proto)
    has_manifest = (tmp_path / "out" / "manifest.json").exists()
    assert has_manifest == (broken == 1 or job == "predict"), "judged once all was in place"


def test_a_template_takes_the_failures_that_are_acceptable(launch, parameters, lake, tmp_path):
    (tmp_path / "images" / "any").mkdir(parents=True)
    good = next((lake / "images").rglob("*.jpg"))
    (tmp_path / "images" / "any" / "good.jpg").write_bytes(good.read_bytes())
    (tmp_path / "images" / "any" / "bad.jpg").write_bytes(b"this is not an image")
    given = [word for word in parameters["predict"] if not word.startswith("--images=")]
    run_here(launch("predict", *given, f"--images={tmp_path}/images").proto)
    assert storage.read_json(f"{tmp_path}/out/manifest.json")["failed"] == 1


def test_what_was_asked_of_the_workers_reaches_the_job(launch, parameters):
    sent = launch(
        *("predict", *parameters["predict"], "--sdk_container_image=other/image:1"),
        *("--machine_type=n1-highmem-8", "--max_num_workers=7", "--number_of_worker_harness_threads=3"),
        *("--disk_size_gb=70", "--experiments=shuffle_mode=service", "--dataflow_service_options=one,two"),
    )
    assert sent.images == {"other/image:1"}
    assert sent.pool["machineType"] == "n1-highmem-8"
    assert sent.pool["autoscalingSettings"]["maxNumWorkers"] == 7
    assert (sent.pool["numThreadsPerWorker"], sent.pool["diskSizeGb"]) == (3, 70)
    assert "shuffle_mode=service" in sent.experiments
    assert sent.service_options == ["one", "two"]


def test_the_entry_file_is_what_dataflow_runs(parameters, tmp_path):
    """As a process of its own, started as Google's launcher does."""
    words = [*dataflow_args(tmp_path), f"--template_location={tmp_path}/job.json", *parameters["predict"]]
    environ = {**os.environ, template_launch.JOB: "predict", template_launch.IMAGE: IMAGE}
    command = [sys.executable, str(ENTRY), *words, "--unheard_of=1"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "left out, being neither the job's nor Beam's: unheard_of" in done.stderr
    assert f"the job was written to {tmp_path}/job.json" in done.stderr
    assert json.loads((tmp_path / "job.json").read_text())["type"] == "JOB_TYPE_BATCH"


@pytest.mark.parametrize(
    ("job", "given", "words"),
    [
        ("predict", ["--check_model=true", "--resume=true"], ["--resume"]),
        ("predict", ["--check_model=FALSE", "--resume=false"], ["--no-check_model"]),
        ("predict", ["--limit=", "--query=", "--labels="], []),
        ("predict", ["--preflight_only=false", "--summary="], []),
        ("predict", ["--top_k", "3", "--images=a b=c"], ["--top_k=3", "--images=a b=c"]),
        ("verify-tfrecords", ["--dataset=gs://b/d", "--decode=false"], ["gs://b/d", "--no-decode"]),
        ("stream", ["--enable_streaming_engine", "--update=false"], ["--enable_streaming_engine"]),
        ("stream", ["--update=true", "--labels=a=b"], ["--update", "--labels=a=b"]),
    ],
)
def test_parameters_become_the_jobs_command_line(job, given, words):
    assert template_launch.argv_of(job, given) == (words, [])


@pytest.mark.parametrize(
    ("job", "given", "said"),
    [
        ("predict", ["--summary=gs://b/s.json"], "--summary has no meaning in a template: it is done after"),
        ("stream", ["--backfill=true"], "--backfill has no meaning in a template"),
        ("predict", ["--resume=maybe"], "--resume is 'maybe'; it must be true or false"),
        ("predict", ["resume"], "unexpected argument 'resume'"),
        ("predict", ["--top_k"], "--top_k has no value"),
    ],
)
def test_parameters_that_mean_nothing_are_refused(job, given, said):
    with pytest.raises(UsageError, match=said):
        template_launch.argv_of(job, given)


def test_a_launcher_needs_a_job_and_a_place_to_write_it_to():
    with pytest.raises(UsageError, match="BEAM_VISION_JOB is not set"):
        template_launch.launch([], {})
    with pytest.raises(UsageError, match="--template_location is missing"):
        template_launch.launch(["--task=embed"], {template_launch.JOB: "predict"})
    with pytest.raises(UsageError, match="no template of 'search'; there are templates of create-tfrecords"):
        template_launch.launch([], {template_launch.JOB: "search"})


def test_a_launch_with_nothing_to_do_says_so(launch, parameters, tmp_path):
    """Dataflow waits for a job; an exit code of 0 without one would be an error of its own making."""
    failures.record(str(tmp_path / "out" / "failures"), "run-0", {"files": [], "total": 0}, job="predict")
    with pytest.raises(JobError, match="redrive had nothing to do: there is no job"):
        launch("redrive", *parameters["redrive"])


def test_a_jobs_own_refusal_ends_the_launcher_with_exit_code_2(parameters, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(template_launch.JOB, "predict")
    words = [*dataflow_args(tmp_path), f"--template_location={tmp_path}/job.json", *parameters["predict"]]
    assert template_launch.main([*words, "--flush_sec=-1"]) == 2
    assert "--flush_sec is -1.0; it must be 0 or more" in capsys.readouterr().err
    assert not (tmp_path / "job.json").exists()


def test_a_worker_concludes_an_evaluation_as_the_command_does(lake, tmp_path):
    def argv(name):
        truth = ["--truth", f"{lake}/truth.json", "--image_root", f"{lake}/images"]
        return ["--task=detect", "--predictions", f"{lake}/found", *truth, "--output", f"{tmp_path}/{name}"]

    assert cli.main(["evaluate", *argv("here")]) == 0
    parser = evaluate.make_parser("evaluate", evaluate.Options, description="", example="")
    options, _ = evaluate.parse(parser, evaluate.Options, argv("there"))
    plan = evaluate.prepare(options, "20260101T000000000000Z")
    with beam.Pipeline(FnApiRunner()) as pipeline:
        _ = evaluate.build(pipeline, plan) | beam.Map(evaluate.conclude, plan)
    here, there = (storage.read_json(f"{tmp_path}/{name}/metrics.json") for name in ("here", "there"))
    different = {"run_id", "output"}
    assert {k: v for k, v in here.items() if k not in different} == {
        k: v for k, v in there.items() if k not in different
    }
    assert (tmp_path / "there" / "report.html").exists()
    assert not [name for name in os.listdir(tmp_path / "there") if name.startswith(".evaluation")]
    evaluate.conclude(plan.found, plan)  # a bundle that comes again finds nothing to do
    assert storage.read_json(f"{tmp_path}/there/metrics.json") == there
