"""Whole jobs on Prism: with the workers in this process, as Beam's PrismRunner has it, and in another."""

import json
import threading

import pytest
from cluster_gate import Gate, wait_until

from beam_vision import metrics
from beam_vision.pipelines import cli

JOBS = ("create-tfrecords", "classify", "embed")


@pytest.mark.parametrize("job", JOBS)
def test_a_job_on_prism_gives_what_a_plain_run_gives(
    job, plain, argv_of, rows_of, prism_service, pool_args, done_elsewhere, tmp_path
):
    args = [*prism_service.beam_args, *pool_args, "--summary", str(tmp_path / "summary.json")]
    wanted = plain(job)
    assert cli.main([*argv_of(job), *args]) == 0
    assert rows_of(job, tmp_path / "out") == wanted
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["inputs"], summary["outputs"], summary["failed"]) == (19, 18, 1)
    done_elsewhere(metrics.DONE, 18)


def test_the_prism_runner_starts_prism_by_itself(prism_program, argv_of, rows_of, plain, tmp_path, capfd):
    wanted = plain("classify")
    args = ["--runner=PrismRunner", f"--prism_location={prism_program}"]
    metrics_file = tmp_path / "metrics.json"
    assert cli.main([*argv_of("classify"), *args, "--metrics_file", str(metrics_file)]) == 0
    assert rows_of("classify", tmp_path / "out") == wanted
    assert json.loads(metrics_file.read_text())["counters"][metrics.DONE]["value"] == 18
    assert "Really" not in capfd.readouterr().err, "what Beam says of its subprocess is of no use to a user"


def test_a_worker_that_dies_ends_the_job_and_a_later_run_completes_it(
    plain, argv_of, rows_of, prism_service, pool_args, one_pool, lake, tmp_path, capfd
):
    wanted, codes = plain("classify"), []
    argv = [*argv_of("classify"), *prism_service.beam_args]
    with Gate(lake / "blue" / sorted(path.name for path in (lake / "blue").iterdir())[0]) as gate:
        job = threading.Thread(target=lambda: codes.append(cli.main([*argv, *pool_args])), daemon=True)
        job.start()
        wait_until(gate.reached.is_set)
        one_pool.kill(one_pool.pids[0])
        one_pool.replace_dead()
        gate.open()
        job.join(60)
    assert codes == [1]
    said = capfd.readouterr().err
    assert "PortableRunner ended the job: " in said
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "manifest.json").exists()
    again = f"--environment_config={one_pool.addresses[0]}"
    assert cli.main([*argv, "--resume", "--environment_type=EXTERNAL", again]) == 0
    assert rows_of("classify", tmp_path / "out") == wanted
