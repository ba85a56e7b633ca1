"""What each kind of detector's outputs mean, by hand."""

import numpy as np
import pytest

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.inference import detectors
from beam_vision.inference.anchors import retinanet_anchors
from beam_vision.inference.detect import BoxReader, View
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec

VIEW = View(200, 100, 100, 100, (0.5, 1.0, 0.0, 0.0))
"""An original twice as wide as high, stretched to a square."""


def read(outputs, views=(VIEW,), *, settings=None, **said):
    outputs = {name: np.asarray(value, np.float32) for name, value in outputs.items()}
    spec = ModelSpec(task="detect", height_px=100, width_px=100, **said)
    return BoxReader(spec, EngineSettings(task="detect", **(settings or {})))(outputs, views)


def row(boxes):
    return [[*map(float, box)] for box in boxes]


ROLES = {"boxes_output": "b", "scores_output": "s", "classes_output": "c"}


@pytest.mark.parametrize(
    ("box_format", "box"),
    [
        ("xyxy", (10, 20, 30, 60)),
        ("yxyx", (20, 10, 60, 30)),
        ("xywh", (10, 20, 20, 40)),
        ("cxcywh", (20, 40, 20, 40)),
        ("rel_xyxy", (0.1, 0.2, 0.3, 0.6)),
        ("rel_yxyx", (0.2, 0.1, 0.6, 0.3)),
        ("rel_xywh", (0.1, 0.2, 0.2, 0.4)),
        ("rel_cxcywh", (0.2, 0.4, 0.2, 0.4)),
    ],
)
def test_every_box_format(box_format, box):
    outputs = {"b": [[box]], "s": [[0.5]], "c": [[0]]}
    (found,) = read(outputs, detector="keras_hub", box_format=box_format, **ROLES)
    np.testing.assert_allclose(found.boxes, [[20, 20, 60, 60]], atol=1e-4)


def test_only_what_is_counted_and_no_padding():
    outputs = {
        "b": [[[0, 0, 9, 9]] * 3, [[-1] * 4] * 3],
        "s": [[0.9, 0.8, 0.7], [-1] * 3],
        "c": [[1, 0, 1], [-1] * 3],
        "n": [[2], [0]],
    }
    settings = {"score_threshold": 0.0}
    full = {**ROLES, "count_output": "n"}
    first, second = read(
        outputs, [VIEW] * 2, detector="keras_hub", box_format="xyxy", settings=settings, **full
    )
    assert (first.classes.tolist(), len(second.scores)) == ([1, 0], 0)


@pytest.mark.parametrize("count", [-1, 4, np.nan, np.inf])
def test_a_count_that_can_not_be(count):
    outputs = {"b": [[[0, 0, 9, 9]] * 3], "s": [[0.9] * 3], "c": [[0] * 3], "n": [count]}
    (found,) = read(outputs, detector="keras_hub", box_format="xyxy", count_output="n", **ROLES)
    assert found.reason is Reason.BAD_MODEL_OUTPUT
    assert "detections of 3" in found.detail


def test_yolo_v5_multiplies_objectness_and_class():
    rows = [[50, 50, 20, 20, 0.5, 0.2, 0.8], [10, 10, 8, 8, 0.9, 1.0, 0.0]]
    (found,) = read({"o": [rows]}, detector="yolo_v5", boxes_output="o")
    np.testing.assert_allclose(found.scores, [0.9, 0.4])
    assert found.classes.tolist() == [0, 1]
    np.testing.assert_allclose(found.boxes[1], [80, 40, 120, 60])


def test_yolo_v8_is_one_box_a_column():
    rows = np.array([[50, 50, 20, 20, 0.2, 0.8, 0.1], [10, 10, 8, 8, 0.9, 0, 0]])
    (found,) = read({"o": [rows.T]}, detector="yolo_v8", boxes_output="o")
    np.testing.assert_allclose(found.scores, [0.9, 0.8])
    assert found.classes.tolist() == [0, 1]


