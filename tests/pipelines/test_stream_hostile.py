"""``stream`` against hostile messages, missing ends, full disks and early signals."""

import io
import os
import signal
import struct
import sys
import time
import zlib
from pathlib import Path

import apache_beam as beam
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beam_vision import measured, metrics
from beam_vision.pipelines import cli, stream
from beam_vision.pipelines.options import make_parser, parse
from beam_vision.pipelines.ran import Ran
from beam_vision.pipelines.stream_graph import build
from beam_vision.pipelines.stream_options import Options
from beam_vision.pipelines.stream_stop import Stop, Stopped
from beam_vision.stream_types import Message, iso_time
from beam_vision.streaming.local.runner import LocalStreamRunner
from beam_vision.testing import images, models
from beam_vision.testing.feeds import ListFeed

NOW = 0.0  # when a test's first frame was taken
PHOTO = images.photo(3, 32, 24)
JPEG = images.encode(PHOTO, "jpeg")
SUBSCRIPTION = "pubsub://projects/proj/subscriptions/subs"


@pytest.fixture(autouse=True)
def beginning(monkeypatch):
    """Each test's first frame was taken half a minute ago."""
    monkeypatch.setattr(sys.modules[__name__], "NOW", time.time() - 30)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return models.save_onnx(str(tmp_path_factory.mktemp("models") / "colours.onnx"))


def argv(model, folder, *more, source=SUBSCRIPTION):
    argv = ["--task", "classify", "--input", str(source), "--model", model, "--output", str(folder)]
    return [*argv, "--no-check_model", "--model_poll_sec", "0", *map(str, more)]


def run_list(messages, model, folder, *more):
    """Runs the graph over messages in memory; gives the accounts."""
    parser = make_parser("stream", Options, description="", example="")
    options, _ = parse(parser, Options, argv(model, folder, *more))
    plan = stream.prepare(options, "run-1", local=True)
    pipeline = beam.Pipeline(runner=LocalStreamRunner(ListFeed(messages), stream.state_folder(options)))
    build(pipeline, options, plan)
    metrics.TALLY.clear()
    pipeline.run()
    return stream.summarise(options, plan, Ran(measured=measured.from_tally()), 1.0)


