"""One bad image costs only itself; too little memory costs only time."""

import apache_beam as beam
import numpy as np
import pytest

from beam_vision.errors import Reason, VisionError
from beam_vision.images.codec import encode_png
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.engine import Engine, warm_up
from beam_vision.inference.loader import load
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.robust import run_rows
from beam_vision.inference.transforms import Infer
from beam_vision.testing import models
from beam_vision.testing.pipelines import collect_with_counters
from beam_vision.types import EncodedImage, Failure, ImageRef

CULPRITS = (5, 6, 17)


def pictures(n=20):
    return np.random.default_rng(1).integers(0, 200, (n, 8, 8, 3), dtype=np.uint8)


def encoded(batch):
    return [EncodedImage(ImageRef(f"k{i:03d}", f"u{i}"), encode_png(p)) for i, p in enumerate(batch)]


def with_culprits(batch, places=CULPRITS):
    batch = batch.copy()
    batch[list(places)] = models.CULPRIT_RGB
    return batch


def run(path, images, **options):
    spec = read_bundle(path, {"labels": models.LABELS})
    return collect_with_counters(
        lambda p: (
            p
            | beam.Create(images, reshuffle=False)
            | Infer(spec, path, with_embedding=True, run_id="r1", attempt=2, **options)
        )
    )


@pytest.mark.parametrize(
    ("trouble", "reason"), [("raises", "model_error"), ("nan", "non_finite"), ("zero", "zero_vector")]
)
def test_only_the_culprits_fail(trouble, reason, tmp_path):
    path = models.save_troubled(str(tmp_path / "m"), trouble)
    batch = with_culprits(pictures())
    images = encoded(batch)
    images[9] = EncodedImage(images[9].ref, images[9].data[:40])
    outcome, counters = run(path, images, batch_size=8)
    failed = {f.key: f for f in outcome.failed}
    assert {key: f.reason for key, f in failed.items()} == {
        **{f"k{i:03d}": reason for i in CULPRITS},
        "k009": "truncated",
    }
    assert {f.stage for f in failed.values()} == {"inference", "decode"}
    assert {(f.run_id, f.attempt) for f in failed.values()} == {("r1", 2)}
    found = {p.ref.key: p for p in outcome.good}
    good = [i for i in range(len(batch)) if f"k{i:03d}" not in failed]
    assert sorted(found) == [f"k{i:03d}" for i in good]
    expected = models.embedding(batch / 255)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for i in good:
        got = np.frombuffer(found[f"k{i:03d}"].embedding, "<f4")
        np.testing.assert_allclose(got, expected[i], atol=1e-5)
    assert counters["images_failed"] == 4
    assert counters[f"images_failed_{reason}"] == 3
    assert counters["images_inferred"] == len(good)
    assert counters["images_decoded"] == len(batch) - 1
    assert (counters.get("batches_bisected", 0) > 0) == (trouble == "raises")


def loaded(tmp_path, trouble):
    path = models.save_troubled(str(tmp_path / "m"), trouble)
    return load(path, read_bundle(path, {}))


def test_bisecting_takes_no_more_runs_than_it_must(tmp_path):
    model = loaded(tmp_path, "raises")
    sizes = []
    call = model._call
    model._call = lambda batch: (sizes.append(len(batch)), call(batch))[1]
    rows = run_rows(model, with_culprits(pictures(32), [13]).astype(np.float32) / 255)
    assert sorted(rows.errors) == [13]
    assert rows.bisected == 5  # 32 -> 16 -> 8 -> 4 -> 2 -> 1
    assert len(sizes) == 1 + 2 * 5
    assert rows.errors[13].reason is Reason.MODEL_ERROR


def test_a_batch_that_does_not_fit_is_halved_and_the_size_remembered(tmp_path):
    model = loaded(tmp_path, "memory")
    batch = pictures(20).astype(np.float32) / 255
    with pytest.raises(VisionError, match="out_of_memory"):
        model.run(batch)
    rows = run_rows(model, batch)
    assert not rows.errors
    assert (rows.halved, model.most_images) == (3, 2)  # 20 -> 10 -> 5 -> 2
    np.testing.assert_allclose(rows.outputs["scores"], models.scores(batch), rtol=1e-4, atol=1e-5)
    assert run_rows(model, batch).halved == 0


def test_memory_trouble_in_a_pipeline_costs_nothing(tmp_path):
    path = models.save_troubled(str(tmp_path / "m"), "memory")
    outcome, counters = run(path, encoded(pictures()), batch_size=16)
    assert len(outcome.good) == 20
    assert not outcome.failed
    assert counters["batches_halved_for_memory"] >= 1


def test_rows_of_a_wrong_number_fail_all_and_never_shift(tmp_path):
    model = loaded(tmp_path, "short")
    rows = run_rows(model, pictures(6).astype(np.float32) / 255)
    assert sorted(rows.errors) == list(range(6))
    assert {e.reason for e in rows.errors.values()} == {Reason.BAD_MODEL_OUTPUT}
    assert "shape [5, 4] for a batch of 6" in rows.errors[0].detail


def test_a_model_that_fails_on_generated_images_does_not_start(tmp_path):
    with pytest.raises(VisionError, match="bad_model_output"):
        warm_up(loaded(tmp_path, "short"))


def test_a_batch_of_nothing_but_bad_images_never_reaches_the_model(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    spec = read_bundle(path, {})
    model = load(path, spec)
    warm_up(model)
    model._call = None  # would raise if it were called
    images = [EncodedImage(ImageRef(f"k{i}", "u"), b"junk") for i in range(5)]
    results, stats = Engine(spec, EngineSettings(batch_size=4)).predict(images, model)
    assert [type(r) for r in results] == [Failure] * 5
    assert stats.batch_sizes == []
    assert [r.key for r in results] == ["k0", "k1", "k2", "k3", "k4"]


def test_an_empty_batch_gives_nothing(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    spec = read_bundle(path, {})
    assert Engine(spec, EngineSettings()).predict([], load(path, spec))[0] == []
