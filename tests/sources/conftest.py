"""Runs a piece of a pipeline on FnApiRunner and gives back what came out; a lake of files; a bucket."""

import itertools
import pickle

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_vision import metrics


@pytest.fixture
def run(tmp_path_factory):
    """``run(build)``: ``build(pipeline)`` gives PCollections by name; the result is lists by those names."""
    folder = tmp_path_factory.mktemp("out")
    number = itertools.count()

    def collect(build):
        paths = {}
        metrics.TALLY.clear()
        with beam.Pipeline(FnApiRunner()) as pipeline:
            for name, values in build(pipeline).items():
                paths[name] = folder / f"{next(number)}.pickle"
                paths[name].touch()
                _ = values | f"Keep{name}" >> keep(paths[name])
        return {name: list(kept(path)) for name, path in paths.items()}

    def keep(path):
        def append(value):  # one process, one thread
            with path.open("ab") as file:
                pickle.dump(value, file)

        return beam.Map(append)

    def kept(path):
        with path.open("rb") as file:
            while file.peek(1):
                yield pickle.load(file)

    return collect


@pytest.fixture
def make_files():
    """``make_files(folder, {"a/b.jpg": b"..."})``; names may be bytes."""

    def make(folder, files):
        for name, data in files.items():
            path = folder / (name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return str(folder)

    return make


@pytest.fixture
def bucket(monkeypatch):
    """``gs://lake`` on an emulator of Google Cloud Storage in this process."""
    create_server = pytest.importorskip("gcp_storage_emulator.server").create_server
    import google.auth
    from apache_beam.io.filesystems import FileSystems
    from google.auth.credentials import AnonymousCredentials

    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "test"))
    server = create_server("localhost", 0, in_memory=True, default_bucket="lake")
    server.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://localhost:{server._api._httpd.server_port}")
    before = FileSystems._pipeline_options
    FileSystems.set_options(PipelineOptions(["--project=test"]))
    yield "gs://lake"
    FileSystems.set_options(before)
    server.stop()
