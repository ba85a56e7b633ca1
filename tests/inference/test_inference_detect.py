"""What a detector finds comes out in pixels of the original upright image, however the image was shown."""

import dataclasses
import io

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image

from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import read_bundle, write_bundle
from beam_vision.inference.check import try_apart
from beam_vision.inference.engine import Engine, warm_up
from beam_vision.inference.loader import load
from beam_vision.inference.probe import probe_images
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.inference.transforms import Infer
from beam_vision.testing import detectors
from beam_vision.testing.models import CULPRIT_RGB
from beam_vision.testing.pipelines import collect, collect_with_counters
from beam_vision.types import EncodedImage, Failure, ImageRef, Prediction

FORMS = ("tf_od", "image_bytes", "keras_hub", "keras", "detr", "yolo_v5", "yolo_v8", "yolo_nms")
PIXEL_FORMS = tuple(form for form in FORMS if form != "image_bytes")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Each form of detector, written once."""
    root = tmp_path_factory.mktemp("detectors")
    made = {}

    def get(form):
        if form not in made:
            made[form] = save(str(root / form), form)
        return made[form]

    return get


def save(path, form):
    if form == "tf_od":
        return detectors.save_saved_model(path)
    if form == "image_bytes":
        return detectors.save_image_bytes_model(path)
    if form == "keras_hub":
        return detectors.save_saved_model(path, detectors.keras_hub_outputs)
    if form == "keras":
        return detectors.save_keras(f"{path}.keras", detectors.keras_hub_outputs)
    if form == "detr":
        return detectors.save_keras(f"{path}.keras", detectors.detr_outputs)
    return detectors.save_onnx(f"{path}.onnx", form)


def engine(path, *, settings=None, **said):
    said = {"labels": detectors.LABELS, "task": "detect", "interpolation": "nearest", **said}
    if path.endswith(("keras_hub", "/keras.keras")):
        said["box_format"] = "xyxy"
    spec = read_bundle(path, said)
    model = load(path, spec)
    warm_up(model)
    made = Engine(spec, EngineSettings(task="detect", **(settings or {})))
    return lambda images: made.predict(images, model)[0]


def encoded(pixels, key="k"):
    return EncodedImage(ImageRef(key, "u"), encode_png(pixels))


def boxes(prediction):
    assert isinstance(prediction, Prediction), prediction
    return {box.label: (box.xmin, box.ymin, box.xmax, box.ymax) for box in prediction.boxes}


WIDE = detectors.scene(128, 256, red=(16, 32, 96, 64), blue=(128, 16, 192, 120))
SQUARE = detectors.scene(64, 64, green=(8, 16, 40, 48))


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "center_crop"])
@pytest.mark.parametrize("form", PIXEL_FORMS)
def test_every_form_in_every_resize_gives_original_pixels(form, resize, saved):
    predict = engine(saved(form), resize=resize)
    wide, square = predict([encoded(WIDE), encoded(SQUARE)])
    expected = detectors.boxes_of(WIDE)
    if resize == "center_crop":  # columns 64 to 192 are shown
        expected = {"red": (64, 32, 96, 64), "blue": (128, 16, 192, 120)}
    found = boxes(wide)
    assert set(found) == {"red", "blue"}
    for label, box in expected.items():
        np.testing.assert_allclose(found[label], box, atol=4.01)  # a pixel of the input is 4 of the original
    assert [box.label for box in wide.boxes] == ["red", "blue"]
    np.testing.assert_allclose([box.score for box in wide.boxes], [0.9, 0.7], atol=1e-4)
    np.testing.assert_allclose(boxes(square)["green"], (8, 16, 40, 48), atol=1e-3)
    assert (wide.width_px, wide.height_px) == (256, 128)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["tf_od", "image_bytes", "yolo_v8"])
def test_boxes_lie_on_the_upright_image_in_all_orientations(form, orientation, saved):
    upright = detectors.scene(64, 128, red=(8, 4, 40, 20), green=(80, 32, 120, 60))
    turned = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    exif = Image.Exif()
    exif[0x0112] = turned
    stored = encode_with(upright, orientation, exif)
    assert Image.open(io.BytesIO(stored)).size == ((64, 128) if turned >= 5 else (128, 64))
    (found,) = engine(saved(form))([EncodedImage(ImageRef("k", "u"), stored)])
    for label, box in {"red": (8, 4, 40, 20), "green": (80, 32, 120, 60)}.items():
        np.testing.assert_allclose(boxes(found)[label], box, atol=2.01)
    assert (found.width_px, found.height_px, found.orientation) == (128, 64, turned)


def encode_with(upright, how, exif):
    """A PNG whose pixels, turned by ``exif``, are ``upright``."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    image = Image.fromarray(upright)
    image = image.transpose(turns[how]) if how in turns else image
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    return file.getvalue()


