"""The streaming demo: what it checks, where frames go, and a short run through a watched folder."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from beam_vision.errors import JobError, UsageError
from beam_vision.inference.bundle import read_bundle, write_bundle
from beam_vision.inference.golden import pack_golden
from beam_vision.pipelines import demo_stream, demo_stream_run
from beam_vision.pipelines import demo_stream_cameras as cameras
from beam_vision.pipelines import demo_stream_model as versions
from beam_vision.pipelines.cli import main
from beam_vision.pipelines.demo_stream import Options
from beam_vision.pipelines.demo_stream_run import Feed, Places
from beam_vision.reports.stream_collect import collect
from beam_vision.streaming.simulate import Episode, SimulatedCamera, simulate
from beam_vision.testing import models

PHOTOS = {"a": np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)}


def preflight(tmp_path, **settings):
    return demo_stream.preflight(Options(output=str(tmp_path / "out"), **settings))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"output": "gs://bucket/x"}, "--output gs://bucket/x: the demo runs here"),
        ({"output": "o", "input": "gs://bucket/x"}, "--input gs://bucket/x: give a local folder"),
        ({"output": "o", "seconds": 1.0}, "--seconds is 1; it must be at least 5"),
        ({"output": "o", "frames_per_sec": 0.0}, "--frames_per_sec is 0"),
    ],
)
def test_wrong_options_are_refused(settings, said):
    with pytest.raises(UsageError, match=said):
        demo_stream.preflight(Options(**settings))


def test_an_output_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    assert preflight(tmp_path)["output"] == str(tmp_path / "out")
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="this demo didn't write"):
        preflight(tmp_path)
    (tmp_path / "out" / demo_stream.MARK).touch()
    preflight(tmp_path)


def test_without_an_emulator_a_folder_is_watched_and_that_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    options, places = Options(), Places(str(tmp_path / "out"))
    feed = demo_stream.feed_of(options, places)
    assert feed == Feed(places.frames, None, simulated=True)
    demo_stream.say_feed(options, feed)
    said = capsys.readouterr().err
    assert "no Pub/Sub emulator found" in said
    assert "pubsub-emulator" in said
    assert places.frames in said


def test_a_folder_with_images_is_streamed_and_an_empty_one_is_filled(tmp_path):
    places = Places(str(tmp_path / "out"))

    def simulated(folder):
        return demo_stream.feed_of(Options(input=str(folder)), places).simulated

    assert simulated(tmp_path / "new")
    mine = tmp_path / "mine" / "moving"
    mine.mkdir(parents=True)
    assert not simulated(tmp_path / "mine")
    (mine / "holiday.jpg").touch()
    (mine / "20261122T101500.000000Z.jpg").touch()
    cameras.clear_frames(str(tmp_path / "mine"))  # as if the cameras had written there before
    assert [path.name for path in mine.iterdir()] == ["holiday.jpg"]
    assert simulated(tmp_path / "mine")


def test_the_cameras_do_what_they_are_named_for():
    found = {camera.name: camera for camera in cameras.plan(60, 8)}
    assert {episode.what for episode in found["freezing"].episodes} == {"still", "frozen"}
    assert {episode.what for episode in found["breaking"].episodes} == {"broken", "black", "silent"}
    assert "frozen" not in {episode.what for episode in found["moving"].episodes}
    for camera in found.values():
        assert all(0 <= e.start_sec < e.end_sec <= 60 for e in camera.episodes)
        assert len(camera.scenes) * camera.scene_sec < 60


def test_photographs_are_small_and_all_there():
    photos = cameras.load_photos()
    assert set(photos) == {name for names in cameras.SCENES.values() for name in names}
    assert all(max(pixels.shape[:2]) <= 640 for pixels in photos.values())


def test_frames_in_a_folder_are_named_by_their_times_and_appear_whole(tmp_path):
    plan = [SimulatedCamera(name="one", scenes=("a",), frames_per_sec=2, episodes=(Episode(0, 9, "broken"),))]
    frames = list(simulate(plan, PHOTOS, 3))
    with cameras.to_folder(str(tmp_path)) as send:
        for frame in frames:
            send(frame, 1_795_000_000.25)
    names = sorted(os.listdir(tmp_path / "one"))
    assert names[:2] == ["20261118T110640.250000Z.jpg", "20261118T110640.750000Z.jpg"]
    assert all(cameras.FRAME_NAME.fullmatch(name) for name in names)
    assert [(tmp_path / "one" / name).read_bytes() for name in names] == [frame.data for frame in frames]


def test_frames_go_to_the_emulator_with_their_attributes(pubsub, pubsub_server, monkeypatch):
    monkeypatch.setattr(cameras, "PROJECT", pubsub.project)
    plan = [SimulatedCamera(name="one", scenes=("a",), frames_per_sec=2)]
    frames = list(simulate(plan, PHOTOS, 2))
    with cameras.to_emulator(pubsub_server.environ) as send:
        for frame in frames:
            send(frame, 1_795_000_000.0)
    got = pubsub.take(cameras.subscription().removeprefix("pubsub://"), len(frames))
    found = {message.attributes["sequence"]: message for message in got}
    assert sorted(found) == ["0", "1", "2", "3"]
    assert all(found[str(f.sequence)].data == f.data for f in frames)
    assert found["3"].attributes["capture_time"] == "2026-11-18T11:06:41.500000Z"


def test_a_half_copied_bundle_is_what_is_said(prepared, tmp_path):
    versions.cut_in_half(str(prepared / versions.FIRST), str(tmp_path / "cut"))
    with pytest.raises(UsageError, match="digests differ"):
        read_bundle(str(tmp_path / "cut"))
    assert read_bundle(str(prepared / versions.FIRST)).labels == models.LABELS


def test_crops_are_of_all_classes_and_the_same_each_time():
    photos = {**PHOTOS, "b": PHOTOS["a"][::-1]}
    crops = versions.crops_of(photos, 5, seed=1)
    assert crops.images.shape == (10, 64, 64, 3)
    assert crops.ids.tolist() == [0] * 5 + [1] * 5
    assert np.array_equal(versions.crops_of(photos, 5, seed=1).images, crops.images)
    assert not np.array_equal(versions.crops_of(photos, 5, seed=2).images, crops.images)


def test_a_stream_that_fails_or_hangs_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(JobError, match="ended with exit code 2 before it was ready"):
        with demo_stream_run.running(["no-such-job"], {}) as process:
            demo_stream_run.wait_until_ready(process, str(tmp_path / "ready"))
    monkeypatch.setattr(demo_stream_run, "READY_SEC", 0.1)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        with pytest.raises(JobError, match=r"not ready within 0\.1 s"):
            demo_stream_run.wait_until_ready(process, str(tmp_path / "ready"))
        process.kill()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Two small versions in the place of those that the demo trains, with golden images."""
    root = tmp_path_factory.mktemp("versions")
    files = []
    for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250), (9, 9, 9)):
        path = root / "golden.png"
        Image.new("RGB", (16, 16), colour).save(path)
        files.append(path.read_bytes())
    for version, dtype in ((versions.FIRST, "float32"), (versions.SECOND, "uint8")):
        said = {"labels": models.LABELS, "scores_output": "scores"}
        write_bundle(str(root / version), lambda d, t=dtype: models.save_saved_model(d, dtype=t), said)
        pack_golden(str(root / version), files)
    digest = versions.settings_of(cameras.load_photos())
    (root / versions.MARK).write_text(json.dumps({"digest": digest}))
    return root


