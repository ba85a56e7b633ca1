"""Forks of a warm Python are like fresh processes, to those who start them and to what they run."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

SAY = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv[1:], "cwd": os.getcwd(), "name": __name__, "in": sys.stdin.read(),
    "env": os.environ.get("A_WORD"), "pid": os.getpid(), "warm": "tensorflow" in sys.modules,
}))
print("trouble", file=sys.stderr)
sys.exit(3)
"""
WAIT = """
import atexit, os, pathlib, signal, sys, time
atexit.register(pathlib.Path("ended").touch)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))
pathlib.Path("pid").write_text(str(os.getpid()))
pathlib.Path("ready").touch()
time.sleep(60)
"""
WORK = """
import numpy as np, tensorflow as tf
square = tf.function(lambda x: tf.linalg.matmul(x, x))
assert np.allclose(square(2 * tf.eye(300)), 4 * np.eye(300))
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    for name, code in {"say": SAY, "wait": WAIT, "work": WORK, "dies": "import os; os.abort()"}.items():
        (tmp_path / f"a_{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before it was opened, or while it was read
        return False


def test_a_fork_has_files_folder_environment_and_arguments_of_its_own(warm, modules):
    (modules / "here").mkdir()
    with open(modules / "out", "w") as out, open(modules / "err", "w") as err:
        env = {**os.environ, "A_WORD": "spoken"}
        argv = ["-m", "a_say", "one", "--two"]
        child = warm.start(argv, stdout=out, stderr=err, cwd=modules / "here", env=env)
        assert child.wait(60) == 3
    said = json.loads((modules / "out").read_text())
    assert said["argv"] == ["one", "--two"]
    assert (said["cwd"], said["env"], said["in"]) == (str(modules / "here"), "spoken", "")
    assert (said["name"], said["pid"], said["warm"]) == ("__main__", child.pid, True)
    assert (modules / "err").read_text() == "trouble\n"


@pytest.mark.parametrize("python", ["fresh", "warm"])
def test_the_program_does_as_python_does(warm, modules, python):
    program = sys.executable if python == "fresh" else warm.executable
    done = subprocess.run([program, "-m", "a_say", "x"], input="hello", capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (3, "trouble\n")
    assert (said["argv"], said["in"], said["cwd"]) == (["x"], "hello", str(modules))
    assert said["warm"] == (python == "warm")
    assert subprocess.run([program, "-m", "a_dies"], stderr=subprocess.DEVNULL).returncode == -signal.SIGABRT
    assert subprocess.run([program, "-c", "import sys; sys.exit(7)"]).returncode == 7
    raised = subprocess.run([program, "-m", "a_module_that_is_not"], capture_output=True, text=True)
    assert raised.returncode == 1
    assert "No module named a_module_that_is_not" in raised.stderr


def test_tensorflow_runs_in_many_forks_at_once(warm, modules):
    children = [warm.start(["-m", "a_work"]) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]


def test_a_kill_is_a_kill_and_a_signal_is_handled(warm, modules):
    for number, code in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 5)):
        child = warm.start(["-m", "a_wait"])
        wait_for(modules / "ready")
        assert child.poll() is None
        child.send_signal(number)
        assert child.wait(30) == child.poll() == code
        assert (modules / "ended").exists() == (number == signal.SIGTERM)
        (modules / "ready").unlink()


def test_the_program_passes_signals_on_and_its_death_is_the_forks(warm, modules):
    child = subprocess.Popen([warm.executable, "-m", "a_wait"])
    wait_for(modules / "ready")
    child.terminate()
    assert child.wait(30) == 5
    assert (modules / "ended").exists()
    (modules / "ready").unlink()
    child = subprocess.Popen([warm.executable, "-m", "a_wait"])
    wait_for(modules / "ready")
    pid = int((modules / "pid").read_text())
    assert alive(pid)
    child.kill()
    deadline = time.monotonic() + 10
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_waiting_too_short_is_told(warm, modules):
    child = warm.start(["-m", "a_wait"])
    with pytest.raises(TimeoutError, match=f"process {child.pid} still runs"):
        child.wait(0.01)
    child.kill()
    assert child.wait(30) == -signal.SIGKILL
