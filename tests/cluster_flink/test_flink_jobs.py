"""A real Flink: its processes, and whole jobs on it where Beam's Flink job server can be had."""

import json
import threading

import pytest
from cluster_gate import Gate, wait_until

from beam_vision import metrics
from beam_vision.pipelines import cli

JOBS = ("create-tfrecords", "classify", "embed")


def test_a_task_manager_that_is_killed_is_replaced(flink):
    before = set(flink.registered())
    assert len(before) == 2
    flink.kill_task_manager(0)
    flink.wait_until(lambda: len(set(flink.registered()) - before) == 1, "a new one is registered")
    flink.wait_until(lambda: len(flink.registered()) == 2, "the killed one is given up")
    assert flink.ask("/overview")["slots-total"] == 2


@pytest.mark.parametrize("job", JOBS)
def test_a_job_on_flink_gives_what_a_plain_run_gives(
    job, flink_args, flink, plain, argv_of, rows_of, pool_args, done_elsewhere, tmp_path
):
    args = [*flink_args, f"--flink_master={flink.address}", *pool_args]
    wanted = plain(job)
    assert cli.main([*argv_of(job), *args, "--summary", str(tmp_path / "summary.json")]) == 0
    assert rows_of(job, tmp_path / "out") == wanted
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (19, 18, 1)
    done_elsewhere(metrics.DONE, 18)


@pytest.mark.parametrize("job", JOBS)
def test_a_task_manager_killed_in_the_middle_costs_no_rows(
    job, flink_args, flink, plain, argv_of, rows_of, pool_args, lake, tmp_path
):
    args = [*flink_args, f"--flink_master={flink.address}", *pool_args, "--execution_retry_delay=500"]
    wanted, codes, before = plain(job), [], set(flink.jobs())
    with Gate(lake / "blue" / sorted(path.name for path in (lake / "blue").iterdir())[0]) as gate:
        run = threading.Thread(target=lambda: codes.append(cli.main([*argv_of(job), *args])), daemon=True)
        run.start()
        wait_until(gate.reached.is_set)
        for number in range(2):  # whichever has the work
            flink.kill_task_manager(number)
        gate.open()
        run.join(240)
    assert codes == [0]
    assert rows_of(job, tmp_path / "out") == wanted
    (name,) = set(flink.jobs()) - before
    assert flink.restarts(name) >= 1
