"""Jobs in a child process, and what runs in a container on Vertex AI."""

import json
import os
import signal
import textwrap
import threading
import time

import pytest

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import train_launch
from beam_vision.training.config import from_dict
from beam_vision.training.history import write_history
from beam_vision.training.launch import worker
from beam_vision.training.launch.base import State
from beam_vision.training.launch.local import LocalJob, run_local
from beam_vision.training.launch.trial_report import TrialReport

SLEEPS = """
    import os, signal, subprocess, sys, time
    def run(argv):
        if "--deaf" in argv:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        sys.stdout.write(f"{os.getsid(0) == os.getpid()} {child.pid}\\n"); sys.stdout.flush()
        if "--leave" in argv:
            return 5
        time.sleep(60)
        return 0
"""


@pytest.fixture
def own_job(tmp_path, monkeypatch):
    """``beam-vision sql`` in child processes is a job of ours, which needs no second to start."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\nmade = types.ModuleType('beam_vision.pipelines.sql')\n"
        f"exec({textwrap.dedent(SLEEPS)!r}, made.__dict__)\n"
        "sys.modules['beam_vision.pipelines.sql'] = made\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return False


def ends(pid):
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


def test_lines_and_exit_code_are_the_childs(capfd):
    said = []
    assert run_local(["--version"], said.append) == 0
    assert said[0].startswith("beam-vision ")
    said.clear()
    assert run_local(["trian"], said.append) == 2
    assert "did you mean 'train'" in said[0]  # of stderr, in the same stream
    assert capfd.readouterr().out == ""


def test_a_signal_ends_the_child_and_all_that_it_started(own_job):
    said = []

    def tell(line):
        said.append(line)
        os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler does to us

    start = time.monotonic()
    assert run_local(["sql"], tell) == 128 + signal.SIGTERM
    assert time.monotonic() - start < 20
    has_session, grandchild = said[0].split()
    assert has_session == "True"
    assert ends(int(grandchild))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_child_that_takes_no_notice_is_killed(own_job):
    job = LocalJob(["sql", "--deaf"], grace_sec=0.2)
    assert job.state is State.WAITING
    job.start()
    next(job.lines())
    assert job.state is State.RUNNING
    job.cancel()
    job.cancel()
    assert job.wait() == 128 + signal.SIGKILL
    assert job.state is State.CANCELLED


def test_cancelled_before_it_began_it_ends_at_once(own_job):
    job = LocalJob(["sql"], grace_sec=5)
    job.cancel()
    job.start()
    assert job.wait() == 128 + signal.SIGTERM


def test_what_a_child_leaves_behind_ends_with_it(own_job):
    said = []
    assert (
        run_local(["sql", "--leave"], said.append) == 5
    )  # and its lines end, though the other holds the pipe
    assert ends(int(said[0].split()[1]))


def test_in_another_thread_signals_are_left_alone(own_job):
    before = signal.getsignal(signal.SIGINT)
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run_local(["--version"], lambda line: None)))
    thread.start()
    thread.join()
    assert codes == [0]
    assert signal.getsignal(signal.SIGINT) is before


def test_on_local_gives_the_child_the_rest_of_the_line(capsys):
    options = train_launch.LaunchOptions(on="local")
    code = train_launch.launch(options, from_dict({}), ["--on", "local", "--nonsense", "--on=local"])
    assert code == 2
    assert "unknown option --nonsense" in capsys.readouterr().out
    assert train_launch.without_on(["--a", "--on", "local", "--b", "--on=vertex", "c"]) == ["--a", "--b", "c"]


@pytest.mark.parametrize(
    ("told", "is_chief"),
    [
        ("", True),
        ({"cluster": {"chief": ["a"], "worker": ["b"]}, "task": {"type": "chief", "index": 0}}, True),
        ({"cluster": {"chief": ["a"], "worker": ["b"]}, "task": {"type": "worker", "index": 0}}, False),
        ({"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}, True),
        ({"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 1}}, False),
    ],
)
def test_one_replica_exports(told, is_chief):
    assert worker.is_chief({"TF_CONFIG": json.dumps(told) if told else ""}) is is_chief


def test_the_job_in_a_container(tmp_path):
    config = from_dict(
        {
            "export": {
                "output": "gs://lake/model",
                "versioned": True,
                "gate": "not_worse",
                "tflite": ["int8"],
            },
            "launch": {"project": "p"},
        }
    )
    env = {"AIP_CHECKPOINT_DIR": "gs://lake/runs/1/checkpoints/"}
    (tmp_path / "lake").mkdir()
    job = worker.here(config, "/tmp/model", env, mount=str(tmp_path))
    assert job.run.work_dir == f"{tmp_path}/lake/runs/1/checkpoints/"
    assert (job.export.output, job.export.versioned, job.export.gate) == ("/tmp/model", False, "")
    assert job.export.tflite == ("int8",)
    assert job.launch == {}
    assert job.digest == config.digest  # so that a replica that was restarted knows its checkpoints
    assert worker.here(config, "/tmp/model", env, mount=str(tmp_path / "none")).run.work_dir == ""


def test_a_trials_values_are_fields():
    given = worker.trial_values(["--optimizer__learning_rate=0.01", "--model__embedding_dim=32"])
    assert given == {"optimizer.learning_rate": "0.01", "model.embedding_dim": "32"}
    with pytest.raises(UsageError, match="SECTION__FIELD=VALUE"):
        worker.trial_values(["--optimizer__learning_rate", "0.01"])


def told(path):
    """Each line of the file that Vertex AI reads, in the form that cloudml-hypertune 0.1 writes."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        assert sorted(line) == ["checkpoint_path", "global_step", "timestamp", "trial", "val_accuracy"]
        assert isinstance(line["timestamp"], float)
        assert all(isinstance(line[name], str) for name in line if name != "timestamp")
    return [(one["trial"], one["global_step"], one["val_accuracy"]) for one in lines]