def test_detr_by_sigmoid_and_by_softmax_with_no_object_last():
    outputs = {"b": [[[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.2, 0.2]]], "s": [[[0, 2, 9], [-9, -9, -9]]]}
    roles = {"boxes_output": "b", "scores_output": "s", "detector": "detr"}
    (found,) = read(outputs, activation="sigmoid", **roles)
    np.testing.assert_allclose(found.scores, [1 / (1 + np.exp(-9))], rtol=1e-5)
    assert found.classes.tolist() == [2]
    (found,) = read(outputs, activation="softmax", **roles)
    np.testing.assert_allclose(found.scores, [1 / 3], rtol=1e-5)  # the second box: all three alike
    assert found.classes.tolist() == [0]


def test_retinanet_moves_and_scales_its_anchors():
    anchors = retinanet_anchors(100, 100)
    assert len(anchors) == 9 * (13**2 + 7**2 + 4**2 + 2**2 + 1)
    np.testing.assert_array_equal(anchors[:2], [[-23, -11, 23, 11], [-28, -14, 28, 14]])
    deltas = np.zeros((1, len(anchors), 4), np.float32)
    logits = np.full((1, len(anchors), 2), -9.0, np.float32)
    place = int(np.argmin(np.abs(anchors - [32, 32, 72, 72]).sum(axis=1)))
    xmin, ymin, xmax, ymax = anchors[place]
    deltas[0, place] = [0.5, -0.25, np.log(0.5), 0]
    logits[0, place, 1] = 3
    (found,) = read(
        {"b": deltas, "s": logits},
        detector="retinanet",
        boxes_output="b",
        scores_output="s",
        activation="sigmoid",
    )
    width, height = xmax - xmin, ymax - ymin
    cx, cy = (xmin + xmax) / 2 + width / 2, (ymin + ymax) / 2 - height / 4
    expected = np.clip([cx - width / 4, cy - height / 2, cx + width / 4, cy + height / 2], 0, 100) * [
        2,
        1,
        2,
        1,
    ]
    np.testing.assert_allclose(found.boxes, [expected], atol=1e-3)
    assert found.classes.tolist() == [1]


