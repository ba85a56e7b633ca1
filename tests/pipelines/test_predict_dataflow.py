"""``predict`` and ``stream`` with GPUs as Dataflow would get them: submitted for real, but into a file."""

import json

import pytest
from apache_beam.portability.common_urns import resource_hints

from beam_vision.errors import UsageError
from beam_vision.pipelines import predict, stream
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.pipelines.predict_options import Options, paths
from beam_vision.pipelines.resource_options import ResourceOptions, fits_model, resources_of
from beam_vision.testing import images, models
from beam_vision.testing.dataflow_job import IMAGE, dataflow_args, submitted

ACCELERATOR = resource_hints.ACCELERATOR.urn


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lake")
    images.make_lake(folder, per_class=1)
    return folder


@pytest.fixture
def argv(model, lake, tmp_path):
    """Arguments of a job over the lake."""
    given = ["--task", "classify", "--images", str(lake), "--model", model, "--no-check_model"]
    return [*given, "--output", str(tmp_path / "table")]


@pytest.fixture
def submit(argv, tmp_path):
    """What ``predict`` would send with these further arguments."""
    return lambda *more: submitted(predict.run, [*argv, *more], tmp_path)


def test_a_gpu_brings_all_that_belongs_to_it(submit, tmp_path):
    sent = submit("--gpu=l4")
    assert sent.service_options == ["worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver"]
    assert sent.pool["machineType"] == "g2-standard-8"
    assert sent.pool["numThreadsPerWorker"] == 2
    assert sent.pool["diskSizeGb"] == 50
    assert "no_use_multiple_sdk_containers" in sent.experiments
    assert "use_multiple_sdk_containers" not in sent.experiments
    assert sent.images == {IMAGE}
    assert sent.job["type"] == "JOB_TYPE_BATCH"
    assert sent.hints() == {}
    assert not [name for name in sent.staged if "session" in name], "no pickled main session"
    assert not (tmp_path / "table" / "manifest.json").exists(), "nothing ran"


def test_without_a_gpu_nothing_is_added(submit):
    sent = submit()
    assert sent.service_options == []
    assert "machineType" not in sent.pool
    assert "use_multiple_sdk_containers" in sent.experiments


def test_beams_own_options_win(submit):
    sent = submit(
        *("--gpu=t4", "--gpu_count=2", "--worker_machine_type=n1-highmem-16", "--disk_size_gb=200"),
        *("--number_of_worker_harness_threads=7", "--dataflow_service_options=enable_google_cloud_profiler"),
    )
    assert sent.pool["machineType"] == "n1-highmem-16"
    assert (sent.pool["diskSizeGb"], sent.pool["numThreadsPerWorker"]) == (200, 7)
    assert sent.service_options == [
        "enable_google_cloud_profiler",
        "worker_accelerator=type:nvidia-tesla-t4;count:2;install-nvidia-driver",
    ]


def test_right_fitting_gives_gpus_to_inference_alone(submit):
    sent = submit("--gpu=a100", "--right_fit")
    asked = "type:nvidia-tesla-a100;count:1;machine_type:a2-highgpu-1g;install-nvidia-driver"
    hints = sent.hints()
    assert {name.split("/")[0] for name in hints} == {"Infer"}
    assert {hint[ACCELERATOR] for hint in hints.values()} == {asked}
    steps = [one for one in sent.proto.components.transforms.values() if one.environment_id]
    assert {one.unique_name for one in steps if one.unique_name.startswith("Infer/")} <= set(hints)
    coming = next(iter(next(one for one in steps if one.unique_name == "Infer/Key").inputs.values()))
    (maker,) = {one.unique_name.split("/")[0] for one in steps if coming in one.outputs.values()}
    assert maker == "OpenImages", "encoded images cross; they are decoded behind the border"
    assert sent.service_options == []
    assert "machineType" not in sent.pool, "the others are Dataflow's usual machines"
    assert "no_use_multiple_sdk_containers" in sent.experiments


