import io
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import storage
from beam_vision.errors import Reason, VisionError
from beam_vision.sources.files import local_uri, normalise_uri, read_error, read_image
from beam_vision.sources.reader import ByteBudget, ImageReader
from beam_vision.types import Failure, ImageRef


def reason_of(uri, **options):
    with pytest.raises(VisionError) as caught:
        read_image(uri, **options)
    assert uri in caught.value.detail or "\0" in uri
    return caught.value.reason


def test_reads_what_is_there(tmp_path):
    (tmp_path / "a").write_bytes(b"\x00\xff")
    (tmp_path / "empty").write_bytes(b"")
    assert read_image(str(tmp_path / "a")) == b"\x00\xff"
    assert read_image(f"file://{tmp_path}/a") == b"\x00\xff"
    assert read_image(str(tmp_path / "empty")) == b""


def test_permanent_errors_come_at_once(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    os.symlink("loop", tmp_path / "loop")
    os.mkfifo(tmp_path / "pipe")
    start = time.monotonic()
    assert reason_of(str(tmp_path / "none")) is Reason.NOT_FOUND
    assert reason_of(str(tmp_path / "a" / "below-a-file")) is Reason.NOT_FOUND
    assert reason_of(str(tmp_path / "loop")) is Reason.NOT_FOUND
    assert reason_of(str(tmp_path / ("x" * 300))) is Reason.NOT_FOUND
    assert reason_of(str(tmp_path / "nul\0")) is Reason.NOT_FOUND
    assert reason_of("nosuchscheme://bucket/a") is Reason.NOT_FOUND
    assert reason_of(str(tmp_path)) is Reason.NOT_AN_IMAGE
    assert reason_of(str(tmp_path / "pipe")) is Reason.NOT_AN_IMAGE
    assert reason_of(str(tmp_path / "a"), max_bytes=4) is Reason.TOO_MANY_BYTES
    assert read_image(str(tmp_path / "a"), max_bytes=5) == b"12345"
    assert time.monotonic() - start < 3  # no backoff


def test_a_file_that_may_not_be_read_is_forbidden():
    code = (
        "import os, sys\nfrom beam_vision.errors import VisionError\n"
        "from beam_vision.sources.files import read_image\n"
        "if os.geteuid() == 0: os.setuid(65534)  # root may read anything\n"
        "try: read_image(sys.argv[1])\nexcept VisionError as error: print(error.reason.value)"
    )
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "a.jpg")
        path.write_bytes(b"x")
        path.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", code, path], capture_output=True, text=True, check=True, cwd="/"
        )
    assert done.stdout.strip() == "forbidden"


class CountingFile(io.BytesIO):
    def read(self, size=-1):
        data = super().read(size)
        FlakyFileSystem.bytes_read += len(data)
        return data


class FlakyFileSystem(FileSystem):
    """``flaky://N/...``: opening fails N times, then gives the text ``ok``; counts the bytes read."""

    opened: ClassVar = {}
    bytes_read = 0

    @classmethod
    def scheme(cls):
        return "flaky"

    def open(self, path, mime_type="", compression_type=None):
        failures = int(path.split("/")[2])
        self.opened[path] = self.opened.get(path, 0) + 1
        if self.opened[path] <= failures:
            raise BeamIOError("open failed", {path: ConnectionResetError("reset by peer")})
        return CountingFile(b"ok")

    def metadata(self, path):
        return FileMetadata(path, 2)

    def has_dirs(self):
        return False

    join = split = mkdirs = _list = create = copy = rename = exists = size = None
    last_updated = checksum = delete = None


def test_transient_errors_are_tried_again():
    delays = (0.01, 0.01)
    assert read_image("flaky://2/a", retry_delays_sec=delays) == b"ok"
    assert FlakyFileSystem.opened["flaky://2/a"] == 3
    assert reason_of("flaky://9/b", retry_delays_sec=delays) is Reason.READ_ERROR
    assert FlakyFileSystem.opened["flaky://9/b"] == 3


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (BeamIOError("x", {"a": FileNotFoundError(2, "no")}), Reason.NOT_FOUND),
        (BeamIOError("x", {"a": PermissionError(13, "no")}), Reason.FORBIDDEN),
        (BeamIOError("x", {"a": TimeoutError("slow")}), Reason.READ_ERROR),
        (ConnectionError("reset"), Reason.READ_ERROR),
        (OSError(5, "I/O error"), Reason.READ_ERROR),
    ],
)
def test_errors_of_filesystems(error, reason):
    assert read_error(error, "a").reason is reason


def test_errors_of_google_cloud_storage():
    exceptions = pytest.importorskip("google.api_core.exceptions")
    assert read_error(exceptions.NotFound("x"), "a").reason is Reason.NOT_FOUND
    assert read_error(exceptions.Forbidden("x"), "a").reason is Reason.FORBIDDEN
    assert read_error(exceptions.Unauthorized("x"), "a").reason is Reason.FORBIDDEN
    assert read_error(exceptions.ServiceUnavailable("x"), "a").reason is Reason.READ_ERROR
    inner = BeamIOError("list", {"gs://b": exceptions.Forbidden("x")})
    assert read_error(BeamIOError("match", {"gs://b/**": inner}), "a").reason is Reason.FORBIDDEN


