"""Files with the names of classes."""

import pytest

from beam_vision.errors import UsageError
from beam_vision.pipelines.label_map import read_class_names, read_label_map
from beam_vision.pipelines.model_options import ModelOptions, model_of
from beam_vision.records.label_map import to_text
from beam_vision.testing import detectors

PBTXT = """
item { id: 1 name: '/m/01g317' display_name: "person" }
item {
  name: "it's { odd }"   # a comment
  id: 3
}
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "cat\ndog\n", (("cat", "dog"), None)),
        ("a.json", '["cat", "dog"]', (("cat", "dog"), None)),
        ("a.json", '{"1": "cat", "2": "dog"}', (("cat", "dog"), 1)),
        ("a.json", '{"0": "cat", "2": "dog"}', (("cat", "", "dog"), 0)),
        ("a.json", '{"3": ["n01", "cat"]}', (("", "", "cat"), 1)),
        ("a.pbtxt", PBTXT, (("person", "", "it's { odd }"), 1)),
        (
            "a.pbtxt",
            "item { id: 0 name: 'background' } item { id: 1 name: 'cat' }",
            (("background", "cat"), 0),
        ),
        ("a.pbtxt", to_text(["naïve", 'the "best"', "it's\n2"]), (("naïve", 'the "best"', "it's\n2"), 1)),
    ],
)
def test_label_maps(name, text, expected, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_label_map(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.pbtxt", "", "holds no item"),
        ("a.pbtxt", "item { name: 'cat' }", "lacks an id or a name"),
        ("a.pbtxt", "item { id: 3 }", "lacks an id or a name"),
        ("a.pbtxt", "item { id: 99999999 name: 'cat' }", "class id 99999999 is too large"),
        ("a.json", '{"1": 5}', "must hold a list of names"),
        ("a.json", "{}", "must hold a list of names"),
    ],
)
def test_bad_label_maps(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_label_map(str(tmp_path / name))


@pytest.mark.parametrize("text", ['{"1": "cat", "2": "dog"}', '{"0": "cat", "2": "dog"}'])
def test_ids_that_are_not_0_1_are_for_detectors(text, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UsageError, match="begin elsewhere or leave some out are for detectors"):
        read_class_names(str(tmp_path / "a.json"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    return detectors.save_saved_model(str(tmp_path_factory.mktemp("m") / "m"))


@pytest.mark.parametrize(
    ("text", "said", "offset", "labels"),
    [
        (to_text(detectors.LABELS), {}, 1, detectors.LABELS),
        ("item { id: 0 name: 'a' } item { id: 1 name: 'b' }", {}, 0, ("a", "b")),
        (to_text(detectors.LABELS), {"class_offset": 0}, 0, detectors.LABELS),
        ("item { id: 2 name: 'b' }", {}, 1, ("", "b")),
    ],
)
def test_the_label_map_says_the_first_id(text, said, offset, labels, detector, tmp_path):
    (tmp_path / "map.pbtxt").write_text(text)
    asked = ModelOptions(model=detector, class_names=str(tmp_path / "map.pbtxt"), check_model=False, **said)
    spec = model_of(asked, task="detect").spec
    assert (spec.class_offset, spec.labels, spec.classes) == (offset, labels, len(labels))


def test_options_of_detectors_make_a_spec(tmp_path):
    path = detectors.save_onnx(str(tmp_path / "m.onnx"), "yolo_v5")
    asked = ModelOptions(
        model=path,
        detector="yolo",
        box_format="rel_cxcywh",
        class_offset=2,
        resize="stretch",
        check_model=False,
    )
    spec = model_of(asked, task="detect").spec
    assert (spec.detector, spec.box_format, spec.class_offset) == ("yolo_v5", "rel_cxcywh", 2)
    assert (spec.resize, spec.boxes_output, spec.classes) == ("stretch", "output0", 3)