@pytest.mark.parametrize("what", ["b", "s", "c"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_fail_their_image_alone(what, value):
    outputs = {"b": np.ones((3, 2, 4)) * [1, 1, 9, 9], "s": np.full((3, 2), 0.5), "c": np.zeros((3, 2))}
    outputs[what].reshape(3, 2, -1)[1, 1, 0] = value
    first, bad, last = read(outputs, [VIEW] * 3, detector="keras_hub", box_format="xyxy", **ROLES)
    assert (len(first.scores), len(last.scores)) == (2, 2)
    assert bad.reason is Reason.NON_FINITE
    assert "1 of 2 detections" in bad.detail


@pytest.mark.parametrize(
    ("score", "class_id", "message"),
    [
        (0.9, 2, "class id 2 is none of 2 labels, the first of id 0; check --class_names and --class_offset"),
        (0.9, 0.5, "class id 0.5 is none of"),
        (7.25, 0, r"a score of 7.25 is no probability; check --detector and --activation"),
    ],
)
def test_what_a_detector_can_not_say(score, class_id, message):
    outputs = {"b": [[[1, 1, 9, 9]]], "s": [[score]], "c": [[class_id]]}
    (found,) = read(outputs, detector="keras_hub", box_format="xyxy", labels=("a", "b"), **ROLES)
    assert found.reason is Reason.BAD_MODEL_OUTPUT
    assert message in found.detail


def test_an_id_without_a_label():
    outputs = {"b": [[[1, 1, 9, 9]]] * 2, "s": [[0.9]] * 2, "c": [[2], [3]]}
    spec = {
        "detector": "keras_hub",
        "box_format": "xyxy",
        "labels": ("a", "", "b"),
        "class_offset": 1,
        **ROLES,
    }
    gap, good = read(outputs, [VIEW] * 2, **spec)
    assert "class id 2 is none of 3 labels, the first of id 1" in gap.detail
    assert good.classes.tolist() == [2]


def test_ids_below_the_threshold_do_not_matter():
    outputs = {"b": [[[1, 1, 9, 9]] * 2], "s": [[0.9, 0.01]], "c": [[1, 77]]}
    (found,) = read(outputs, detector="keras_hub", box_format="xyxy", labels=("a", "b"), **ROLES)
    assert found.classes.tolist() == [1]


def test_classes_without_names_are_numbered():
    spec = ModelSpec(task="detect", detector="yolo_nms", boxes_output="o", box_format="xyxy", class_offset=1)
    reader = BoxReader(spec, EngineSettings(task="detect"))
    (found,) = reader({"o": np.array([[[1, 1, 9, 9, 0.5, 8]]], np.float32)}, [VIEW])
    (box,) = reader.boxes(found)
    assert (box.label, box.score) == ("class_0007", 0.5)
    assert (box.xmin, box.ymin, box.xmax, box.ymax) == (2, 1, 18, 9)


def test_outputs_of_another_shape_fail_with_both_shapes():
    (found,) = read({"o": np.zeros((1, 7))}, detector="yolo_nms", boxes_output="o")
    assert found.detail == "output 'o' has shape [1, 7], not [n, ?, 6]"


def own(outputs, spec):
    """A detector of one's own, which stumbles over what is negative."""
    value = outputs["o"]
    if (value < 0).any():
        raise ZeroDivisionError("stumbled")
    assert (spec.height_px, spec.width_px) == (100, 100)
    return [([[v, v, v + 10, v + 10]], [0.5], [1]) for v in value[:, 0]]


def test_a_function_of_ones_own_and_its_errors_cost_only_their_image():
    name = f"{__name__}:own"
    found = read({"o": [[4.0], [-1.0], [6.0]]}, [VIEW] * 3, detector=name, raw_outputs=("o",))
    np.testing.assert_array_equal(found[0].boxes, [[8, 4, 28, 14]])
    assert found[1].reason is Reason.UNEXPECTED
    assert found[1].detail == "ZeroDivisionError: stumbled"
    np.testing.assert_array_equal(found[2].boxes, [[12, 6, 32, 16]])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (lambda outputs, spec: [], "gives 0 results for 1 images"),
        (lambda outputs, spec: [(np.zeros((2, 4)), [0.5], [1])], "[2, 4] and [1] and [1], not [k, 4]"),
        (lambda outputs, spec: [(np.zeros((0, 4)), [], [])], None),
        (lambda outputs, spec: [VisionError(Reason.MODEL_ERROR, "as it says")], "as it says"),
    ],
)
def test_what_a_function_of_ones_own_may_give(result, message, monkeypatch):
    monkeypatch.setitem(detectors._REGISTRY, "mine", detectors.Detector(result, suppressed=True))
    (found,) = read({"o": [[1.0]]}, detector="mine", raw_outputs=("o",))
    if message is None:
        assert found.boxes.shape == (0, 4)
    else:
        assert message in found.detail


def test_registering(monkeypatch):
    monkeypatch.setattr(detectors, "_REGISTRY", dict(detectors._REGISTRY))
    detectors.register_detector("mine", own, suppressed=True, class_offset=1)
    detectors.register_detector("mine", own, suppressed=True, class_offset=1)
    assert detectors.find_detector("mine").read is own
    with pytest.raises(UsageError, match="'mine' is registered already"):
        detectors.register_detector("mine", own)
    with pytest.raises(UsageError, match="'tf_od' is registered already"):
        detectors.register_detector("tf_od", own)


def test_suppression_keeps_classes_apart():
    rows = [[10, 10, 30, 30, 0.9, 0], [11, 10, 31, 30, 0.8, 0], [10, 10, 30, 30, 0.7, 1]]
    found = {}
    for nms in ("model", "hard"):
        (made,) = read({"o": [rows]}, detector="yolo_nms", boxes_output="o", settings={"nms": nms})
        found[nms] = [round(score, 2) for score in made.scores.tolist()]
    assert found == {"model": [0.9, 0.8, 0.7], "hard": [0.9, 0.7]}
