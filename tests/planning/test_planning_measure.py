"""Measuring: every image, each step, batches of the model; what fails is kept apart."""

import os
import time

import numpy as np
import pytest

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.reading import EngineSettings
from beam_vision.planning.measure import Step, look
from beam_vision.planning.model import ModelWork, process_bytes
from beam_vision.sources import tfrecord
from beam_vision.testing import images, models
from beam_vision.testing.datasets import make_labelled
from beam_vision.types import ImageRef


def refs_of(folder, **kwargs):
    files = images.make_lake(folder, **kwargs)
    return [ImageRef(key=str(file.path), uri=str(file.path)) for file in files]


def burn(seconds):
    def work(data):
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass
        return 1

    return work


def test_each_step_is_timed_on_the_cpu_and_the_first_image_once_more(tmp_path):
    refs = refs_of(tmp_path / "lake", classes=("red",), per_class=3)
    calls = []

    def sleep(data):
        calls.append(len(data))
        time.sleep(0.02)
        return 0

    seen = list(look(refs, [Step("burn", burn(0.01)), Step("sleep", sleep)], repeats=2))
    assert len(calls) == 1 + 2 * 3
    for item, ref in zip(seen, refs, strict=True):
        assert item.ref == ref
        assert item.failure is None
        assert item.rows == 1
        assert item.n_bytes == os.path.getsize(ref.uri)
        assert item.steps_sec["burn"] >= 0.01
        assert item.steps_sec["sleep"] < item.steps_sec["burn"]  # waiting takes no CPU
        assert item.read_wall_sec > 0
        assert item.cpu_sec == pytest.approx(item.read_cpu_sec + sum(item.steps_sec.values()))


def test_an_image_that_fails_stops_there(tmp_path):
    refs = refs_of(tmp_path / "lake", classes=("red",), per_class=2)

    def refuse(data):
        raise VisionError(Reason.CORRUPT, "no")

    never = []
    seen = list(look(refs, [Step("refuse", refuse), Step("never", never.append)], repeats=3))
    assert [item.failure.reason for item in seen] == ["corrupt", "corrupt"]
    assert not never
    assert all(set(item.steps_sec) == {"refuse"} and item.rows == 0 for item in seen)


def test_records_are_read(tmp_path):
    make_labelled(tmp_path / "dataset", {"train": 4})
    shards = [found.uri for found in tfrecord.list_shards((f"{tmp_path}/dataset/",))]
    records = [record for shard in shards for record in tfrecord.scan_shard(shard)]
    seen = list(look(records, [Step("length", len)], repeats=1))
    assert [item.ref.key for item in seen] == [record.key for record in records]
    assert all(item.header.format == "PNG" and item.rows == item.n_bytes for item in seen)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("model") / "tiny"))


def work_of(path, **settings):
    return ModelWork(path, read_bundle(path, {"task": "classify"}), EngineSettings(**settings))


def test_batches_of_the_model_are_full_and_timed(tiny):
    work = work_of(tiny, batch_size=16)
    assert work.time_batches(3) == []  # nothing was prepared
    for i in range(3):
        assert work.prepare(images.encode(images.photo(i, 32, 24), "png")) == 1
    timed = work.time_batches(4)
    assert len(timed) == 4
    for item in timed:
        assert item.rows == 16
        assert item.wall_sec > 0
        assert item.failed == 0
    assert sum(item.cpu_sec + item.results_sec for item in timed) > 0
    assert work.process_bytes == pytest.approx(process_bytes(), rel=0.5)


def test_tiles_are_rows(tiny):
    work = work_of(tiny, batch_size=4, tile_px=16, tile_overlap=0.0)
    assert work.prepare(images.encode(images.photo(0, 32, 32), "png")) == 4
    assert len(work.time_batches(1)) == 1


def test_rows_that_the_model_fails_on_are_counted(tmp_path):
    path = models.save_troubled(str(tmp_path / "troubled"), "raises")
    work = work_of(path, batch_size=4)
    flat = np.full((8, 8, 3), models.CULPRIT_RGB, np.uint8)
    work.prepare(images.encode(flat, "png"))
    assert [item.failed for item in work.time_batches(1)] == [4]


def test_a_model_of_examples_is_refused(tmp_path):
    path = models.save_example_model(str(tmp_path / "examples"))
    with pytest.raises(UsageError, match="a model of tf"):
        work_of(path)