@pytest.mark.parametrize(
    ("uri", "root", "expected"),
    [
        ("cat/1.jpg", "/lake", "/lake/cat/1.jpg"),
        ("./cat/../dog/1.jpg", "/lake/", "/lake/dog/1.jpg"),
        ("/else/1.jpg", "/lake", "/else/1.jpg"),
        ("/else/1.jpg", "gs://b/lake", "/else/1.jpg"),
        ("cat/1.jpg", "gs://b/lake", "gs://b/lake/cat/1.jpg"),
        ("./cat/1.jpg", "gs://b/lake/", "gs://b/lake/cat/1.jpg"),
        ("gs://b//x/../1.jpg", "/lake", "gs://b//x/../1.jpg"),
        ("file:///lake/a%20b.jpg", "", "/lake/a b.jpg"),
        ("file:///lake/%ff.jpg", "", "file:///lake/%FF.jpg"),
        ("100%25.jpg", "/lake", "/lake/100%25.jpg"),
    ],
)
def test_normalised_uris(uri, root, expected):
    assert normalise_uri(uri, root) == expected
    assert normalise_uri(expected) == expected


@given(
    st.binary(min_size=1, max_size=12).filter(
        lambda name: not {0, 47} & {*name} and name not in (b".", b"..")
    )
)
def test_any_file_name_has_a_uri_that_leads_back_to_it(name):
    path = "/lake/" + os.fsdecode(name)
    uri = local_uri(path)
    uri.encode("utf-8")
    assert storage.local(uri) == path
    assert normalise_uri(uri) == uri


def refs_of(paths):
    return [ImageRef(key=str(path), uri=str(path)) for path in paths]


def test_the_reader_gives_one_outcome_for_each_ref(tmp_path):
    paths = [tmp_path / f"{i}" for i in range(100)]
    for i, path in enumerate(paths):
        if i % 10:
            path.write_bytes(b"x" * i)
    reader = ImageReader(threads=4, max_file_bytes=90, run_id="r", attempt=2)
    reads = {read.ref.key: read.outcome for read in reader.read_all(refs_of(paths))}
    reader.close()
    assert len(reads) == 100
    for i, path in enumerate(paths):
        outcome = reads[str(path)]
        if i % 10 and i <= 90:
            assert outcome == b"x" * i
        else:
            assert isinstance(outcome, Failure)
            assert outcome.reason == ("too_many_bytes" if i % 10 else "not_found")
            assert (outcome.stage, outcome.run_id, outcome.attempt) == ("read", "r", 2)


def test_a_budget_lets_no_more_be_held():
    budget = ByteBudget(3000)
    held, most = [], []

    def work():
        for _ in range(20):
            holder = object()
            budget.take(holder, 1000)
            held.append(holder)
            most.append(len(held))
            time.sleep(0.0005)
            held.remove(holder)
            budget.release(holder)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(most) == 160
    assert max(most) == 3


def test_the_reader_reads_ahead_no_more_bytes_than_it_may():
    FlakyFileSystem.bytes_read = 0
    reader = ImageReader(threads=8, max_held_bytes=7)
    reads = reader.read_all(refs_of(f"flaky://0/ahead-{i}" for i in range(30)))
    next(reads)
    time.sleep(0.2)  # time enough to read all, were it allowed
    assert 1 <= FlakyFileSystem.bytes_read <= 8  # 3 files of 2 bytes, and the one at hand
    assert len(list(reads)) == 29
    assert FlakyFileSystem.bytes_read == 60
    reader.close()


def test_a_file_larger_than_the_budget_is_read_alone(tmp_path):
    for i in range(6):
        (tmp_path / str(i)).write_bytes(bytes(5000))
    reader = ImageReader(threads=4, max_held_bytes=10)
    assert [len(read.outcome) for read in reader.read_all(refs_of(tmp_path.iterdir()))] == [5000] * 6
    reader.close()


def test_a_consumer_that_gives_up_leaves_no_thread_waiting(tmp_path):
    for i in range(50):
        (tmp_path / str(i)).write_bytes(bytes(100))
    others = set(threading.enumerate())
    reader = ImageReader(threads=4, max_held_bytes=100)
    reads = reader.read_all(refs_of(tmp_path.iterdir()))
    next(reads)
    threads = set(threading.enumerate()) - others
    assert threads
    reads.close()
    reader.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def test_failures_pickle(tmp_path):
    reader = ImageReader(threads=1)
    (read,) = reader.read_all(refs_of([tmp_path / "none"]))
    reader.close()
    assert pickle.loads(pickle.dumps(read)) == read