def rows(folder, table=""):
    paths = sorted((Path(folder) / table).glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def message(i, data=JPEG, *, camera="cam", at_sec=None, **attributes):
    at_sec = NOW + i / 10 if at_sec is None else at_sec
    said = {"camera": camera, "capture_time": iso_time(at_sec), **attributes}
    return Message(data, said, f"m{i}", publish_sec=NOW + i / 10, pull_sec=NOW + i / 10)


def json_message(i, text):
    return Message(text, {}, f"m{i}", publish_sec=NOW, pull_sec=NOW)


def pillow(mode, form, **options):
    out = io.BytesIO()
    Image.fromarray(PHOTO).convert(mode).save(out, form, **options)
    return out.getvalue()


def png_bomb(side_px):
    """A black PNG of one bit a pixel: hundreds of megabytes of pixels in some kilobytes."""
    packer = zlib.compressobj(9)
    line = bytes(side_px // 8 + 1)
    data = b"".join(packer.compress(line) for _ in range(side_px)) + packer.flush()
    head = struct.pack(">IIBBBBB", side_px, side_px, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def test_hostile_messages_are_rows_or_failures_and_never_end_the_run(model, tmp_path):
    names = ("a/b", "../../etc", "камера 🎥", "*[?]", "'\";--", "%s{}", "e\u0301", "x" * 200)
    bad_names = ("a\nb", "a\0b", "\u202eabc", "x" * 201, "  ", "a\u00a0b")
    pictures = [pillow("CMYK", "JPEG"), pillow("I;16", "PNG"), pillow("LA", "PNG"), pillow("1", "PNG")]
    pictures += [pillow("RGB", form, save_all=True) for form in ("GIF", "WEBP")]
    not_pictures = [b"", JPEG[:200], b"GIF89a", b"<svg/>", png_bomb(12_000), os.urandom(100_000)]
    jsons = (
        b'{"camera": "a\\ud800", "capture_time": 1e9, "image": "AAAA"}',
        b'{"camera": "a", "capture_time": NaN, "image": "AAAA"}',
        b'{"camera": 1' + b"0" * 4000 + b', "capture_time": 1e9, "image": "AAAA"}',
        b'{"camera": "a", "capture_time": 1' + b"0" * 5000 + b"}",
        b'{"a":' * 50_000,
        b'{"camera": "a", "capture_time": "%s", "uri": "/etc/passwd"}' % iso_time(NOW).encode(),
        b"[1]",
        "{}".encode("utf-16"),
    )
    good = [message(i, camera=name) for i, name in enumerate(names)]
    good += [message(100 + i, data) for i, data in enumerate(pictures)]
    bad = [message(200 + i, camera=name) for i, name in enumerate(bad_names)]
    bad += [message(300 + i, data) for i, data in enumerate(not_pictures)]
    bad += [json_message(400 + i, text) for i, text in enumerate(jsons)]
    bad += [message(500, at_sec=NOW + 3600), message(501, at_sec=NOW - 90_000)]
    said = run_list([*good, *bad], model, tmp_path / "out")
    assert {row["message_id"] for row in rows(tmp_path / "out")} == {m.message_id for m in good}
    assert {row["message_id"] for row in rows(tmp_path / "out", "failures")} == {m.message_id for m in bad}
    assert (said["inputs"], said["outputs"], said["failed"]) == (len(good) + len(bad), len(good), len(bad))
    assert "unexpected" not in said["failed_by_reason"]


def test_a_frame_from_the_future_costs_no_other_frame_its_count(model, tmp_path):
    evil = message(0, camera="evil", at_sec=NOW + 200 * 365 * 86_400)
    more = ("--max_skew_sec", 0, "--window_sec", 5)
    assert run_list([evil], model, tmp_path / "out", *more)["outputs"] == 1
    good = [message(i, camera="good") for i in range(1, 100)]
    assert run_list(good, model, tmp_path / "out", *more)["outputs"] == 99
    last = {}
    for row in sorted(rows(tmp_path / "out", "health"), key=lambda row: row["pane"]):
        last[row["camera"], row["window_start"]] = row["frames"]
    assert sum(last.values()) == 100


def test_a_dead_letter_that_is_published_again_is_no_repetition(model, tmp_path):
    lake = tmp_path / "lake"
    lake.mkdir()
    body = f'{{"camera": "cam", "capture_time": "{iso_time(NOW)}", "uri": "{lake}/late.jpg"}}'.encode()

    def run(*messages):
        return run_list(messages, model, tmp_path / "out", "--uri_prefixes", lake)

    assert run(Message(body, {}, "m1", publish_sec=NOW))["failed"] == 1
    (lake / "late.jpg").write_bytes(JPEG)
    again = Message(body, {"beam_vision_reason": "not_found"}, "m2", publish_sec=NOW + 1)
    assert run(again)["outputs"] == 1
    assert run(Message(body, {}, "m3", publish_sec=NOW + 2))["duplicates"] == 1
    assert [row["message_id"] for row in rows(tmp_path / "out")] == ["m2"]


@pytest.fixture
def run(model, tmp_path):
    def run(source, *more):
        return cli.main(["stream", *argv(model, tmp_path / "out", *more, source=source)])

    return run


def test_what_is_not_there_is_found_before_anything_is_written(run, tmp_path, capsys, pubsub):
    missing = f"projects/{pubsub.project}/topics/nobody"
    there = f"pubsub://{pubsub.subscription(pubsub.topic('frames'))}"
    for source, *more in (
        (f"pubsub://projects/{pubsub.project}/subscriptions/nobody",),
        (f"pubsub://{missing}",),
        (there, "--failures", f"pubsub://{missing}"),
        (there, "--output", f"{tmp_path / 'out'},pubsub://{missing}"),
    ):
        assert run(source, *more) == 2
        assert "nobody is not there" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_what_cannot_be_written_is_told_in_a_line(run, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.jpg").write_bytes(JPEG)
    (tmp_path / "file").write_text("")
    assert run(tmp_path / "in", "--once", "--state", tmp_path / "file" / "state") == 1
    said = capsys.readouterr().err
    assert "failed: [Errno 20] Not a directory" in said
    assert "comes again in the next run" in said
    staging = tmp_path / "out" / ".staging"
    staging.mkdir(parents=True)
    (staging / "predictions").write_text("in the way")
    assert run(tmp_path / "in", "--once", "--state", tmp_path / "state") == 1
    said = capsys.readouterr().err
    assert str(staging / "predictions") in said
    assert "Traceback" not in said


def test_a_ready_file_of_an_earlier_run_does_not_say_that_this_one_is(run, tmp_path, pubsub):
    ready = tmp_path / "ready"
    ready.write_text("{}")
    missing = f"pubsub://projects/{pubsub.project}/subscriptions/nobody"
    assert run(missing, "--ready_file", ready) == 2
    assert not ready.exists()


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--watermark_lag_sec", "nan"], "--watermark_lag_sec is nan; it must be a finite number"),
        (["--run_sec", "inf"], "--run_sec is inf"),
        (["--state", "gs://bucket/state"], "give a local folder"),
        (["--input", ""], "--input is empty"),
        (["--camera_attribute", ""], "--camera_attribute is empty"),
        (["--output", "/tmp/a,/tmp/b,/tmp/a/"], "names a destination twice"),
    ],
)
def test_options_that_would_do_harm_are_refused(run, capsys, more, says):
    assert run(SUBSCRIPTION, *more) == 2
    assert says in capsys.readouterr().err


def test_a_signal_before_messages_are_taken_ends_at_once_and_later_drains():
    before = signal.getsignal(signal.SIGTERM)
    with Stop(30.0) as stop:
        for number in (signal.SIGTERM, signal.SIGINT):
            with pytest.raises(Stopped):
                signal.raise_signal(number)
        with stop.draining(0.0) as event:
            assert not event.is_set()
            signal.raise_signal(signal.SIGINT)
            assert event.is_set()
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # the summary is being written: nothing is cut short
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_time_of_a_run_ends_in_a_drain():
    with Stop(30.0) as stop, stop.draining(0.05) as event:
        assert event.wait(10)