def many(n=13):
    rng = np.random.default_rng(5)
    images = []
    for i in range(n):
        height, width = rng.integers(20, 90, 2)
        x, y = rng.integers(0, width - 12), rng.integers(0, height - 12)
        label = detectors.LABELS[i % 3]
        images.append(encoded(detectors.scene(height, width, **{label: (x, y, x + 10, y + 10)}), f"k{i}"))
    return images


@pytest.mark.parametrize("form", ["tf_od", "yolo_v8"])
def test_a_batch_gives_what_one_by_one_gives(form, saved):
    images = many()
    together = engine(saved(form), settings={"batch_size": 8})(images)
    alone = engine(saved(form), settings={"batch_size": 1})
    assert together == [alone([image])[0] for image in images]
    assert [prediction.ref.key for prediction in together] == [f"k{i}" for i in range(13)]
    assert all(len({box.label for box in prediction.boxes}) == 1 for prediction in together)


@pytest.mark.parametrize("save_it", ["saved_model", "onnx"])
def test_a_fixed_batch_of_one(save_it, saved, tmp_path):
    if save_it == "onnx":
        path, same = detectors.save_onnx(str(tmp_path / "m.onnx"), "yolo_v8", batch=1), saved("yolo_v8")
    else:
        path, same = detectors.save_saved_model(str(tmp_path / "m"), batch=1), saved("tf_od")
    images = many()
    digests = {"model_digest": "", "preprocessing_digest": ""}
    found = [dataclasses.replace(item, **digests) for item in engine(path)(images)]
    assert found == [dataclasses.replace(item, **digests) for item in engine(same)(images)]


def test_tf_hub_style_uint8_of_any_size_needs_a_size(tmp_path):
    path = detectors.save_saved_model(str(tmp_path / "m"), batch=1, size_px=(None, None), dtype="uint8")
    with pytest.raises(UsageError, match="size must be said: give it with --image_size"):
        read_bundle(path, {"task": "detect"})
    predict = engine(path, height_px=128, width_px=256)
    wide, square = predict([encoded(WIDE), encoded(SQUARE)])
    assert boxes(wide) == detectors.boxes_of(WIDE)
    assert boxes(square) == detectors.boxes_of(SQUARE)


def infer(path, images, **settings):
    spec = read_bundle(path, {"labels": detectors.LABELS, "task": "detect"})
    return collect_with_counters(
        lambda p: p | beam.Create(images, reshuffle=False) | Infer(spec, path, task="detect", **settings)
    )


