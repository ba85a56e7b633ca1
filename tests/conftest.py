"""Settings for all tests: quiet TensorFlow, and no time limits on hypothesis (the machine may be busy)."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # the same sums in the same order, wherever tests run
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("default")


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
