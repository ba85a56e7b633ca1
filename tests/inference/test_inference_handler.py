"""The handler under Beam: batches bounded twice over, pickled clean, decoded ahead, never traced anew."""

import dataclasses
import pickle
import threading
import time

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.internal import pickler
from apache_beam.ml.inference.base import KeyedModelHandler
from apache_beam.options.pipeline_options import PipelineOptions
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.inference import decoding, keras_model
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.decoding import Decoder
from beam_vision.inference.engine import Engine, warm_up
from beam_vision.inference.handler import ImageModelHandler
from beam_vision.inference.loader import load
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.spec import ModelSpec
from beam_vision.inference.transforms import Infer, InferExamples, KeyExamples, ReadLogs, SplitOutcomes
from beam_vision.testing import models
from beam_vision.testing.pipelines import collect, collect_with_counters
from beam_vision.types import EncodedImage, ImageRef, Prediction

SPEC = ModelSpec(height_px=8, width_px=8, scores_output="scores", embedding_output="embedding")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("model") / "m"))


def image(size_bytes, key="k"):
    return EncodedImage(ImageRef(key, "u"), b"x" * size_bytes)


def handler(**bounds):
    return ImageModelHandler("nowhere", SPEC, EngineSettings(), **bounds)


class Lengths(beam.DoFn):
    def process(self, batch):
        yield [len(element[1].data) for element in batch]


@given(sizes=st.lists(st.integers(0, 3000), max_size=40))
def test_batches_keep_both_bounds(sizes):
    kwargs = handler(max_batch_images=8, max_batch_bytes=1000).batch_elements_kwargs()
    weights = [kwargs["element_size_fn"](("k", image(size))) for size in sizes]
    assert all(isinstance(weight, int) and 1 <= weight <= 8 for weight in weights)
    batch = []
    for size, weight in zip(sizes, weights, strict=True):
        if sum(w for _, w in batch) + weight > 8:
            batch = []
        batch.append((size, weight))
        assert len(batch) <= 8
        assert len(batch) == 1 or sum(s for s, _ in batch) <= 1000


def test_beam_forms_such_batches_and_a_giant_goes_alone():
    sizes = [5000, 10, 10, 10, 10, 300, 300, 300, 300, 5000, 5000]
    elements = [(str(i), image(size, str(i))) for i, size in enumerate(sizes)]
    kwargs = handler(max_batch_images=4, max_batch_bytes=1000).batch_elements_kwargs()
    batches = collect(
        lambda p: (
            p | beam.Create(elements, reshuffle=False) | beam.BatchElements(**kwargs) | beam.ParDo(Lengths())
        )
    )
    assert [size for batch in batches for size in batch] == sizes
    assert all(batch for batch in batches), "an empty batch"
    assert batches[0] == [5000]
    assert all(len(batch) <= 4 for batch in batches)
    assert all(len(batch) == 1 or sum(batch) <= 1000 for batch in batches)
    assert [10, 10, 10, 10] in batches


def test_the_handler_pickles_and_leaves_its_engine_behind(saved):
    spec = read_bundle(saved)
    made = ImageModelHandler(saved, spec, EngineSettings())
    model = made.load_model()
    pixels = np.full((8, 8, 3), 200, np.uint8)
    batch = [EncodedImage(ImageRef("k", "u"), encode_png(pixels))]
    (before,) = made.run_inference(batch, model)
    for pickled in (pickle, pickler):
        again = pickled.loads(pickled.dumps(KeyedModelHandler(made)))
        assert again._unkeyed._engine is None
        ((key, after),) = again.run_inference([("k", batch[0])], model)
        assert (key, after) == ("k", before)


@pytest.mark.parametrize(
    "fn", [SplitOutcomes(), KeyExamples(EngineSettings()), ReadLogs(SPEC, EngineSettings())]
)
def test_every_dofn_pickles(fn):
    assert type(pickler.loads(pickler.dumps(fn))) is type(fn)


def test_transforms_build_into_a_pipeline_of_rows(saved, tmp_path):
    spec = read_bundle(saved)
    pipeline = beam.Pipeline(options=PipelineOptions(["--runner=FnApiRunner"]))
    outcome = pipeline | beam.Create([image(1)]) | Infer(spec, saved)
    assert outcome.good.element_type is Prediction
    registry = beam.coders.registry
    for pcoll in outcome:
        assert isinstance(registry.get_coder(pcoll.element_type), beam.coders.RowCoder)
    path = models.save_example_model(str(tmp_path / "ex"))
    spec = dataclasses.replace(read_bundle(path), activation="softmax", multi_label=False)
    outcome = pipeline | "Records" >> beam.Create([image(1)]) | InferExamples(spec, path)
    for pcoll in outcome:
        assert isinstance(registry.get_coder(pcoll.element_type), beam.coders.RowCoder)
    assert pipeline.to_runner_api().SerializeToString()


