"""TensorFlow Lite models run by the pipeline as NumPy says they should, quantized or not."""

import numpy as np
import pytest

from beam_vision import storage
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import find_files, own_spec_file, read_bundle, write_bundle
from beam_vision.inference.loader import load
from beam_vision.inference.run_local import run_local
from beam_vision.inference.tflite_model import TfliteModel, find
from beam_vision.testing import models
from beam_vision.types import EncodedImage, Failure, ImageRef

KINDS = ("float", "uint8 pixels", "int8")


def pictures(number=11):
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 256, (number, 1, 1, 3))
    noise = rng.integers(-40, 40, (number, models.SIDE_PX, models.SIDE_PX, 3))
    return np.clip(flat + noise, 0, 255).astype(np.uint8)


def convert(kind):
    """The colours of :mod:`beam_vision.testing.models`: scores of an 8x8 image, and its mean colour."""
    import tensorflow as tf

    dtype = tf.uint8 if kind == "uint8 pixels" else tf.float32

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 3], dtype, name="images")])
    def call(images):
        x = tf.cast(images, tf.float32) / 255 if dtype == tf.uint8 else images
        mean = tf.reduce_mean(x, axis=[1, 2])
        return {"scores": mean @ models.COLOURS + models.BIAS, "embedding": tf.identity(mean)}

    module = tf.Module()
    module.call = call
    converter = tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()], module)
    if kind == "int8":
        samples = [np.float32(np.full((1, 8, 8, 3), v)) for v in (0, 1)] + list(pictures()[:, None] / 255)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([np.float32(sample)] for sample in samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    return converter.convert()


@pytest.fixture(scope="module", params=KINDS)
def lite(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("lite") / "colours.tflite"
    path.write_bytes(convert(request.param))
    return request.param, str(path)


def test_what_a_file_tells_of_itself(lite):
    kind, path = lite
    found = find(path)
    (image,) = found.inputs
    assert image.shape == (None, 8, 8, 3)
    assert image.dtype == ("uint8" if kind == "uint8 pixels" else "float32")
    assert found.value_range == ("0..1" if kind == "int8" else "")  # from its scale and zero point
    assert {item.dtype for item in found.outputs} == {"float32"}


def test_a_pipeline_gives_what_numpy_gives(lite):
    kind, path = lite
    spec = read_bundle(
        path, {"labels": models.LABELS, "scores_output": "scores", "embedding_output": "embedding"}
    )
    assert (spec.model_format, spec.fixed_batch, spec.classes) == ("tflite", None, 4)
    batch = pictures()
    images = [EncodedImage(ImageRef(f"k{i}", f"u{i}"), encode_png(item)) for i, item in enumerate(batch)]
    images.append(EncodedImage(ImageRef("bad", "u"), b"no image"))
    found = run_local(images, spec, path, with_embedding=True, top_k=4, batch_size=4)
    assert isinstance(found.pop(), Failure)
    x = (batch / 255).astype(np.float32)
    raw = np.exp(models.scores(x).astype(np.float64))
    scores = raw / raw.sum(axis=1, keepdims=True)
    mean = x.mean(axis=(1, 2))
    unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    tolerance = 0.05 if kind == "int8" else 1e-5
    for prediction, p, e in zip(found, scores, unit, strict=True):
        told = {label.label: label.score for label in prediction.labels}
        np.testing.assert_allclose([told[name] for name in models.LABELS], p, atol=tolerance)
        np.testing.assert_allclose(np.frombuffer(prediction.embedding, "<f4"), e, atol=tolerance)
        assert prediction.model_digest == spec.model_digest


def test_batches_of_any_size_one_after_the_other(lite):
    _, path = lite
    model = load(path, read_bundle(path, {"scores_output": "scores"}))
    batch = pictures() if model.spec.dtype == "uint8" else np.float32(pictures() / 255)
    whole = model.run(batch)["scores"]
    for size in (3, 1, 11, 2):
        np.testing.assert_allclose(model.run(batch[:size])["scores"], whole[:size], atol=1e-5)


def test_what_is_no_lite_model_is_refused(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="TensorFlow Lite can't load"):
        TfliteModel(str(path))


def test_models_of_one_folder_have_specs_of_their_own(lite, tmp_path):
    data = storage.read_bytes(lite[1])
    said = {"labels": models.LABELS, "scores_output": "scores"}
    whole = write_bundle(str(tmp_path / "b"), lambda d: storage.write_bytes(f"{d}/model.tflite", data), said)
    assert read_bundle(str(tmp_path / "b")) == whole
    for name in ("one", "two"):
        path = f"{tmp_path}/b/{name}.tflite"
        storage.write_bytes(path, data)
        spec = read_bundle(path, {"labels": tuple(f"{name}{i}" for i in range(4))})
        storage.write_json(f"{tmp_path}/b/{own_spec_file(name + '.tflite')}", spec.to_json())
    assert read_bundle(f"{tmp_path}/b/two.tflite").labels == ("two0", "two1", "two2", "two3")
    assert read_bundle(str(tmp_path / "b")) == whole  # model.tflite is the folder's own
    assert find_files(str(tmp_path / "b")).main == "model.tflite"
    storage.write_bytes(f"{tmp_path}/b/two.tflite", data + b"\0")
    with pytest.raises(DigestMismatch):
        read_bundle(f"{tmp_path}/b/two.tflite")
