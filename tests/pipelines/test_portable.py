"""What is checked before a job goes to Flink, Prism or a job service, and what is added to it there."""

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.local_job_service import LocalJobServicer

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import cli, job, portable
from beam_vision.pipelines.flink_options import FlinkJobOptions
from beam_vision.testing import models
from beam_vision.testing.images import make_lake

POOL = ("--environment_type=EXTERNAL", "--environment_config=localhost:50000")
CLUSTER = ("--runner=FlinkRunner", "--flink_master=flink.example:8081")


def settled(*args):
    options = job.beam_options(list(args))
    portable.settle(options)
    return options


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--runner=PortableRunner", *POOL), "needs --job_endpoint"),
        (CLUSTER, "lacks beam-vision"),
        (("--runner=SparkRunner",), "lacks beam-vision"),
        ((*CLUSTER, "--environment_type=DOCKER"), "lacks beam-vision"),
        ((*CLUSTER, "--environment_type=LOOPBACK"), "flink.example can't reach"),
        (("--runner=FlinkRunner", "--job_endpoint=far:8099"), "lacks beam-vision"),
        ((*CLUSTER, "--environment_type=EXTERNAL"), r"--environment_config \(none\)"),
        ((*CLUSTER, "--environment_type=EXTERNAL", "--environment_config=a:1,b:2"), "a:1,b:2"),
        ((*CLUSTER, "--environment_option=external_service_address=a:1"), "Beam fails on it"),
    ],
)
def test_what_could_not_run_is_refused_with_the_remedy(args, said):
    with pytest.raises(UsageError, match=said):
        settled(*args)


@pytest.mark.parametrize(
    "args",
    [
        ("--runner=PrismRunner",),
        ("--runner=FlinkRunner",),  # a Flink inside the job server, with the workers in this process
        ("--runner=FlinkRunner", "--flink_master=http://localhost:8081", "--environment_type=LOOPBACK"),
        (*CLUSTER, *POOL),
        (*CLUSTER, "--environment_type=DOCKER", "--environment_config=our/image:1"),
        (*CLUSTER, "--environment_type=DOCKER", "--environment_option=docker_container_image=our/image:1"),
        (*CLUSTER, "--sdk_container_image=our/image:1"),
        ("--runner=DataflowRunner",),
        (),
    ],
)
def test_what_can_run_is_let_through(args):
    settled(*args)


def test_a_job_on_flink_is_started_anew_unless_that_is_said_otherwise():
    job_options = settled(*CLUSTER, *POOL).view_as(FlinkJobOptions)
    assert (job_options.number_of_execution_retries, job_options.execution_retry_delay) == (3, 10_000)
    given = settled(*CLUSTER, *POOL, "--number_of_execution_retries=0").view_as(FlinkJobOptions)
    assert (given.number_of_execution_retries, given.execution_retry_delay) == (0, 10_000)
    assert settled("--runner=PrismRunner").view_as(FlinkJobOptions).number_of_execution_retries is None


@pytest.fixture
def service():
    """Beam's own job service, listening; it takes jobs as Flink's job server does."""
    servicer = LocalJobServicer(None)
    port = servicer.start_grpc_server(0)
    yield f"localhost:{port}", servicer
    servicer.stop()


@pytest.fixture
def predict(tmp_path):
    """Runs predict with further arguments; gives its exit code."""
    make_lake(tmp_path / "lake", per_class=2)
    model = models.save_onnx(str(tmp_path / "colours.onnx"))

    def run(*args):
        where = ["--images", str(tmp_path / "lake"), "--output", str(tmp_path / "table")]
        return cli.main(["predict", "--task", "classify", "--model", model, *where, *args])

    return run


def test_the_job_service_gets_our_options_and_its_job_is_done(service, predict, tmp_path):
    address, servicer = service
    args = ("--runner=FlinkRunner", f"--job_endpoint={address}", "--environment_type=LOOPBACK")
    assert predict(*args, "--parallelism=2", "--checkpointing_interval=5000") == 0
    assert (tmp_path / "table" / "manifest.json").exists()
    (sent,) = servicer._jobs.values()
    options = {name: sent._pipeline_options[f"beam:option:{name}:v1"] for name in SENT}
    assert options == SENT


SENT = {
    "parallelism": "2",
    "checkpointing_interval": "5000",
    "number_of_execution_retries": "3",
    "execution_retry_delay": "10000",
}


def test_a_misspelt_option_of_flinks_is_an_error(predict, capsys):
    assert predict("--runner=FlinkRunner", "--number_of_execution_retry=2") == 2
    assert "did you mean --number_of_execution_retries?" in capsys.readouterr().err


def test_what_a_runner_says_is_one_line(predict, capsys, tmp_path):
    assert predict("--runner=PrismRunner", f"--prism_location={tmp_path}/prism") == 1
    assert "failed: PrismRunner: Unable to parse binary URL" in capsys.readouterr().err
    assert predict("--runner=FlinkRunner", f"--flink_job_server_jar={tmp_path}/none.jar") == 1
    assert "failed: FlinkRunner: Unable to parse jar URL" in capsys.readouterr().err


def test_what_a_worker_raises_is_that_error_and_else_the_last_line():
    head = "Pipeline job-1 failed in state FAILED: x"
    ours = f"{head}\nbeam_vision.errors.JobError: 3 of 4 rows [while running 'A']"
    with pytest.raises(JobError, match=r"^3 of 4 rows$"), portable.runner_errors(options_of("PrismRunner")):
        raise RuntimeError(ours)
    with pytest.raises(JobError, match="FlinkRunner ended the job: it is so"):
        with portable.runner_errors(options_of("FlinkRunner")):
            raise RuntimeError("Traceback\n  it is so\n")
    with pytest.raises(RuntimeError, match="untouched"), portable.runner_errors(options_of("FnApiRunner")):
        raise RuntimeError("untouched")


def options_of(runner):
    return PipelineOptions([f"--runner={runner}"])
