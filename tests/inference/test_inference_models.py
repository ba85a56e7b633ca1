"""Every kind of model, run by a pipeline, gives what NumPy gives on the same pixels."""

import dataclasses
import io

import apache_beam as beam
import numpy as np
import pytest
from PIL import Image

from beam_vision import tfrecord_io
from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.check import completed, try_here
from beam_vision.inference.loader import load
from beam_vision.inference.transforms import Infer, InferExamples
from beam_vision.testing import models
from beam_vision.testing.pipelines import collect
from beam_vision.types import EncodedImage, ImageRef


def pictures(n=11, seed=0):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (n, 1, 1, 3))
    noise = rng.integers(-40, 40, (n, models.SIDE_PX, models.SIDE_PX, 3))
    return np.clip(base + noise, 0, 255).astype(np.uint8)


def encoded(batch):
    return [EncodedImage(ImageRef(f"k{i:03d}", f"u{i}"), encode_png(p)) for i, p in enumerate(batch)]


def infer(spec, path, images, **options):
    outcome = collect(lambda p: p | beam.Create(images, reshuffle=False) | Infer(spec, path, **options))
    return {p.ref.key: p for p in outcome.good}, {f.key: f for f in outcome.failed}


def softmax(x):
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


MAKERS = {
    "saved_model": (models.save_saved_model, "sm", {}, {}),
    "uint8": (models.save_saved_model, "sm", {"dtype": "uint8"}, {}),
    "float16": (models.save_saved_model, "sm", {"dtype": "float16"}, {}),
    "int32": (models.save_saved_model, "sm", {"dtype": "int32"}, {}),
    "batch of one": (models.save_saved_model, "sm", {"batch": 1}, {}),
    "batch of eight": (models.save_saved_model, "sm", {"batch": 8}, {}),
    "any size": (models.save_saved_model, "sm", {"side_px": None}, {"height_px": 8, "width_px": 8}),
    "image bytes": (models.save_image_bytes_model, "sm", {}, {}),
    "keras": (models.save_keras, "m.keras", {}, {"embedding_output": "quadrants"}),
    "keras in HDF5": (models.save_keras, "m.h5", {}, {"embedding_output": "quadrants"}),
    "keras 0..1": (
        models.save_keras,
        "m.keras",
        {"preprocessing": False},
        {"embedding_output": "quadrants", "value_range": "0..1"},
    ),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_pipeline_gives_what_numpy_gives(kind, tmp_path):
    make, name, how, said = MAKERS[kind]
    path = make(str(tmp_path / name), **how)
    spec = read_bundle(path, {"labels": models.LABELS, **said})
    batch = pictures()
    found, failed = infer(spec, path, encoded(batch), with_embedding=True, batch_size=4, top_k=4)
    assert not failed
    assert sorted(found) == [f"k{i:03d}" for i in range(len(batch))]
    x = (batch / 255).astype(np.float32)
    tolerance = 2e-3 if kind == "float16" else 1e-5
    for i, (p, e) in enumerate(zip(softmax(models.scores(x)), unit(models.embedding(x)), strict=True)):
        prediction = found[f"k{i:03d}"]
        order = np.argsort(-p)
        assert [label.label for label in prediction.labels] == [models.LABELS[c] for c in order]
        np.testing.assert_allclose([label.score for label in prediction.labels], p[order], atol=tolerance)
        np.testing.assert_allclose(np.frombuffer(prediction.embedding, "<f4"), e, atol=tolerance)
        assert (prediction.width_px, prediction.height_px) == (8, 8)
        assert prediction.model_digest == spec.model_digest
        assert prediction.preprocessing_digest == spec.preprocessing_digest


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("batch_size", [None, 4])
def test_onnx_in_both_layouts(layout, batch_size, tmp_path):
    path = models.save_onnx(str(tmp_path / "model.onnx"), layout=layout, batch=batch_size)
    spec = read_bundle(str(tmp_path), {"labels": models.LABELS})
    assert (spec.layout, spec.scores_output, spec.embedding_output) == (layout, "logits", "features")
    batch = pictures()
    found, failed = infer(spec, path, encoded(batch), with_embedding=True, batch_size=8)
    assert not failed
    x = (batch / 255).astype(np.float32)
    for i, (p, e) in enumerate(zip(softmax(models.scores(x)), unit(x.mean(axis=(1, 2))), strict=True)):
        prediction = found[f"k{i:03d}"]
        assert prediction.labels[0].label == models.LABELS[p.argmax()]
        assert prediction.labels[0].score == pytest.approx(p.max(), abs=1e-5)
        np.testing.assert_allclose(np.frombuffer(prediction.embedding, "<f4"), e, atol=1e-5)


def test_a_tensorflow_1_model_with_table_and_asset(tmp_path):
    (tmp_path / "names.txt").write_text("\n".join(models.LABELS) + "\n")
    path = models.save_v1(str(tmp_path / "v1"), str(tmp_path / "names.txt"))
    (tmp_path / "names.txt").unlink()  # the asset is the model's own by now
    spec = read_bundle(path, {"labels": models.LABELS})
    assert (spec.signature, spec.scores_output) == ("predict", "logits")
    batch = pictures()
    found, _ = infer(spec, path, encoded(batch))
    best = models.scores((batch / 255).astype(np.float32)).argmax(axis=1)
    assert [found[f"k{i:03d}"].labels[0].label for i in range(len(batch))] == [models.LABELS[c] for c in best]


def test_a_model_without_signatures_is_called_for_inference(tmp_path):
    path = models.save_callable(str(tmp_path / "hub"))
    spec = read_bundle(path, {"value_range": "0..1"})
    assert (spec.signature, spec.scores_output) == ("__call__", "output_0")
    batch = pictures()
    found, _ = infer(spec, path, encoded(batch), top_k=1)
    p = softmax(models.scores((batch / 255).astype(np.float32)))
    for i, row in enumerate(p):
        (label,) = found[f"k{i:03d}"].labels
        assert (label.label, label.score) == (f"class_{row.argmax():04d}", pytest.approx(row.max(), abs=1e-5))


def gray_model(path):
    import keras

    images = keras.Input((8, 8, 1), name="images")
    x = keras.layers.GlobalAveragePooling2D(name="mean")(keras.layers.Rescaling(1 / 255)(images))
    keras.Model(images, {"features": x}).save(path)
    return path


def test_a_model_of_one_channel_sees_luma(tmp_path):
    path = gray_model(str(tmp_path / "gray.keras"))
    spec = read_bundle(path, {})
    assert (spec.task, spec.channels, spec.embedding_dim) == ("embed", 1, 1)
    batch = pictures()
    from beam_vision.inference.prepare import InputWriter
    from beam_vision.types import DecodedImage

    writer = InputWriter(spec)
    given = writer.empty(len(batch))
    for i, pixels in enumerate(batch):
        writer.write(given, i, DecodedImage(pixels, 8, 8), b"")
    pillow = np.stack([np.asarray(Image.fromarray(pixels).convert("L")) for pixels in batch])
    np.testing.assert_array_equal(given[..., 0], pillow)
    out = load(path, spec).run(given)["features"]
    np.testing.assert_allclose(out[:, 0], pillow.mean(axis=(1, 2)) / 255, rtol=1e-5)


def test_bgr_and_imagenet_are_applied_in_that_order(tmp_path):
    path = models.save_saved_model(str(tmp_path / "sm"))
    spec = read_bundle(path, {"channel_order": "bgr", "value_range": "imagenet"})
    from beam_vision.inference.prepare import InputWriter
    from beam_vision.types import DecodedImage

    pixels = pictures(1)[0]
    batch = InputWriter(spec).empty(1)
    InputWriter(spec).write(batch, 0, DecodedImage(pixels, 8, 8), b"")
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(batch[0], expected[..., ::-1], rtol=1e-5, atol=1e-5)


def rotated(pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(pixels, 1)).save(file, "PNG", exif=exif)
    return file.getvalue()


def saved_as(pixels, format_name, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()


def test_a_model_of_image_bytes_sees_images_upright_and_composited(tmp_path):
    path = models.save_image_bytes_model(str(tmp_path / "sm"))
    spec = read_bundle(path, {"labels": models.LABELS})
    pixels = pictures(1)[0]
    pixels[:4] = pixels[:4] // 2  # so that a rotation shows in the embedding
    clear = np.dstack([pixels, np.zeros((8, 8), np.uint8)])  # wholly transparent: white
    files = {
        "plain": encode_png(pixels),
        "turned": rotated(pixels),
        "webp": saved_as(pixels, "WEBP", lossless=True),
        "tiff": saved_as(pixels, "TIFF"),
        "clear": saved_as(clear, "PNG"),
    }
    images = [EncodedImage(ImageRef(name, name), data) for name, data in files.items()]
    images.append(EncodedImage(ImageRef("cut", "cut"), files["plain"][:-30]))
    found, failed = infer(spec, path, images, with_embedding=True)
    assert {key: f.reason for key, f in failed.items()} == {"cut": "truncated"}
    expected = unit(models.embedding(pixels[None] / 255))[0]
    for name in ("plain", "turned", "webp", "tiff"):
        np.testing.assert_allclose(np.frombuffer(found[name].embedding, "<f4"), expected, atol=1e-5)
    white = unit(np.ones((1, 12)))[0]
    np.testing.assert_allclose(np.frombuffer(found["clear"].embedding, "<f4"), white, atol=1e-5)


def record(key, data):
    example = tfrecord_io.Example()
    feature = example.features.feature
    feature["image/encoded"].bytes_list.value.append(data)
    feature["image/height"].int64_list.value.append(8)
    feature["image/width"].int64_list.value.append(9)
    ref = ImageRef(key, "lake/one.png", ("red",), attributes={"camera": "c1"})
    return EncodedImage(ref, example.SerializeToString())


def test_examples_run_straight_through_tfx_bsl(tmp_path):
    path = models.save_example_model(str(tmp_path / "sm"))
    spec = read_bundle(path, {"labels": models.LABELS})
    spec = completed(spec, try_here(load(path, spec)))
    assert (spec.input_kind, spec.activation, spec.multi_label) == ("tf_example", "softmax", False)
    batch = pictures()
    records = [record(f"k{i:03d}", encode_png(pixels)) for i, pixels in enumerate(batch)]
    records[3] = EncodedImage(records[3].ref, b"\xff not an example")
    records[5] = record("k005", b"not an image")
    outcome = collect(
        lambda p: (
            p
            | beam.Create(records, reshuffle=False)
            | InferExamples(spec, path, with_embedding=True, batch_size=4)
        )
    )
    found = {p.ref.key: p for p in outcome.good}
    assert {f.key: f.reason for f in outcome.failed} == {"k003": "bad_record", "k005": "model_error"}
    assert len(found) == len(batch) - 2
    x = (batch / 255).astype(np.float32)
    for i, (p, e) in enumerate(zip(softmax(models.scores(x)), unit(models.embedding(x)), strict=True)):
        if i in (3, 5):
            continue
        prediction = found[f"k{i:03d}"]
        assert prediction.labels[0].label == models.LABELS[p.argmax()]
        assert prediction.labels[0].score == pytest.approx(p.max(), abs=1e-5)
        np.testing.assert_allclose(np.frombuffer(prediction.embedding, "<f4"), e, atol=1e-5)
        assert prediction.ref == records[i].ref
        assert (prediction.width_px, prediction.height_px) == (9, 8)


def test_a_batch_of_nothing_but_bad_examples_fails_each_alone(tmp_path):
    path = models.save_example_model(str(tmp_path / "sm"))
    spec = dataclasses.replace(read_bundle(path), activation="softmax", multi_label=False)
    records = [record(f"k{i}", b"not an image") for i in range(3)]
    outcome = collect(lambda p: p | beam.Create(records, reshuffle=False) | InferExamples(spec, path))
    assert outcome.good == []
    assert sorted(f.key for f in outcome.failed) == ["k0", "k1", "k2"]
    assert {f.reason for f in outcome.failed} == {"model_error"}


def test_examples_need_a_model_of_examples_that_was_tried(tmp_path):
    pixels = read_bundle(models.save_saved_model(str(tmp_path / "sm")), {})
    with pytest.raises(UsageError, match="takes pixels, not tf"):
        InferExamples(pixels, str(tmp_path / "sm"))
    spec = read_bundle(models.save_example_model(str(tmp_path / "ex")), {})
    with pytest.raises(UsageError, match="undecided; try the model first"):
        InferExamples(spec, str(tmp_path / "ex"))


@pytest.mark.slow
def test_a_real_mobilenet_as_a_file_and_exported(tmp_path):
    import keras

    keras.utils.set_random_seed(0)
    net = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3), alpha=0.25, classes=7)
    net.save(str(tmp_path / "net.keras"))
    net.export(str(tmp_path / "net"), verbose=False)
    batch = np.random.default_rng(5).integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    expected = net(batch / np.float32(127.5) - 1, training=False).numpy()
    for name in ("net.keras", "net"):
        path = str(tmp_path / name)
        spec = read_bundle(path, {"value_range": "-1..1"})
        assert (spec.height_px, spec.classes) == (32, 7)
        found, failed = infer(spec, path, encoded(batch), top_k=7, batch_size=4)
        assert not failed
        for i, row in enumerate(expected):
            got = {label.label: label.score for label in found[f"k{i:03d}"].labels}
            np.testing.assert_allclose([got[f"class_{c:04d}"] for c in range(7)], row, atol=1e-5)