def test_a_preflight_says_what_would_be_added(argv, tmp_path, capsys):
    assert predict.run([*dataflow_args(tmp_path), *argv, "--gpu=h100", "--preflight_only"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert "--worker_machine_type=a3-highgpu-1g" in said["workers"]
    assert any("26 vCPUs" in note for note in said["notes"])


def test_handler_settings_follow_the_machine(argv, tmp_path):
    given = [*dataflow_args(tmp_path), *argv, "--gpu=l4", "--worker_machine_type=g2-standard-16"]
    parser = make_parser("predict", Options, description="", example="")
    options, beam_args = parse(parser, Options, given)
    resources = resources_of(options, beam_args, paths(options))
    settled = resources.applied_to(options)
    assert (settled.batch_size, settled.decode_threads) == (128, 16)
    plan = predict.prepare(settled, "run-1", resources=resources)
    handler = predict.inference(settled, plan)._handler
    assert handler.batch_elements_kwargs()["max_batch_size"] == 512


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--gpu=l4", "--worker_machine_type=n1-standard-8"], "n1-standard-8 doesn't carry nvidia-l4"),
        (["--gpu=a100", "--worker_machine_type=g2-standard-8"], "doesn't carry nvidia-tesla-a100"),
        (["--gpu=t4", "--worker_machine_type=n2-standard-8"], "only N1 machines can"),
        (["--gpu=t4", "--gpu_count=3"], "can have 1, 2, 4 of them"),
        (["--right_fit"], "--right_fit goes with --gpu"),
        (["--gpu_count=2"], "--gpu_count 2 goes with --gpu"),
        (
            [
                "--gpu=l4",
                "--right_fit",
                "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1",
            ],
            "--right_fit doesn't go with worker_accelerator",
        ),
        (
            [
                "--gpu=l4",
                "--dataflow_service_options=worker_accelerator=type:nvidia-l4;install-nvidia-driver",
            ],
            "worker_accelerator is given more than once",
        ),
        (["--gpu=l4", "--experiments=use_multiple_sdk_containers"], "copy of the model in the GPU's memory"),
        (["--gpu=l4", "--right_fit", "--flexrs_goal=COST_OPTIMIZED"], "doesn't go with --flexrs_goal"),
        (["--sdk_container_image=apache/beam_python3.9_sdk:2.40.0"], "2 things keep this job"),
        (["--batch_size=-1"], "--batch_size is -1"),
    ],
)
def test_refused_before_anything_is_sent(submit, tmp_path, more, said):
    with pytest.raises(UsageError) as error:
        submit(*more)
    assert said in str(error.value)
    assert not (tmp_path / "job.json").exists()


def test_a_run_here_takes_no_gpu_of_dataflows(argv):
    with pytest.raises(UsageError, match="leave --gpu out"):
        predict.run([*argv, "--gpu=t4"])


def test_a_run_here_that_requires_a_gpu_fails_fast_without_one(argv, tmp_path):
    with pytest.raises(UsageError, match="--require_gpu: this process sees no GPU"):
        predict.run([*argv, "--require_gpu"])
    assert not (tmp_path / "table" / "manifest.json").exists()


@pytest.mark.parametrize("given", [{"gpu": "t4"}, {"require_gpu": True}])
def test_a_model_that_runs_on_cpus_alone_gets_no_gpu(given):
    options = ResourceOptions(**given)
    with pytest.raises(UsageError, match="a model in the format tflite runs on CPUs alone"):
        fits_model(options, "tflite")
    fits_model(options, "onnx")


def test_what_workers_cannot_reach_is_refused(argv):
    given = ["--runner=DataflowRunner", "--project=my-project", "--region=us-central1"]
    given += ["--temp_location=/tmp/temp"]
    with pytest.raises(UsageError) as error:
        predict.run([*given, *argv])
    said = str(error.value)
    for part in ("--temp_location /tmp/temp", "--images", "--output", "--model", "--sdk_container_image"):
        assert part in said


@pytest.fixture
def stream_argv(model, tmp_path):
    given = ["--task", "classify", "--input", "pubsub://projects/my-project/subscriptions/frames"]
    return [*given, "--model", model, "--no-check_model", "--output", str(tmp_path / "table")]


def test_a_stream_gets_gpus_on_all_its_workers(stream_argv, tmp_path):
    sent = submitted(stream.run, [*stream_argv, "--gpu=t4"], tmp_path)
    assert sent.job["type"] == "JOB_TYPE_STREAMING"
    assert sent.service_options == ["worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"]
    assert sent.pool["machineType"] == "n1-standard-8"
    assert sent.hints() == {}


def test_a_stream_is_right_fitted_only_where_that_was_opted_in_to(stream_argv, tmp_path):
    wanted = [*stream_argv, "--gpu=l4", "--right_fit"]
    with pytest.raises(UsageError, match="--right_fit is for batch jobs"):
        submitted(stream.run, wanted, tmp_path)
    sent = submitted(stream.run, [*wanted, "--experiments=enable_streaming_rightfitting"], tmp_path)
    assert {name.split("/")[0] for name in sent.hints()} == {"InferFrames"}
