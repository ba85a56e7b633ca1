import io
import threading
import time
from typing import ClassVar

import apache_beam as beam
import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp

from beam_vision import storage
from beam_vision.stream_types import Frame, FrameInfo, Message, frame_key
from beam_vision.streaming.content import ParseSettings
from beam_vision.streaming.fetch_transforms import MOST_WAITING, FetchDoFn, FetchFrames
from beam_vision.streaming.parse import parse
from beam_vision.testing.pipelines import collect_with_counters
from beam_vision.types import EncodedImage, ImageRef

SEC = 1795342500.0


def frame(number, uri, data=b"", camera="gate"):
    info = FrameInfo(camera=camera, capture_sec=SEC + number, message_id=f"m{number}", publish_sec=SEC)
    return Frame(info, EncodedImage(ImageRef(key=frame_key(camera, SEC + number), uri=uri), data))


class FetchFileSystem(FileSystem):
    """``fetch://FAILURES/SLEEP_MS/NAME``: opening fails so many times, then gives the name after a while."""

    opened: ClassVar = {}
    threads: ClassVar = set()

    @classmethod
    def scheme(cls):
        return "fetch"

    def open(self, path, mime_type="", compression_type=None):
        failures, sleep_ms, name = path.removeprefix("fetch://").split("/")
        self.opened[path] = self.opened.get(path, 0) + 1
        if self.opened[path] <= int(failures):
            raise BeamIOError("open failed", {path: ConnectionResetError("reset by peer")})
        self.threads.add(threading.get_ident())
        time.sleep(int(sleep_ms) / 1000)
        return io.BytesIO(name.encode())

    def metadata(self, path):
        return FileMetadata(path, 2)

    def has_dirs(self):
        return False

    join = split = mkdirs = _list = create = copy = rename = exists = size = None
    last_updated = checksum = delete = None


class NoteDoFn(beam.DoFn):
    """The element with its time and window; frames also in the order in which they came."""

    order: ClassVar = []

    def process(self, element, timestamp=beam.DoFn.TimestampParam, window=beam.DoFn.WindowParam):
        if isinstance(element, Frame):
            self.order.append(element.info.message_id)
        yield element, timestamp, window


def run(frames, *, window_sec=None, **options):
    """One bundle of these frames; what came out with times and windows, and the counters."""
    NoteDoFn.order.clear()

    def build(p):
        timed = [TimestampedValue(one, one.info.capture_sec) for one in frames]
        made = p | beam.Create([timed]) | beam.FlatMap(lambda group: group)
        if window_sec:
            made |= beam.WindowInto(FixedWindows(window_sec))
        fetched = made | FetchFrames(run_id="r", **options)
        return tuple(
            pcoll | f"Note {name}" >> beam.ParDo(NoteDoFn())
            for name, pcoll in zip(fetched._fields, fetched, strict=True)
        )

    return collect_with_counters(build)