@pytest.mark.parametrize(
    ("trouble", "reason", "detail"),
    [
        ("raises", "model_error", ""),
        ("nan", "non_finite", "1 of 1 detections hold a number"),
        ("class", "bad_model_output", "class id 9 is none of 3 labels, the first of id 1"),
    ],
)
def test_only_the_culprits_fail(trouble, reason, detail, tmp_path):
    path = detectors.save_saved_model(str(tmp_path / "m"), trouble=trouble)
    images = many()
    for i in (2, 3, 11):
        images[i] = encoded(np.full((30, 40, 3), CULPRIT_RGB, np.uint8), f"k{i}")
    images[7] = EncodedImage(images[7].ref, images[7].data[:50])
    outcome, counters = infer(path, images, batch_size=8)
    failed = {item.key: (item.stage, item.reason) for item in outcome.failed}
    assert failed == {**{f"k{i}": ("inference", reason) for i in (2, 3, 11)}, "k7": ("decode", "truncated")}
    assert all(detail in item.detail for item in outcome.failed if item.key != "k7")
    assert {len(item.boxes) for item in outcome.good} == {1}
    assert (counters["images_inferred"], counters["images_failed"]) == (9, 4)
    assert (counters.get("batches_bisected", 0) > 0) == (trouble == "raises")


def test_an_image_without_objects_has_a_prediction_without_boxes(saved):
    outcome = collect(
        lambda p: (
            p
            | beam.Create([encoded(np.zeros((20, 20, 3), np.uint8))])
            | Infer(read_bundle(saved("tf_od"), {"task": "detect"}), saved("tf_od"), task="detect")
        )
    )
    (found,) = outcome.good
    assert (found.boxes, found.labels, found.embedding) == ((), (), None)


def scores(predict, pixels=SQUARE):
    (found,) = predict([encoded(pixels)])
    return [round(box.score, 3) for box in found.boxes]


@pytest.mark.parametrize(
    ("nms", "expected"),
    [
        ("model", [0.8]),
        ("hard", [0.8]),
        ("none", [0.8, 0.72, 0.648, 0.583]),
        # The copies overlap the first by 31/33, 30/34 and 29/35, so the last keeps most of its score;
        # it then takes that of the others below the threshold.
        ("soft_linear", [0.8, round(0.8 * 0.9**3 * (1 - 29 / 35), 3)]),
        ("soft_gaussian", [0.8, round(0.8 * 0.9**3 * np.exp(-((29 / 35) ** 2) / 0.5), 3)]),
    ],
)
def test_suppression_as_asked(nms, expected, saved):
    assert scores(engine(saved("yolo_v8"), settings={"nms": nms})) == expected


def test_the_model_s_own_suppression_is_trusted_unless_told_otherwise(saved, tmp_path):
    twice = detectors.save_saved_model(str(tmp_path / "m"), doubled)
    assert scores(engine(twice)) == [0.8, 0.72]
    assert scores(engine(twice, settings={"nms": "hard"})) == [0.8]
    assert scores(engine(twice, settings={"nms": "hard", "nms_iou": 1.0})) == [0.8, 0.72]


def doubled(x):
    """Like the TensorFlow Object Detection API, each box twice."""
    import tensorflow as tf

    outputs = detectors.tf_od_outputs(x)
    count = outputs.pop("num_detections")
    both = {name: tf.concat([value, value], axis=1) for name, value in outputs.items()}
    half = tf.constant([1.0] * 5 + [0.9] * 5)
    return {**both, "detection_scores": both["detection_scores"] * half, "num_detections": count * 0 + 10}


def test_threshold_and_most_detections(saved):
    three = detectors.scene(64, 64, red=(0, 0, 20, 20), green=(30, 0, 50, 20), blue=(0, 40, 20, 60))
    assert scores(engine(saved("tf_od")), three) == [0.9, 0.8, 0.7]
    assert scores(engine(saved("tf_od"), settings={"score_threshold": 0.75}), three) == [0.9, 0.8]
    assert scores(engine(saved("tf_od"), settings={"max_detections": 1}), three) == [0.9]


