"""A real Flink: its processes, and whole jobs on it where Beam's Flink job server can be had."""

import json
import os
import threading

import pytest
from cluster_gate import Gate

from beam_vision import metrics
from beam_vision.pipelines import cli

JOBS = ("create-tfrecords", "classify", "embed")


def test_a_task_manager_that_is_killed_is_replaced(flink):
    before = set(flink.registered())
    assert len(before) == 2
    flink.kill_task_manager(0)
    flink.wait_until(lambda: len(set(flink.registered()) - before) == 1, "a new one is registered")
    flink.wait_until(lambda: len(flink.registered()) == 2, "the killed one is given up")
    flink.wait_until(lambda: flink.ask("/overview")["slots-total"] == 2, "both offer their slots")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_on_flink_gives_what_a_plain_run_gives(
    job, flink_args, flink_pools, plain, argv_of, rows_of, tmp_path
):
    wanted = plain(job)
    assert cli.main([*argv_of(job), *flink_args, "--summary", str(tmp_path / "summary.json")]) == 0
    assert rows_of(job, tmp_path / "out") == wanted
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (19, 18, 1)
    counts = flink_pools.counts()
    assert os.getpid() not in counts
    assert sum(count.get(metrics.DONE, 0) for count in counts.values()) == 18
    assert metrics.TALLY.counts() == {}


@pytest.mark.parametrize("job", JOBS)
def test_a_task_manager_killed_in_the_middle_costs_no_rows(
    job, flink_args, flink, plain, argv_of, rows_of, lake, tmp_path
):
    wanted, before = plain(job), set(flink.jobs())
    with Gate(lake / "blue" / sorted(path.name for path in (lake / "blue").iterdir())[0]) as gate:

        def kill_in_the_middle():
            if gate.reached.wait(240):
                for number in range(2):  # whichever has the work
                    flink.kill_task_manager(number)
            gate.open()

        killer = threading.Thread(target=kill_in_the_middle, daemon=True)
        killer.start()
        code = cli.main([*argv_of(job), *flink_args])  # Beam starts its job server from the main thread alone
        killer.join(60)
        assert gate.reached.is_set()
    assert code == 0
    assert rows_of(job, tmp_path / "out") == wanted
    (name,) = set(flink.jobs()) - before
    assert flink.losses(name) >= 1
