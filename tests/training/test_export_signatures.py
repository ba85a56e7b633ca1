"""Decoding inside a graph against our decoder, and the two signatures against the model."""

import io

import numpy as np
import pytest
from PIL import Image

from beam_vision import deps
from beam_vision.errors import JobError, UsageError
from beam_vision.images.codec import DecodeSettings, decode, encode_png
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.loader import load
from beam_vision.training.export import export
from beam_vision.training.export_tflite import convert
from beam_vision.training.graph_decode import decode_images
from beam_vision.training.model import EMBEDDING, SCORES, build_model

SIZES = ((10, 7), (24, 40), (70, 33), (128, 128), (127, 301), (333, 500), (1000, 777))
LABELS = ["a", "b", "c", "d", "e", "f"]


def picture(width, height, mode):
    y, x = np.mgrid[:height, :width]
    waves = np.stack([(x * 3 + y) % 256, (y * 2) % 256, (x * y // 7) % 256, (x + y) % 256], -1)
    noise = np.random.default_rng(width).integers(-20, 20, waves.shape)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8), "RGBA").convert(mode)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


FILES = {
    "JPEG": lambda w, h: encoded(picture(w, h, "RGB"), "JPEG", quality=85),
    "progressive JPEG": lambda w, h: encoded(picture(w, h, "RGB"), "JPEG", progressive=True, subsampling=0),
    "grey JPEG": lambda w, h: encoded(picture(w, h, "L"), "JPEG"),
    "PNG": lambda w, h: encoded(picture(w, h, "RGB"), "PNG"),
    "transparent PNG": lambda w, h: encoded(picture(w, h, "RGBA"), "PNG"),
    "PNG of a palette": lambda w, h: encoded(picture(w, h, "P"), "PNG"),
    "BMP": lambda w, h: encoded(picture(w, h, "RGB"), "BMP"),
    "GIF": lambda w, h: encoded(picture(w, h, "P"), "GIF"),
}


@pytest.fixture(scope="module", params=["stretch", "letterbox", "center_crop"])
def decoder(request):
    tf = deps.need("tensorflow")
    settings = DecodeSettings(height_px=24, width_px=40, resize=request.param, max_pixels=1_000_000)
    spec = [tf.TensorSpec([None], tf.string)]
    return settings, tf.function(lambda x: decode_images(x, settings), input_signature=spec, autograph=False)


@pytest.mark.parametrize("kind", FILES)
def test_a_graph_decodes_to_the_bit_as_we_do(decoder, kind):
    settings, graph = decoder
    files = [FILES[kind](*size) for size in SIZES]
    found = graph(deps.need("tensorflow").constant(files)).numpy()
    for size, file, pixels in zip(SIZES, files, found, strict=True):
        np.testing.assert_array_equal(pixels, decode(file, settings).pixels, err_msg=str(size))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"GIF8", "GIF"),
        (b"no image", "Unknown image file format"),
        (encoded(Image.new("L", (1001, 1000)), "PNG"), "too many pixels"),
        (encoded(Image.new("L", (1001, 1000)), "JPEG"), "too many pixels"),
    ],
)
def test_what_is_no_image_or_too_large_is_refused(decoder, file, message):
    tf = deps.need("tensorflow")
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decoder[1](tf.constant([file]))


@pytest.mark.parametrize("settings", [{}, {"height_px": 8, "width_px": 8, "interpolation": "lanczos"}])
def test_settings_without_a_counterpart_are_refused(settings):
    with pytest.raises(UsageError, match="inside a graph"):
        decode_images(None, DecodeSettings(**settings))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    target = str(tmp_path_factory.mktemp("export") / "b")
    model = build_model(32, 32, len(LABELS), embedding_dim=8, seed=3)
    spec = export(model, target, labels=LABELS, metrics={}, training={}, resize="letterbox", keras_too=True)
    return model, target, spec


def images(number):
    return np.random.default_rng(1).integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)


def test_files_and_pixels_get_the_same_answers(bundle):
    tf = deps.need("tensorflow")
    model, target, spec = bundle
    assert (spec.signature, spec.resize) == ("pixels", "letterbox")
    signatures = tf.saved_model.load(target).signatures
    batch = images(5)
    want = {name: np.asarray(value) for name, value in model(batch, training=False).items()}
    pixels = signatures["pixels"](tf.constant(batch))
    files = signatures["serving_default"](image_bytes=tf.constant([encode_png(item) for item in batch]))
    for name in (SCORES, EMBEDDING):
        np.testing.assert_allclose(pixels[name], want[name], atol=1e-5)
        np.testing.assert_allclose(files[name], want[name], atol=1e-5)
    order = np.argsort(-want[SCORES], axis=1)[:, :5]
    assert files["labels"].numpy().tolist() == [[LABELS[i].encode() for i in row] for row in order]
    np.testing.assert_allclose(files["scores"], np.take_along_axis(want[SCORES], order, 1), atol=1e-5)


def test_files_are_letterboxed_as_in_training(bundle):
    tf = deps.need("tensorflow")
    model, target, spec = bundle
    file = FILES["JPEG"](333, 500)
    pixels = decode(file, spec.decode_settings()).pixels[None]
    found = tf.saved_model.load(target).signatures["serving_default"](tf.constant([file]))
    np.testing.assert_allclose(found[SCORES], model(pixels, training=False)[SCORES], atol=1e-5)
    assert spec.pad_rgb == tuple(pixels[0, 0, 0])


def test_the_bytes_signature_runs_here_too(bundle):
    model, target, _ = bundle
    asked = {"signature": "serving_default", "input_name": "image_bytes", "input_kind": "image_bytes"}
    spec = read_bundle(target, asked)
    batch = images(3)
    files = np.array([encode_png(item) for item in batch], object)
    np.testing.assert_allclose(load(target, spec).run(files)[SCORES], model(batch)[SCORES], atol=1e-5)


def test_the_keras_model_can_be_trained_on(bundle):
    keras = deps.need("keras")
    model, target, _ = bundle
    again = keras.saving.load_model(f"{target}/keras/model.keras")
    batch = images(4)
    np.testing.assert_allclose(again(batch)[EMBEDDING], model(batch)[EMBEDDING], atol=1e-6)
    assert again.trainable_variables


@pytest.mark.parametrize(
    ("kind", "message"), [("int4", "must be of float16, int8"), ("int8", "there are none")]
)
def test_lite_models_that_can_not_be_made(bundle, kind, message):
    with pytest.raises(UsageError, match=message):
        convert(bundle[1], kind)


def test_an_operation_that_lite_models_lack_is_told(tmp_path):
    tf = deps.need("tensorflow")
    module = tf.Module()
    module.pixels = tf.function(
        lambda image: {"x": tf.linalg.det(tf.cast(image[:, :3, :3, 0], tf.float32))},
        input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.uint8, name="image")],
    )
    tf.saved_model.save(module, str(tmp_path), signatures={"pixels": module.pixels})
    with pytest.raises(JobError, match=r"as float16; leave it out of export\.tflite.*MatrixDeterminant"):
        convert(str(tmp_path), "float16")