def test_boxes_are_cut_at_the_image_and_those_beyond_it_left_out(tmp_path):
    def outputs(x):
        import tensorflow as tf

        n = tf.shape(x)[0]
        some = [[-0.5, -0.5, 0.5, 0.5], [0.6, 0.6, 0.4, 0.7], [1.1, 0.0, 1.5, 1.0], [0.2, 0.2, 0.2, 0.8]]
        return {
            "detection_boxes": tf.tile(tf.constant([some]), [n, 1, 1]),
            "detection_scores": tf.tile(tf.constant([[0.9, 0.8, 0.7, 0.6]]), [n, 1]),
            "detection_classes": tf.tile(tf.constant([[1.0, 2, 3, 1]]), [n, 1]) + 0 * x[:, 0, 0, :1],
        }

    path = detectors.save_saved_model(str(tmp_path / "m"), outputs)
    (found,) = engine(path)([encoded(WIDE)])
    assert boxes(found) == {"red": (0, 0, 128, 64)}  # inverted, outside and empty ones are gone


@pytest.mark.usefixtures("warm_children")
@pytest.mark.parametrize(
    ("path", "shapes"),
    [
        ("tf_od", {f"detection_{name}" for name in ("boxes", "scores", "classes")} | {"num_detections"}),
        ("yolo_v5", {"output0"}),
    ],
)
def test_the_child_tries_detectors_too(path, shapes, saved):
    spec = read_bundle(saved(path), {"labels": detectors.LABELS, "task": "detect"})
    report = try_apart(saved(path), spec)
    assert report.ok, report.detail
    assert (report.classes, report.images, report.activation) == (3, 4, "")
    assert report.detections == sum(len(detectors.boxes_of(pixels)) for pixels in probe_images(64, 64)) > 0
    assert set(report.shapes) == shapes


@pytest.mark.usefixtures("warm_children")
def test_a_detector_that_cannot_be_read_is_told_before_the_job(saved):
    spec = read_bundle(saved("tf_od"), {"task": "detect"})
    spec = dataclasses.replace(spec, scores_output="detection_boxes", model_digest="")
    report = try_apart(saved("tf_od"), spec)
    assert not report.ok
    assert "bad_model_output: output 'detection_boxes' has shape [1, 5, 4], not [n, 5]" in report.detail


NEW = (
    *("detector", "boxes_output", "classes_output", "count_output", "raw_outputs", "box_format"),
    "class_offset",
)


def test_a_bundle_keeps_what_is_known_of_a_detector(tmp_path):
    target = str(tmp_path / "bundle")
    spec = write_bundle(target, detectors.save_saved_model, {"task": "detect", "labels": detectors.LABELS})
    again = read_bundle(target)
    assert again == spec
    assert (again.detector, again.class_offset, again.box_format) == ("tf_od", 1, "rel_yxyx")
    assert ModelSpec.from_json(spec.to_json()) == dataclasses.replace(spec, notes=())
    assert read_bundle(target, {"class_offset": 0}).model_digest != spec.model_digest
    old = {name: value for name, value in ModelSpec(labels=("a",)).to_json().items() if name not in NEW}
    assert ModelSpec.from_json(old) == ModelSpec(labels=("a",))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score_threshold": 1.5}, "--score_threshold is 1.5"),
        ({"max_detections": 0}, "--max_detections is 0"),
        ({"nms": "fuzzy"}, "--nms is 'fuzzy'"),
        ({"nms_iou": -0.1}, "--nms_iou is -0.1"),
        ({"task": "segment"}, "--task is 'segment'"),
        ({"tile_px": 64, "tile_overlap": 1.0}, "a tile overlap of 1.0"),
    ],
)
def test_bad_settings_are_refused_when_building(settings, message):
    spec = ModelSpec(task="detect", detector="yolo_v8", boxes_output="o", height_px=8, width_px=8)
    with pytest.raises(UsageError, match=message):
        Engine(spec, EngineSettings(**{"task": "detect", **settings}))


def test_a_model_that_is_no_detector_is_refused():
    with pytest.raises(UsageError, match="say it with --detector"):
        Engine(ModelSpec(scores_output="s", height_px=8, width_px=8), EngineSettings(task="detect"))


def test_failures_are_all_told_when_nothing_can_be_decoded(saved):
    results = engine(saved("tf_od"))([EncodedImage(ImageRef(f"k{i}", "u"), b"junk") for i in range(3)])
    assert [type(item) for item in results] == [Failure] * 3