def test_bytes_are_counted_without_pickling():
    batch = [("k", image(10)), ("k", image(7))]
    assert handler().get_num_bytes([item for _, item in batch]) == 17
    assert KeyedModelHandler(handler()).get_num_bytes(batch) < 17 + 100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"task": "embed"}, "no output of embeddings"),
        ({"with_embedding": True}, "no output of embeddings"),
        ({"batch_size": 0}, "--batch_size is 0"),
        ({"top_k": 0}, "--top_k is 0"),
    ],
)
def test_what_the_model_does_not_give_is_refused_when_building(settings, message):
    with pytest.raises(UsageError, match=message):
        ImageModelHandler("nowhere", ModelSpec(scores_output="scores"), EngineSettings(**settings))


def test_a_model_of_examples_is_refused_here():
    spec = dataclasses.replace(SPEC, input_kind="tf_example")
    with pytest.raises(UsageError, match="not images; choose another --signature"):
        Infer(spec, "nowhere")


def test_a_value_range_that_the_input_can_not_hold_is_refused(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"), dtype="uint8")
    with pytest.raises(UsageError, match=r"uint8, which can't hold --value_range -1\.\.1"):
        Engine(read_bundle(path, {"value_range": "-1..1"}), EngineSettings())


def test_no_batch_size_traces_a_keras_model_anew(tmp_path):
    path = models.save_keras(str(tmp_path / "m.keras"))
    spec = read_bundle(path)
    function = keras_model.trace(keras_model.open_model(path))
    for images in (1, 5, 32, 3):
        function(np.zeros((images, 8, 8, 3), np.float32))
    assert function.experimental_get_tracing_count() == 1
    model = load(path, spec)
    for images in (1, 5, 32, 3):
        assert model.run(np.zeros((images, 8, 8, 3), np.float32))["scores"].shape == (images, 4)


def test_a_fixed_batch_is_never_exceeded_and_filled_up(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"), batch=8)
    model = load(path, read_bundle(path))
    sizes, call = [], model._call
    model._call = lambda batch: (sizes.append(len(batch)), call(batch))[1]
    batch = np.random.default_rng(0).random((19, 8, 8, 3), np.float32)
    np.testing.assert_allclose(model.run(batch)["scores"], models.scores(batch), rtol=1e-4, atol=1e-5)
    assert sizes == [8, 8, 8]


def pngs(images):
    rng = np.random.default_rng(3)
    return [
        EncodedImage(ImageRef(f"k{i}", "u"), encode_png(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)))
        for i in range(images)
    ]


def decoder(batch_size=8, threads=2):
    return Decoder(SPEC, EngineSettings(batch_size=batch_size, decode_threads=threads))


def test_the_next_batches_are_decoded_while_one_is_used(monkeypatch):
    decoded, where = [], set()
    real = decoding.decode
    lock = threading.Lock()

    def watched(data, settings):
        with lock:
            decoded.append(data)
            where.add(threading.current_thread().name)
        return real(data, settings)

    monkeypatch.setattr(decoding, "decode", watched)
    chunks = decoder().chunks(pngs(40))
    first = next(chunks)
    assert first.wait()
    deadline = time.monotonic() + 20
    while len(decoded) < 1 + 2 + 4 + 8 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert len(decoded) == 1 + 2 + 4 + 8  # itself and three more; no further
    assert all("beam-vision-decode" in name for name in where)


def test_what_is_decoded_ahead_is_bounded_in_bytes(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_AHEAD_BYTES", 1)
    started = []
    made = decoder()
    start = made._start
    made._start = lambda images: (started.append(len(images)), start(images))[1]
    next(made.chunks(pngs(40)))
    assert started == [1, 2]  # the one in use and, whatever it takes, the next


def test_results_come_in_order_whatever_the_batches(saved):
    spec = read_bundle(saved)
    model = load(saved, spec)
    warm_up(model)
    images = pngs(23)
    images[7] = EncodedImage(images[7].ref, b"")
    expected = None
    for batch_size in (1, 3, 8, 100):
        for threads in (1, 3):
            settings = EngineSettings(batch_size=batch_size, decode_threads=threads, task="embed")
            results, stats = Engine(spec, settings).predict(images, model)
            keys = [r.ref.key if isinstance(r, Prediction) else r.key for r in results]
            assert keys == [f"k{i}" for i in range(23)]
            vectors = [np.frombuffer(r.embedding, "<f4") for r in results if isinstance(r, Prediction)]
            expected = vectors if expected is None else expected
            np.testing.assert_allclose(vectors, expected, atol=1e-6)
            assert len(stats.decode_ms) == 22
            assert sum(stats.batch_sizes) == 22


def test_what_is_done_is_counted(saved):
    outcome, counters = collect_with_counters(
        lambda p: p | beam.Create(pngs(20), reshuffle=False) | Infer(read_bundle(saved), saved, batch_size=8)
    )
    assert len(outcome.good) == 20
    assert (counters["images_decoded"], counters["images_inferred"]) == (20, 20)
    assert counters["batches"] == 5  # 1, 2, 4, 8, 5
