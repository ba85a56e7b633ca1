"""An archive's images as messages, and a camera's frames in order; no Beam."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError, VisionError
from beam_vision.stream_types import Frame, FrameInfo, frame_key, iso_time
from beam_vision.streaming.archive import (
    ArchiveSettings,
    archive_parsing,
    as_message,
    check_source,
    in_order,
    pack,
    unlisted,
    unpack,
)
from beam_vision.streaming.content import ParseSettings
from beam_vision.streaming.parse import parse, parse_or_fail
from beam_vision.types import EncodedImage, Failure, ImageRef

START = 1_700_000_000.25
NAME = iso_time(START).replace(":", "")


def settings(*, root="lake", **parsing):
    return ArchiveSettings(parse=archive_parsing(ParseSettings(**parsing)), root_camera=root)


def frame_of(ref, how):
    """What becomes of an image on its way through a message."""
    return parse(as_message(ref, how), how.parse)


def ref(uri, *labels, **attributes):
    return ImageRef(key=uri, uri=uri, labels=labels, attributes=attributes)


def test_the_folder_names_the_camera_and_the_file_the_time():
    found = frame_of(ref(f"/lake/gate/2023/x_{NAME}.jpg", "gate"), settings())
    assert found.info == FrameInfo(
        "gate", START, message_id=f"archive:/lake/gate/2023/x_{NAME}.jpg", attributes={}
    )
    assert found.image.ref.key == frame_key("gate", START)
    assert found.image.ref.uri == f"/lake/gate/2023/x_{NAME}.jpg"
    assert found.image.data == b""


def test_a_file_directly_in_the_folder_is_of_a_camera_of_its_name():
    assert frame_of(ref(f"/lake/{NAME}.jpg"), settings()).info.camera == "lake"


def test_outside_of_a_folder_labels_name_no_camera():
    with pytest.raises(VisionError, match="camera"):
        frame_of(ref(f"/lake/{NAME}.jpg", "cat"), settings(root=""))


@pytest.mark.parametrize(
    ("attributes", "pattern", "camera", "time_sec"),
    [
        ({}, "", "folder", START),
        ({}, r"/(?P<camera>cam\d)-", "cam7", START),
        ({}, r"-(?P<time>\d{10})_", "folder", 1_600_000_000.0),
        ({"camera": "said", "capture_time": "1500000000"}, r"/(?P<camera>cam\d)-", "said", 1_500_000_000.0),
        ({"camera": "", "capturetime": "1500000000"}, "", "folder", 1_500_000_000.0),
    ],
)
def test_columns_go_before_the_pattern_and_that_before_names(attributes, pattern, camera, time_sec):
    image = ref(f"/lake/folder/cam7-1600000000_{NAME}.jpg", "folder", **attributes)
    found = frame_of(image, settings(camera_pattern=pattern)).info
    assert (found.camera, found.capture_sec) == (camera, time_sec)
    assert found.attributes == attributes


def test_other_names_of_the_columns():
    how = settings(camera_attribute="device", time_attribute="shot_at", sequence_attribute="n")
    found = frame_of(ref("/x.jpg", device="d1", shot_at=iso_time(START), n="12"), how).info
    assert (found.camera, found.capture_sec, found.sequence) == ("d1", START, "12")


def test_old_frames_and_local_files_are_taken_unless_places_are_named():
    image = ref("/lake/gate/1000000000.jpg", "gate")
    assert frame_of(image, settings()).info.capture_sec == 1e9
    assert frame_of(image, settings(uri_prefixes=("/lake",))).info.camera == "gate"
    with pytest.raises(VisionError, match="forbidden"):
        frame_of(image, settings(uri_prefixes=("gs://lake",)))


def test_a_file_that_is_not_utf8_and_one_with_strange_characters_are_named_as_they_are():
    name = f"%FF%20_{NAME}.jpg"
    assert frame_of(ref(f"file:///lake/c/{name}", "c"), settings()).image.ref.uri == f"file:///lake/c/{name}"
    found = frame_of(ref(f"gs://lake/Straße/ü_{NAME}.jpg", "Straße"), settings())
    assert found.info.camera == "Straße"
    assert found.info.capture_sec == START


@given(st.text(), st.lists(st.text(), max_size=2), st.dictionaries(st.text(), st.text(), max_size=3))
def test_any_image_is_a_frame_or_a_failure(uri, labels, attributes):
    how = settings()
    image = ImageRef(key=uri, uri=uri, labels=tuple(labels), attributes=attributes)
    message = as_message(image, how)
    assert json.loads(message.data)["uri"] == uri
    parse_or_fail(message, how.parse)


def test_what_cannot_be_listed_is_a_dead_letter_of_no_camera():
    failed = Failure("m.csv#3", "m.csv:3", "source", "bad_manifest_row", "no uri", 1, "run-1")
    dead = unlisted(failed)
    assert (dead.failure, dead.info.camera, dead.info.capture_sec, dead.data) == (failed, "", 0.0, b"")
    assert dead.info.message_id == "archive:m.csv#3"


@pytest.mark.parametrize("format", ["tfrecord", "coco", "voc", "yolo"])
def test_sources_without_cameras_are_refused(format):
    with pytest.raises(UsageError, match="no camera and capture time"):
        check_source(format, "lake", ParseSettings())


def test_a_glob_needs_a_pattern_for_the_camera():
    check_source("glob", "*.jpg", ParseSettings(camera_pattern="(?P<camera>x)"))
    for pattern in ("", "(?P<time>x)"):
        with pytest.raises(UsageError, match="--camera_pattern"):
            check_source("glob", "*.jpg", ParseSettings(camera_pattern=pattern))
    check_source("folder", "lake", ParseSettings())


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=20))
def test_frames_come_in_order_and_each_time_once(places):
    frames = []
    for micros, number in places:
        at_sec = START + micros / 1e6
        image = EncodedImage(ImageRef(key=frame_key("a", at_sec), uri=f"/{number}"), b"")
        frames.append(Frame(FrameInfo("a", at_sec, attributes={"n": str(number)}), image))
    taken, repeated = in_order(map(pack, frames))
    assert [unpack(one).info.capture_sec for one in taken] == sorted({f.info.capture_sec for f in frames})
    assert sorted([*taken, *repeated]) == sorted(map(pack, frames))
    first = {}
    for one in sorted(frames, key=lambda f: f.image.ref.uri):
        first.setdefault(one.info.capture_sec, one)
    assert [unpack(one) for one in taken] == [first[sec] for sec in sorted(first)]
