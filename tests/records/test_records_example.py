"""Records on the wire, read back by TensorFlow itself."""

from dataclasses import replace
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.records.example import Record, from_example, to_example
from beam_vision.tfrecord_io import Example
from beam_vision.types import Box

TEXT = st.text(max_size=20)
SHARE = st.floats(0, 1, width=32)
RECORDS = st.builds(
    Record,
    key=TEXT,
    uri=TEXT,
    data=st.one_of(st.binary(max_size=300), st.sampled_from([b"", b"a" * 127, b"b" * 128, b"c" * 70_000])),
    format=st.sampled_from(["jpeg", "png"]),
    width_px=st.integers(1, 2**40),
    height_px=st.integers(1, 2**40),
    content_sha256=TEXT,
    labels=st.lists(TEXT, max_size=3).map(tuple),
    label_ids=st.lists(st.integers(0, 1000), max_size=3).map(tuple),
    attributes=st.dictionaries(TEXT, TEXT, max_size=3),
    for_detection=st.booleans(),
)
BOXES = st.builds(
    Box, SHARE, SHARE, SHARE, SHARE, label=TEXT, crowd=st.booleans(), area_px=st.floats(0, 2**30, width=32)
)
RECORDS = st.builds(
    lambda record, boxes: replace(
        record, boxes=tuple(box for box, _ in boxes), box_ids=tuple(number for _, number in boxes)
    ),
    RECORDS,
    st.lists(st.tuples(BOXES, st.integers(1, 1000)), max_size=3),
)


@given(RECORDS)
def test_round_trip(record):
    assert from_example(Example.FromString(to_example(record))) == record


@given(RECORDS)
def test_tensorflow_reads_the_same(record):
    import tensorflow as tf

    features = tf.train.Example.FromString(to_example(record)).features.feature
    assert features["image/encoded"].bytes_list.value == [record.data]
    assert features["image/key"].bytes_list.value == [record.key.encode()]
    assert features["image/width"].int64_list.value == [record.width_px]
    assert features["image/class/label"].int64_list.value == list(record.label_ids)
    assert list(features["image/object/bbox/ymax"].float_list.value) == [box.ymax for box in record.boxes]
    assert features["image/object/class/text"].bytes_list.value == [b.label.encode() for b in record.boxes]
    assert list(features["image/object/class/label"].int64_list.value) == list(record.box_ids)
    assert list(features["image/object/is_crowd"].int64_list.value) == [b.crowd for b in record.boxes]
    assert list(features["image/object/area"].float_list.value) == [b.area_px for b in record.boxes]


def test_the_order_of_attributes_makes_no_difference():
    one, other = (
        Record("k", "u", b"d", "png", 1, 1, "s", attributes=dict(pairs))
        for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")])
    )
    assert to_example(one) == to_example(other)


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match="'image/key' has 0 values"):
        from_example(Example())


RECORD = Record("k", "gs://lake/a/b.jpg", b"data", "png", 4, 3, "s")
BOX = Box(0, 0, 0.5, 1, "x", crowd=True, area_px=6.0)


def test_what_the_object_detection_api_names_an_image_by():
    record = replace(RECORD, for_detection=True)
    features = Example.FromString(to_example(record)).features.feature
    assert features["image/filename"].bytes_list.value == [b"b.jpg"]
    assert features["image/key/sha256"].bytes_list.value == [sha256(b"data").hexdigest().encode()]
    assert features["image/source_id"].bytes_list.value == [b"gs://lake/a/b.jpg"]
    assert "image/filename" not in Example.FromString(to_example(RECORD)).features.feature


def test_records_of_earlier_versions_have_boxes_without_ids_areas_and_crowds():
    example = Example.FromString(to_example(replace(RECORD, boxes=(BOX,), box_ids=(1,))))
    for name in ("class/label", "is_crowd", "area"):
        del example.features.feature[f"image/object/{name}"]
    assert from_example(example) == replace(RECORD, boxes=(Box(0, 0, 0.5, 1, "x"),))


@pytest.mark.parametrize(
    "name", ["bbox/ymin", "bbox/xmax", "class/text", "class/label", "is_crowd", "area", "bbox/xmin"]
)
def test_what_is_not_said_of_every_box_is_named(name):
    example = Example.FromString(to_example(replace(RECORD, boxes=(BOX, BOX), box_ids=(1, 1))))
    feature = example.features.feature[f"image/object/{name}"]
    getattr(feature, feature.WhichOneof("kind")).value.pop()
    with pytest.raises(ValueError, match=r"has 1 values, .* has 2|has 2 values, .* has 1"):
        from_example(example)
