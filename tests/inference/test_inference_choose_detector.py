"""Which kind of detector a model is, is told by its outputs, or asked for."""

import pytest

from beam_vision.errors import UsageError
from beam_vision.inference.anchors import retinanet_anchors
from beam_vision.inference.resolve import resolve
from beam_vision.inference.signature import Signature, Tensor


def tensors(**shapes):
    return tuple(Tensor(name, "float32", tuple(shape)) for name, shape in shapes.items())


def chosen(outputs, size=64, **said):
    images = Tensor("images", "float32", (None, size, size, 3))
    return resolve(Signature(inputs=(images,), outputs=outputs), {"task": "detect", **said})


OD = tensors(
    detection_boxes=(None, 100, 4),
    detection_classes=(None, 100),
    detection_scores=(None, 100),
    num_detections=(None,),
)
DECODED = tensors(boxes=(None, 9, 4), confidence=(None, 9), labels=(None, 9), num_detections=(None,))
DETR = tensors(logits=(None, 300, 80), pred_boxes=(None, 300, 4), enc_topk_logits=(None, 300, 80))
RETINANET = tensors(bbox_regression=(None, len(retinanet_anchors(64, 64)), 4), cls_logits=(None, 774, 20))


def output0(*shape):
    return tensors(output0=(None, *shape))


@pytest.mark.parametrize(
    ("outputs", "said", "detector", "classes", "activation"),
    [
        (OD, {}, "tf_od", None, "none"),
        (DECODED, {"box_format": "xyxy"}, "keras_hub", None, "none"),
        (DETR, {}, "detr", 80, "sigmoid"),
        (DETR, {"activation": "softmax"}, "detr", 79, "softmax"),
        (RETINANET, {}, "retinanet", 20, "sigmoid"),
        (output0(25200, 85), {}, "yolo_v5", 80, "none"),
        (output0(84, 8400), {}, "yolo_v8", 80, "none"),
        (output0(84, None), {}, "yolo_v8", 80, "none"),
        (output0(300, 6), {"labels": ("a", "b")}, "yolo_nms", 2, "none"),
        (output0(300, 6), {"detector": "yolo_nms"}, "yolo_nms", None, "none"),
        (output0(300, 6), {"detector": "yolo_v5"}, "yolo_v5", 1, "none"),
        (output0(5, 8400), {"detector": "yolo"}, "yolo_v8", 1, "none"),
        (output0(None, 85), {"labels": tuple("a" * 80)}, "yolo_v5", 80, "none"),
    ],
)
def test_the_kind_is_found(outputs, said, detector, classes, activation):
    spec = chosen(outputs, **said)
    assert (spec.detector, spec.classes, spec.activation) == (detector, classes, activation)
    assert (spec.task, spec.embedding_output) == ("detect", "")


@pytest.mark.parametrize(
    ("outputs", "said", "message"),
    [
        (output0(300, 6), {}, r"may be that of yolo_v5 or yolo_nms; say which with --detector, or give"),
        (output0(300, 6), {"labels": ("a",)}, r"with 1 labels may be that of yolo_v5 or yolo_nms"),
        (output0(84, 8400), {"labels": ("a", "b")}, r"with 2 labels is none of YOLO's.*--class_names"),
        (output0(None, None), {}, "is none of YOLO's"),
        (
            tensors(a=(None, 7, 4), b=(None, 7, 9)),
            {},
            "told from its outputs; say it with --detector",
        ),
        (DECODED, {}, "say it with --box_format"),
        (OD, {"detector": "keras_hub"}, "outputs of --detector keras_hub are not all there; name them with"),
        (OD, {"boxes_output": "nothing"}, r"no output 'nothing' \(--boxes_output\)"),
        (OD, {"detector": "best_ever"}, "--detector 'best_ever' is not known: use one of detr, keras_hub"),
        (OD, {"detector": "no_such_module:read"}, "--detector no_such_module:read: No module named"),
        (OD, {"detector": "json:no_such_thing"}, "has no attribute 'no_such_thing'"),
        (DETR, {"labels": ("a", "b")}, "2 labels for a detector of 80 classes"),
        (tensors(bbox_regression=(None, 50, 4), cls_logits=(None, 50, 3)), {}, "default anchors are 774"),
        (OD, {"box_format": "corners"}, "box_format is 'corners'"),
    ],
)
def test_what_cannot_be_told_is_asked_for(outputs, said, message):
    with pytest.raises(UsageError, match=message):
        chosen(outputs, **said)