def test_images_are_read_and_keep_order_time_and_window(tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.jpg").write_bytes(b"image %d" % i)
    frames = [frame(i, str(tmp_path / f"{i}.jpg")) for i in range(3)]
    frames += [frame(70, f"file://{tmp_path}/3.jpg")]
    (good, dead, observed), counters = run(frames, window_sec=60)
    assert [one.image.data for one, _, _ in good] == [b"image 0", b"image 1", b"image 2", b"image 3"]
    assert [one.image.ref for one, _, _ in good] == [one.image.ref for one in frames]
    assert [one.info for one, _, _ in good] == [one.info for one in frames]
    assert [time for _, time, _ in good] == [Timestamp(one.info.capture_sec) for one in frames]
    assert [window.start for _, _, window in good] == [Timestamp(SEC)] * 3 + [Timestamp(SEC + 60)]
    assert (dead, observed) == ([], [])
    assert (counters["images_read"], counters["bytes_read"]) == (4, 28)


def test_a_frame_with_its_image_passes_untouched():
    ((passed, _, _),), dead, _ = run([frame(1, "/not/there.jpg", b"here")])[0]
    assert passed == frame(1, "/not/there.jpg", b"here")
    assert not dead


def test_what_cannot_be_read_is_a_dead_letter_that_can_be_sent_again(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "large.jpg").write_bytes(b"12345")
    (tmp_path / "fine.jpg").write_bytes(b"1234")
    names = ["gone.jpg", "empty.jpg", "large.jpg", "fine.jpg"]
    frames = [frame(i, str(tmp_path / name)) for i, name in enumerate(names)]
    (good, dead, observed), counters = run(frames, max_file_bytes=4)
    assert [one.info.message_id for one, _, _ in good] == ["m3"]
    found = [(d.info.message_id, d.failure.reason, d.failure.stage, d.failure.run_id) for d, _, _ in dead]
    assert found == [
        ("m0", "not_found", "read", "r"),
        ("m1", "empty", "read", "r"),
        ("m2", "too_many_bytes", "read", "r"),
    ]
    assert [d.failure.key for d, _, _ in dead] == [one.image.ref.key for one in frames[:3]]
    assert [(o.camera, o.kind, o.capture_sec) for o, _, _ in observed] == [
        ("gate", "failed", SEC + i) for i in range(3)
    ]
    assert [time for _, time, _ in observed] == [Timestamp(SEC + i) for i in range(3)]
    assert counters["images_failed"] == 3
    again = Message(dead[0][0].data, {}, "m9", SEC)
    assert parse(again, ParseSettings(uri_prefixes=(str(tmp_path),))).image == frames[0].image


def test_transient_errors_are_tried_again_with_an_end():
    delays = (0.01, 0.01)
    frames = [frame(0, "fetch://2/0/a"), frame(1, "fetch://3/0/b")]
    (good, dead, _), _ = run(frames, retry_delays_sec=delays)
    assert [one.image.data for one, _, _ in good] == [b"a"]
    assert [d.failure.reason for d, _, _ in dead] == ["read_error"]
    assert FetchFileSystem.opened == {"fetch://2/0/a": 3, "fetch://3/0/b": 3}


def test_files_are_read_at_once_and_given_in_order():
    FetchFileSystem.threads.clear()
    count = MOST_WAITING + 10
    frames = [frame(i, f"fetch://0/{40 if i == 0 else i % 3}/{i}") for i in range(count)]
    (good, _, _), _ = run(frames, threads=4)
    assert len(FetchFileSystem.threads) == 4
    assert [int(one.image.data) for one, _, _ in good] == list(range(count))
    assert NoteDoFn.order == [f"m{i}" for i in range(count)]


def test_only_so_many_frames_wait_for_each_other(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    step = FetchDoFn()
    step.setup()
    step.start_bundle()
    given = [
        len(list(step.process(frame(i, str(tmp_path / "a.jpg")), Timestamp(i), GlobalWindow())))
        for i in range(MOST_WAITING + 1)
    ]
    assert given == [0] * (MOST_WAITING - 1) + [MOST_WAITING, 0]
    assert len(list(step.finish_bundle())) == 1
    step.teardown()


def test_the_same_frame_twice_in_a_bundle_comes_out_twice(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    twice = frame(0, str(tmp_path / "a.jpg"))
    (good, _, _), _ = run([twice, twice, frame(0, str(tmp_path / "a.jpg"))])
    assert [one.image.data for one, _, _ in good] == [b"a"] * 3


@pytest.mark.usefixtures("gcs")
def test_an_object_that_was_deleted_since_is_a_dead_letter():
    storage.write_bytes("gs://lake/fetch/a.jpg", b"in a bucket")
    event = {"eventType": "OBJECT_FINALIZE", "bucketId": "lake", "capture_time": str(SEC), "camera": "gate"}
    frames = [
        parse(Message(b"", {**event, "objectId": f"fetch/{name}.jpg"}, name, SEC), ParseSettings())
        for name in ("a", "deleted")
    ]
    (good, dead, _), _ = run(frames)
    assert [one.image.data for one, _, _ in good] == [b"in a bucket"]
    assert [(d.failure.uri, d.failure.reason) for d, _, _ in dead] == [
        ("gs://lake/fetch/deleted.jpg", "not_found")
    ]