@pytest.mark.slow
@pytest.mark.usefixtures("warm_children")
def test_a_short_run_through_a_watched_folder(prepared, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo_stream_run, "EXTRA_SEC", 5.0)
    out, watched = tmp_path / "out", tmp_path / "watched"
    shutil.copytree(prepared, out / "model")
    (out / demo_stream.MARK).touch()
    argv = ["--output", str(out), "--input", str(watched), "--seconds", "6", "--frames_per_sec", "5"]
    assert main(["demo-stream", *argv]) == 0
    said = capsys.readouterr()
    assert "report: " in said.out
    story = collect(str(out / "table"))
    assert [camera.name for camera in story.cameras] == ["breaking", "freezing", "moving"]
    took = json.loads((out / "summary.json").read_text())
    assert story.rows + story.gated + story.duplicates + story.failed == took["inputs"]
    assert sum(len(files) for _, _, files in os.walk(watched)) - 1 >= took["inputs"] > 60  # and the mark
    assert story.rows == story.counted_rows == took["outputs"]
    assert {group.reason for group in story.broken} <= {"truncated", "not_an_image"}
    outcomes = [(rollout.version, rollout.outcome) for rollout in story.rollouts]
    assert outcomes[:2] == [(versions.FIRST, "serving"), (versions.CUT, "refused")]
    assert outcomes[2:] in ([], [(versions.SECOND, "serving")])  # trying it takes long on a busy machine
    text = (out / "report.html").read_text()
    assert "Three simulated cameras" in text
    assert re.search("every row is in its window", text)
