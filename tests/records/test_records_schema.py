"""The schema, what TFXIO sees, and how they are compared."""

from dataclasses import replace

import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from beam_vision.records import schema
from beam_vision.records.example import ENCODED, Record, to_example
from beam_vision.records.observe import FeatureSeen, Observed, merge, observe
from beam_vision.types import Box

CLASSES = ["cat", "dog"]
BOX_CLASSES = ["x", "y"]
COUNTS = {"cat": 2, "dog": 3}


def records():
    one = Record(
        "a",
        "u",
        b"data",
        "png",
        4,
        3,
        "s",
        ("cat", "dog"),
        (0, 1),
        {"x": "1"},
        (Box(0, 0, 1, 1, "y"),),
        (2,),
        True,
    )
    none = replace(one, key="b", labels=("dog",), label_ids=(1,), boxes=(), box_ids=())
    return [one, none, replace(one, key="c")]


def built(classes=CLASSES, box_classes=BOX_CLASSES, **options):
    return schema.build(classes, box_classes=box_classes, **options)


def seen(*batches):
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder()
    return merge(observe(decoder.DecodeBatch([to_example(r) for r in batch])) for batch in batches)


def test_observed():
    found = seen(records()[:1], records()[1:])
    assert found.records == 3
    assert found.classes == COUNTS
    assert found.boxes == {"y": 2}
    assert found.features["image/height"] == FeatureSeen(3, 1, 1, frozenset({"INT"}))
    assert found.features["image/class/text"] == FeatureSeen(3, 1, 2, frozenset({"BYTES"}))
    assert found.features["image/object/bbox/xmin"] == FeatureSeen(2, 1, 1, frozenset({"FLOAT"}))
    assert found == seen(records())
    assert merge([]) == Observed()


def test_records_keep_to_the_schema():
    found = seen(records())
    assert schema.violations(built(), found, COUNTS, {"x": 0, "y": 2}) == []
    assert schema.violations(built(), found, COUNTS) == []
    assert schema.violations(schema.build([]), Observed(), {"cat": 0}) == []


def test_text_round_trip_and_content():
    one = built()
    assert schema.from_text(schema.to_text(one)) == one
    features = {feature.name: feature for feature in one.feature}
    assert features[ENCODED].type == schema_pb2.BYTES
    assert features[ENCODED].presence.min_fraction == 1.0
    assert list(features["image/class/text"].string_domain.value) == CLASSES
    domain = features["image/class/label"].int_domain
    assert (domain.min, domain.max) == (0, 1)
    assert ENCODED not in {feature.name for feature in built(images=False).feature}
    with pytest.raises(ValueError, match="not a schema"):
        schema.from_text("feature { nonsense")


def test_what_is_said_of_boxes_has_bounds():
    features = {feature.name: feature for feature in built(box_classes=["x", "y", "z"]).feature}
    for corner in ("xmin", "ymin", "xmax", "ymax"):
        domain = features[f"image/object/bbox/{corner}"].float_domain
        assert (domain.min, domain.max) == (0, 1)
    assert list(features["image/object/class/text"].string_domain.value) == ["x", "y", "z"]
    domain = features["image/object/class/label"].int_domain
    assert (domain.min, domain.max) == (1, 3)
    domain = features["image/object/is_crowd"].int_domain
    assert (domain.min, domain.max) == (0, 1)
    assert features["image/object/area"].float_domain.min == 0
    assert features["image/filename"].presence.min_fraction == 1.0
    without = {feature.name for feature in schema.build(CLASSES).feature}
    assert not any("object" in name or name in ("image/filename", "image/key/sha256") for name in without)


def test_tfxio_reads_by_the_schema():
    from tfx_bsl.public.tfxio import TFExampleBeamRecord

    for one in (built(), schema.build(CLASSES), schema.for_reading()):
        tfxio = TFExampleBeamRecord("tfrecord", ["test"], schema=one)
        assert {feature.name for feature in one.feature} == set(tfxio.TensorRepresentations())


@pytest.mark.parametrize("with_boxes", [True, False])
def test_the_schema_for_reading_reads_all_but_the_images(with_boxes):
    from tfx_bsl.coders.example_coder import ExamplesToRecordBatchDecoder

    decoder = ExamplesToRecordBatchDecoder(schema.for_reading().SerializeToString())
    bare = [replace(record, boxes=(), box_ids=(), for_detection=False) for record in records()]
    data = [to_example(record) for record in (records() if with_boxes else bare)]
    found = merge([observe(decoder.DecodeBatch(data))])
    expected = {feature.name for feature in built(box_classes=BOX_CLASSES if with_boxes else ()).feature}
    assert set(found.features) == expected - {ENCODED}


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
    told = schema.violations(built(), replace(found, features=features), COUNTS)
    assert len(told) == 1
    assert told[0].startswith(said)


def test_labels_are_compared_with_the_class_list_and_the_counts():
    found = seen(records())
    assert schema.violations(built(["cat"]), found, found.classes) == ["label 'dog' is not in the class list"]
    assert schema.violations(built(), found, {"cat": 2, "dog": 2}) == [
        "the labels read back are not those that were counted at writing"
    ]


def test_boxes_are_compared_with_theirs():
    found = seen(records())
    assert schema.violations(built(box_classes=["x"]), found, COUNTS, {"y": 2}) == [
        "category 'y' is not in the class list"
    ]
    assert schema.violations(built(), found, COUNTS, {"y": 1}) == [
        "the boxes read back are not those that were counted at writing"
    ]
    told = schema.violations(schema.build(CLASSES), found, COUNTS)
    assert "feature 'image/object/area' is not in the schema" in told