def test_a_trial_tells_its_objective_at_each_epochs_end(tmp_path):
    env = {"CLOUD_ML_HP_METRIC_FILE": str(tmp_path / "out" / "metrics"), "CLOUD_ML_TRIAL_ID": "3"}
    report = TrialReport("val_accuracy", str(tmp_path / "history.csv"), env)
    report.look()
    assert not (tmp_path / "out").exists()
    epochs = [{"number": 1, "validation_accuracy": 0.5}, {"number": 2, "validation_accuracy": None}]
    write_history(str(tmp_path), epochs)
    report.look()
    assert told(tmp_path / "out" / "metrics") == [("3", "1", "0.5")]
    write_history(str(tmp_path), [*epochs, {"number": 3, "validation_accuracy": 0.75}])
    report.end()
    assert told(tmp_path / "out" / "metrics") == [("3", "1", "0.5"), ("3", "3", "0.75")]
    with pytest.raises(UsageError, match="only number, validation_accuracy"):
        TrialReport("val_loss", str(tmp_path / "history.csv"), env).end()
    with pytest.raises(UsageError, match="there were none"):
        TrialReport("val_loss", str(tmp_path / "none.csv"), env).end()


def test_vertex_is_told_the_last_hundred(tmp_path):
    env = {"CLOUD_ML_HP_METRIC_FILE": str(tmp_path / "metrics")}
    write_history(str(tmp_path), [{"number": n, "accuracy": n / 200} for n in range(1, 151)])
    TrialReport("accuracy", str(tmp_path / "history.csv"), env).end()
    steps = [json.loads(line)["global_step"] for line in (tmp_path / "metrics").read_text().splitlines()]
    assert steps == [str(n) for n in range(51, 151)]


def test_an_upload_has_its_spec_last(tmp_path, monkeypatch):
    for name in ("model_spec.json", "saved_model.pb", "variables/a", "zebra.txt"):
        storage.write_bytes(str(tmp_path / "model" / name), name.encode())
    written = []
    real = storage.write_bytes
    monkeypatch.setattr(storage, "write_bytes", lambda path, data: (written.append(path), real(path, data)))
    worker.upload(str(tmp_path / "model"), str(tmp_path / "there"))
    assert written[-1].endswith("/model_spec.json")
    assert storage.read_bytes(str(tmp_path / "there" / "variables" / "a")) == b"variables/a"
