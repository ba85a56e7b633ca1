"""Settings for all tests: quiet TensorFlow, and no time limits on hypothesis (the machine may be busy)."""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same sums in the same order, wherever tests run
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


def pytest_runtest_setup():
    """Once there is Beam in this process, it builds pipelines quicker."""
    if "apache_beam" in sys.modules:
        from beam_vision.testing import quick_beam

        quick_beam.install()


@pytest.fixture(scope="session")
def warm():
    """A :class:`~beam_vision.testing.warm.WarmPython`: processes that need not import TensorFlow anew."""
    from beam_vision.testing.warm import WarmPython

    with WarmPython() as python:
        yield python


@pytest.fixture
def warm_children(warm, monkeypatch):
    """What starts ``sys.executable -m MODULE``, here or in the code under test, gets a warm Python's fork."""
    monkeypatch.setattr(sys, "executable", warm.executable)


@pytest.fixture(scope="session")
def gcs_server():
    """A Cloud Storage emulator on a free loopback port; ends with the tests."""
    from gcp_storage_emulator.server import create_server

    server = create_server("localhost", 0, in_memory=True, default_bucket="lake")
    server.start()
    yield f"http://localhost:{server._api._httpd.server_address[1]}"
    server.stop()


@pytest.fixture
def gcs(gcs_server, monkeypatch):
    """``gs://lake`` on the emulator, with anonymous credentials (Beam would look for real ones for 24 s)."""
    from apache_beam.internal.gcp.auth import _Credentials

    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gcs_server)
    monkeypatch.setattr(_Credentials, "_credentials_init", True)
    monkeypatch.setattr(_Credentials, "_credentials", None)
    return "gs://lake"


@pytest.fixture(scope="session")
def pubsub_server():
    """The Pub/Sub :class:`~beam_vision.streaming.emulator.Emulator`, running; ends with the tests."""
    from beam_vision.streaming.emulator import HOW_TO_INSTALL, Emulator, find_emulator

    if find_emulator() is None:
        pytest.skip(f"no Pub/Sub emulator here: needs java and {HOW_TO_INSTALL}")
    with Emulator() as server:
        yield server


@pytest.fixture
def pubsub(pubsub_server, monkeypatch):
    """A :class:`~beam_vision.testing.pubsub_emulator.PubSub`: a project of its own on the emulator."""
    from beam_vision.testing.pubsub_emulator import PubSub

    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", pubsub_server.host)
    project = PubSub(pubsub_server.host)
    yield project
    project.close()


@pytest.fixture(scope="session")
def bigquery_server():
    """A running :class:`~beam_vision.testing.bigquery_emulator.Emulator`; ends with the tests."""
    from beam_vision.testing.bigquery_emulator import Emulator

    with Emulator() as server:
        yield server


@pytest.fixture
def warehouse(bigquery_server, monkeypatch):
    """A :class:`~beam_vision.testing.bigquery_emulator.Warehouse`: a dataset of its own on the emulator."""
    from beam_vision.testing.bigquery_emulator import Warehouse

    for name, value in bigquery_server.environment.items():
        monkeypatch.setenv(name, value)
    own = Warehouse()
    yield own
    own.close()
