import pytest

from beam_vision.doctor.base import Check, examine
from beam_vision.doctor.google import Google
from beam_vision.testing.fake_cloud import FakeCloud


@pytest.fixture
def cloud(monkeypatch):
    """A running FakeCloud that clients find; no key in the environment."""
    with FakeCloud() as fake:
        for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
            monkeypatch.delenv(name, raising=False)
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake


@pytest.fixture
def google(cloud):
    with Google(5.0) as connections:
        yield connections


@pytest.fixture
def find():
    """The findings of one question, by name; the last of a name."""

    def find(ask, *args, **kwargs):
        found = examine([Check("question", "test", lambda: ask(*args, **kwargs))])
        assert all(one.group == "test" for one in found)
        return {one.name: one for one in found}

    return find
