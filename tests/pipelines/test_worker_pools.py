"""What the options say of worker pools, and what is made of an error that a worker sent."""

import pytest
from apache_beam.options.pipeline_options import PipelineOptions

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import job
from beam_vision.pipelines.worker_errors import ours_in
from beam_vision.pipelines.worker_pools import Crew, WatchedConnection, WorkerPoolRunner, pools_of

EXTERNAL = "--environment_type=EXTERNAL"


@pytest.mark.parametrize(
    ("args", "pools"),
    [
        ([], ()),
        ([EXTERNAL, "--environment_config=localhost:50000"], ("localhost:50000",)),
        (
            ["--environment_type=external", "--environment_config=a.example:1, [::1]:65535"],
            ("a.example:1", "[::1]:65535"),
        ),
    ],
)
def test_pools_are_read_from_the_options_of_beam(args, pools):
    assert pools_of(PipelineOptions(args)) == pools


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([EXTERNAL], r"--environment_config \(none\): give the addresses"),
        ([EXTERNAL, "--environment_config=localhost"], "--environment_config localhost: give"),
        ([EXTERNAL, "--environment_config=a:0"], "a:0"),
        ([EXTERNAL, "--environment_config=a:65536"], "a:65536"),
        ([EXTERNAL, "--environment_config=a:1,a:1"], "each once"),
        ([EXTERNAL, '--environment_config={"url": "a:1"}'], "HOST:PORT"),
        (["--environment_type=DOCKER"], "--environment_type DOCKER: the local runner knows only EXTERNAL"),
        (["--environment_config=a:1"], r"--environment_type \(none\)"),
        ([EXTERNAL, "--environment_config=a:1", "--direct_running_mode=multi_processing"], "doesn't go with"),
    ],
)
def test_what_names_no_pool_is_refused(args, said):
    with pytest.raises(UsageError, match=said):
        job.runner_of(job.beam_options(args))


def test_the_runner_follows_from_the_options():
    runner, is_local = job.runner_of(job.beam_options([EXTERNAL, "--environment_config=a:1"]))
    assert (type(runner), is_local) == (WorkerPoolRunner, False)
    runner, is_local = job.runner_of(job.beam_options(["--runner=FnApiRunner"]))
    assert (type(runner) is WorkerPoolRunner, is_local) == (False, True)


def test_a_loss_answers_everything_that_is_waited_for():
    from apache_beam.portability.api import beam_fn_api_pb2

    crew = Crew()
    lost, other = WatchedConnection("a:1", crew), WatchedConnection("b:1", crew)
    waiting = [each.push(beam_fn_api_pb2.InstructionRequest()) for each in (lost, other, other)]
    crew.lose("a:1 is gone")
    crew.lose("b:1 is gone")
    later = lost.push(beam_fn_api_pb2.InstructionRequest())
    assert {future.get(timeout=1).error for future in (*waiting, later)} == {"a:1 is gone"}
    assert crew.lost == "a:1 is gone"


def test_an_end_after_the_run_is_no_loss():
    crew = Crew()
    crew.close()
    crew.lose("a:1 is gone")
    assert crew.lost == ""


TRACEBACK = """Traceback (most recent call last):
  File "worker.py", line 1, in process
beam_vision.errors.UsageError: first

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "worker.py", line 2, in process
beam_vision.errors.JobError: 3 images came in [twice] [while running 'WriteTable/Commit-ptransform-12']
"""


def test_our_error_is_found_in_a_traceback():
    said = ours_in(TRACEBACK)
    assert (type(said), str(said)) == (JobError, "3 images came in [twice]")
    said = ours_in(TRACEBACK.partition("\n\n")[0])
    assert (type(said), str(said)) == (UsageError, "first")
    assert ours_in("ValueError: beam_vision.errors.JobError: no") is None
    assert ours_in("RuntimeError: something else") is None
