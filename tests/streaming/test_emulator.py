import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from beam_vision import pubsub as names
from beam_vision.errors import JobError, UsageError
from beam_vision.streaming.emulator import Emulator, find_emulator

START_AND_BE_KILLED = """
import os, signal
from beam_vision.streaming.emulator import Emulator
server = Emulator().__enter__()
print(server.port, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_clients_find_the_emulator_and_a_reset_empties_it(pubsub, pubsub_server):
    assert os.environ[names.EMULATOR_HOST] == pubsub_server.environ[names.EMULATOR_HOST] == pubsub.host
    pubsub.subscription(pubsub.topic())
    assert len(pubsub.subscriptions()) == 1
    pubsub_server.reset()
    assert pubsub.subscriptions() == []


def test_the_server_ends_with_a_process_that_is_killed(pubsub_server):
    child = subprocess.run([sys.executable, "-c", START_AND_BE_KILLED], stdout=subprocess.PIPE, timeout=100)
    assert child.returncode == -signal.SIGKILL
    port = int(child.stdout)
    end = time.monotonic() + 20
    while listens(port) and time.monotonic() < end:
        time.sleep(0.05)
    assert not listens(port)
    assert listens(pubsub_server.port)


def test_without_java_there_is_none_and_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert find_emulator() is None
    with pytest.raises(UsageError, match="install java and gcloud components install pubsub-emulator"):
        Emulator().__enter__()


def test_without_its_jar_there_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr("beam_vision.streaming.emulator._sdk_roots", lambda: iter([tmp_path]))
    assert find_emulator() is None


def test_a_server_that_does_not_start_is_an_error_with_its_last_words(pubsub_server, tmp_path):
    jar = tmp_path / "broken.jar"
    jar.write_bytes(b"not a jar")
    with pytest.raises(JobError, match=r"did not start.*broken\.jar"):
        Emulator(str(jar)).__enter__()