def with_scores(width):
    return (*OD, *tensors(raw_detection_scores=(None, 1917, width)))


@pytest.mark.parametrize(
    ("outputs", "said", "offset", "classes"),
    [
        (OD, {}, 1, None),
        (OD, {"labels": ("cat", "dog")}, 1, 2),
        (OD, {"labels": ("background", "cat", "dog")}, 0, 3),
        (OD, {"labels": ("cat", "dog"), "class_offset": 0}, 0, 2),
        (with_scores(3), {"labels": ("cat", "dog")}, 1, 2),
        (with_scores(3), {"labels": ("nothing", "cat", "dog")}, 0, 3),
        (with_scores(91), {}, 1, 90),
        (DECODED, {"box_format": "xyxy", "labels": ("cat", "dog")}, 0, 2),
        (output0(84, 8400), {}, 0, 80),
        (output0(84, 8400), {"class_offset": 3}, 3, 80),
    ],
)
def test_the_id_of_the_first_class(outputs, said, offset, classes):
    spec = chosen(outputs, **said)
    assert (spec.class_offset, spec.classes) == (offset, classes)


def test_labels_that_do_not_fit_the_scores_of_a_box():
    with pytest.raises(UsageError, match="80 labels for a detector of 90 classes"):
        chosen(with_scores(91), labels=tuple(f"l{i}" for i in range(80)))


def test_outputs_may_have_other_names():
    other = tensors(b=(None, 9, 4), s=(None, 9), c=(None, 9), n=(None,))
    roles = {"boxes_output": "b", "scores_output": "s", "classes_output": "c", "count_output": "n"}
    spec = chosen(other, detector="tf_od", **roles)
    assert {role: getattr(spec, role) for role in roles} == roles
    assert spec.box_format == "rel_yxyx"
    assert chosen(other, detector="tf_od", box_format="xyxy", **roles).box_format == "xyxy"


@pytest.mark.parametrize(
    ("outputs", "said", "resize", "told"),
    [
        (OD, {}, "stretch", "64 x 64 px (height x width) by stretch, the default"),
        (output0(84, 8400), {}, "letterbox", "by letterbox, the default"),
        (output0(84, 8400), {"resize": "stretch"}, "stretch", "by stretch, as asked for"),
    ],
)
def test_how_images_are_resized_is_told(outputs, said, resize, told):
    spec = chosen(outputs, **said)
    assert spec.resize == resize
    assert any(told in note for note in spec.notes)


def test_a_function_of_ones_own_is_given_all_outputs():
    spec = chosen(OD, detector="json:dumps")
    assert set(spec.raw_outputs) == {item.name for item in OD}
    assert (spec.boxes_output, spec.box_format, spec.class_offset) == ("", "xyxy", 0)


@pytest.mark.parametrize("outputs", [OD, DETR, RETINANET, output0(84, 8400)])
def test_a_detector_is_known_for_one_without_a_task(outputs):
    assert chosen(outputs, task="").task == "detect"


def test_other_models_are_not_taken_for_detectors():
    assert chosen(tensors(scores=(None, 10)), task="").task == "classify"
    assert chosen(tensors(embedding=(None, 10)), task="").task == "embed"
    with pytest.raises(UsageError, match="is no embedding"):
        chosen(tensors(last_hidden_state=(None, 197, 768)), task="")
