"""Records on the wire, read back by TensorFlow itself."""

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
    boxes=st.lists(st.builds(Box, SHARE, SHARE, SHARE, SHARE, label=TEXT), max_size=3).map(tuple),
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


def test_the_order_of_attributes_makes_no_difference():
    one, other = (
        Record("k", "u", b"d", "png", 1, 1, "s", attributes=dict(pairs))
        for pairs in ([("a", "1"), ("b", "2")], [("b", "2"), ("a", "1")])
    )
    assert to_example(one) == to_example(other)


def test_a_missing_feature_is_named():
    with pytest.raises(ValueError, match="'image/key' has 0 values"):
        from_example(Example())
