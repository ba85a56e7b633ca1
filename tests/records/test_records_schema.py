"""The schema, what TFXIO sees, and how they are compared."""

from dataclasses import replace

import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_vision.records import schema
from beam_vision.records.example import ENCODED, Record, to_example
from beam_vision.records.observe import FeatureSeen, Observed, merge, observe
from beam_vision.types import Box

CLASSES = ["cat", "dog"]


def records():
    one = Record(
        "a", "u", b"data", "png", 4, 3, "s", ("cat", "dog"), (0, 1), {"x": "1"}, (Box(0, 0, 1, 1, "y"),)
    )
    return [one, replace(one, key="b", labels=("dog",), label_ids=(1,), boxes=()), replace(one, key="c")]


def seen(*batches):
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder()
    return merge(observe(decoder.DecodeBatch([to_example(r) for r in batch])) for batch in batches)


def test_observed():
    found = seen(records()[:1], records()[1:])
    assert found.records == 3
    assert found.classes == {"cat": 2, "dog": 3}
    assert found.features["image/height"] == FeatureSeen(3, 1, 1, frozenset({"INT"}))
    assert found.features["image/class/text"] == FeatureSeen(3, 1, 2, frozenset({"BYTES"}))
    assert found.features["image/object/bbox/xmin"] == FeatureSeen(2, 1, 1, frozenset({"FLOAT"}))
    assert found == seen(records())
    assert merge([]) == Observed()


def test_records_keep_to_the_schema():
    found = seen(records())
    assert schema.violations(schema.build(CLASSES), found, {"cat": 2, "dog": 3}) == []
    assert schema.violations(schema.build([]), Observed(), {"cat": 0}) == []


def test_text_round_trip_and_content():
    built = schema.build(CLASSES)
    assert schema.from_text(schema.to_text(built)) == built
    features = {feature.name: feature for feature in built.feature}
    assert features[ENCODED].type == schema_pb2.BYTES
    assert features[ENCODED].presence.min_fraction == 1.0
    assert list(features["image/class/text"].string_domain.value) == CLASSES
    assert (features["image/class/label"].int_domain.min, features["image/class/label"].int_domain.max) == (
        0,
        1,
    )
    assert ENCODED not in {feature.name for feature in schema.build(CLASSES, images=False).feature}
    with pytest.raises(ValueError, match="not a schema"):
        schema.from_text("feature { nonsense")


def test_tfxio_reads_by_the_schema():
    from tfx_bsl.public.tfxio import TFExampleBeamRecord

    tfxio = TFExampleBeamRecord("tfrecord", ["test"], schema=schema.build(CLASSES))
    assert ENCODED in tfxio.TensorRepresentations()


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("image/key", None, "feature 'image/key' is missing from all records"),
        ("image/key", {"present": 2}, "feature 'image/key' is missing from 1 records"),
        ("image/key", {"types": frozenset({"INT"})}, "feature 'image/key' is INT, by the schema BYTES"),
        (
            "image/key",
            {"types": frozenset({"INT", "BYTES"})},
            "feature 'image/key' is BYTES/INT, by the schema",
        ),
        ("image/key", {"most": 2}, "feature 'image/key' has 1 to 2 values in a record"),
        ("image/key", {"fewest": 0}, "feature 'image/key' has 0 to 1 values in a record"),
        ("image/class/text", {"fewest": 0}, "feature 'image/class/text' has 0 to 2 values in a record"),
        ("extra", {}, "feature 'extra' is not in the schema"),
    ],
)
def test_each_violation_is_named(name, change, said):
    found = seen(records())
    features = dict(found.features)
    if change is None:
        del features[name]
    else:
        features[name] = replace(features.get(name, features["image/key"]), **change)
    told = schema.violations(schema.build(CLASSES), replace(found, features=features), {"cat": 2, "dog": 3})
    assert len(told) == 1
    assert told[0].startswith(said)


def test_labels_are_compared_with_the_class_list_and_the_counts():
    found = seen(records())
    assert schema.violations(schema.build(["cat"]), found, found.classes) == [
        "label 'dog' is not in the class list"
    ]
    assert schema.violations(schema.build(CLASSES), found, {"cat": 2, "dog": 2}) == [
        "the labels read back are not those that were counted at writing"
    ]
