"""WatchArchive on Beam's runner, against the step itself in a loop; and reading in order."""

import os
import random
import threading

import apache_beam as beam
import numpy as np
import pytest

from beam_vision import metrics
from beam_vision.sources import reader
from beam_vision.stream_types import Frame, FrameInfo, frame_key
from beam_vision.streaming import camera
from beam_vision.streaming.archive_transforms import WatchArchive
from beam_vision.streaming.health import WatchSettings
from beam_vision.streaming.measure import bytes_digest, measure
from beam_vision.testing import images
from beam_vision.testing.pipelines import collect, collect_with_counters
from beam_vision.types import EncodedImage, Failure, ImageRef

START = 1_700_000_000.0
NIGHT = images.encode(np.zeros((48, 64, 3), np.uint8), "png")
SCENES = [images.encode(images.photo(seed, 64, 48), "jpeg") for seed in range(4)]


def save(folder, at_sec, data, name="a", *, of="a"):
    """A frame whose image is in a file."""
    path = folder / f"{name}-{of}-{at_sec:.2f}"
    if data is not None:
        path.write_bytes(data)
    ref = ImageRef(key=frame_key(of, at_sec), uri=str(path))
    return Frame(FrameInfo(of, at_sec), EncodedImage(ref, b""))


def watch(frames, **settings):
    random.Random(3).shuffle(frames)
    return collect_with_counters(
        lambda p: p | beam.Create(frames) | WatchArchive(WatchSettings(**settings), run_id="run-3")
    )


def test_frames_in_any_order_give_what_the_step_gives_in_order(tmp_path):
    frames, expected, alerts = [], {}, {}
    settings = WatchSettings(gate_distance=2, heartbeat_sec=2, silent_sec=5, frozen_sec=3, settle_sec=1)
    for of in ("a", "b"):
        state = None
        for i in range(80):
            at_sec = START + i / 4 + 10 * (i > 60)
            scene = NIGHT if 20 <= i < 40 and of == "b" else SCENES[i // 10 % 4]
            data = scene if i % 9 else b"broken"
            frames.append(save(tmp_path, at_sec, data, of=of))
            info = frames[-1].info
            took = camera.take(
                state, info, bytes_digest(data), lambda d=data: measure(d), settings, now_sec=at_sec
            )
            state = took.state
            alerts.setdefault(of, []).extend((change.time_sec, change.state) for change in took.changes)
            if took.passes:
                expected[info.camera, at_sec] = data
    found, counters = watch(
        frames, **{name: getattr(settings, name) for name in settings.__dataclass_fields__}
    )
    assert {(f.info.camera, f.info.capture_sec): f.image.data for f in found.frames} == expected
    assert len(found.observed) == 160
    assert counters[metrics.GATED] == 160 - len(expected) > 50
    told = {of: [] for of in alerts}
    for row in found.alerts:
        told[row.camera].append((row.time_sec, row.values["state"]))
    assert {of: sorted(changes) for of, changes in told.items()} == {
        of: sorted(changes) for of, changes in alerts.items()
    }
    assert {state for _, state in told["b"]} >= {"black", "silent"}
    for of in ("a", "b"):
        times = [f.info.capture_sec for f in found.frames if f.info.camera == of]
        assert times == sorted(times)


def test_repetitions_and_files_that_cannot_be_read(tmp_path):
    frames = [save(tmp_path, START + i, SCENES[0], "z") for i in range(5)]
    frames += [save(tmp_path, START + 2, SCENES[1], "a"), save(tmp_path, START + 2, SCENES[2], "b")]
    frames += [save(tmp_path, START + n, data) for n, data in ((7, None), (8, b""), (9, b"12345" * 999))]
    found, counters = collect_with_counters(
        lambda p: p | beam.Create(frames) | WatchArchive(run_id="run-3", max_file_bytes=4000)
    )
    assert len(SCENES[0]) < 4000
    assert {f.info.capture_sec: f.image.data for f in found.frames} == {
        START + i: SCENES[1 if i == 2 else 0] for i in range(5)
    }
    kinds = sorted((seen.kind, seen.capture_sec - START) for seen in found.observed)
    assert kinds == [
        ("duplicate", 2),
        ("duplicate", 2),
        *(("failed", n) for n in (7, 8, 9)),
        *(("frame", n) for n in range(5)),
    ]
    dead = {d.failure.reason: d for d in found.dead}
    assert dead.keys() == {"not_found", "empty", "too_many_bytes"}
    assert {d.failure.run_id for d in found.dead} == {"run-3"}
    assert dead["empty"].info.camera == "a"
    assert (counters[metrics.DUPLICATES], counters[metrics.FAILED], counters[metrics.READ]) == (2, 3, 5)


def test_no_frames_give_nothing():
    assert all(outputs == [] for outputs in collect(lambda p: p | beam.Create([]) | WatchArchive()))


@pytest.fixture
def made():
    readers = []

    def made(**options):
        readers.append(reader.ImageReader(**options))
        return readers[-1]

    yield made
    for one in readers:
        one.close()


def refs(folder, sizes):
    found = []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.bin"
        path.write_bytes(bytes([number % 251]) * size)
        found.append(ImageRef(key=str(number), uri=str(path)))
    return found


def test_reads_come_in_the_order_of_refs_failures_too(made, tmp_path):
    wanted = refs(tmp_path, [1 + 37 * n % 101 for n in range(200)])
    os.remove(wanted[50].uri)
    reads = list(made(threads=8).read_in_order(wanted))
    assert [read.ref for read in reads] == wanted
    assert isinstance(reads[50].outcome, Failure)
    assert all(reads[n].outcome == (tmp_path / f"{n}.bin").read_bytes() for n in range(200) if n != 50)


def test_no_more_is_read_ahead_than_may_be_held(made, tmp_path):
    """While so many bytes wait no further ref is asked for; one that is larger alone passes too."""
    asked, all_asked = 0, threading.Event()

    def ask():
        nonlocal asked
        for ref in refs(tmp_path, [1000] * 12 + [9000] * 2):
            asked += 1
            if asked == 2 * threads:
                all_asked.set()
            yield ref

    threads = 4
    pool = made(threads=threads, max_held_bytes=3000)
    for _ in range(threads):
        pool._pool.submit(all_asked.wait)
    reads = pool.read_in_order(ask())
    next(reads)
    all_busy = threading.Barrier(threads)
    for busy in [pool._pool.submit(all_busy.wait) for _ in range(threads)]:
        busy.result()  # so what was begun before is read
    seen = []
    for _ in range(6):
        next(reads)
        seen.append(asked)
    assert seen[:5] == [8] * 5
    assert seen[5] > 8
    assert [len(read.outcome) for read in reads] == [1000] * 5 + [9000] * 2


def test_who_gives_up_reading_leaves_no_work_behind(made, tmp_path):
    """Reads that were not begun are called off: the pool is free for the next one at once."""
    pool = made(threads=1)
    fifo_free = threading.Event()
    pool._pool.submit(fifo_free.wait)
    reads = pool.read_in_order(refs(tmp_path, [10] * 5))
    threading.Timer(0.1, fifo_free.set).start()
    assert next(reads).outcome == bytes(10)
    reads.close()
    (only,) = pool.read_in_order(refs(tmp_path, [3]))
    assert only.outcome == bytes(3)
