"""The run loop: it learns, it goes on where it was killed, it stops when it should, it keeps what it says."""

import csv
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from beam_vision import deps
from beam_vision.errors import DigestMismatch, JobError, UsageError
from beam_vision.testing.datasets import make_labelled
from beam_vision.training.classify import classify_recipe
from beam_vision.training.config import from_dict
from beam_vision.training.course import _monitor
from beam_vision.training.curves import draw_curves, nice_bounds, ticks
from beam_vision.training.examples import Examples
from beam_vision.training.job import train_job, train_recipe
from beam_vision.training.phases import Length, plan_length, plan_phases
from beam_vision.training.strategy import find_place, read_workers

SIDE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("labelled"))
    return folder, make_labelled(folder, {"train": 64, "validation": 18, "test": 18}, side_px=SIDE)


def job(dataset, **sections):
    values = {
        "data": {"dataset": dataset[0], "image_size": SIDE, "batch_size": 16},
        "model": {"embedding_dim": 8},
        "augmentation": [{"translation": 0.1}],
        "optimizer": {"learning_rate": 0.05},
        "run": {"epochs": 3, "jit": False},
    }
    for name, given_fields in sections.items():
        values[name] = (
            {**values.get(name, {}), **given_fields} if isinstance(given_fields, dict) else given_fields
        )
    return from_dict(values)


def build_tiny():
    """A model like the classifier's, in one layer: what is tested here is what goes on around it."""
    layers = deps.need("keras").layers
    deps.need("keras").utils.set_random_seed(0)
    image = deps.need("keras").Input((SIDE, SIDE, 3), dtype="uint8", name="image")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0)(image)
    x = deps.need("keras").Sequential([layers.GlobalAveragePooling2D()], name="backbone")(scaled)
    x = layers.Dropout(0.1, seed=1)(layers.BatchNormalization(momentum=0.8)(x))
    embedding = layers.UnitNormalization(name="embedding", dtype="float32")(layers.Dense(8)(x))
    scores = layers.Dense(3, activation="softmax", name="probabilities", dtype="float32")(embedding)
    return deps.need("keras").Model(image, {"probabilities": scores, "embedding": embedding})


def train_tiny(config, manifest, tell=lambda line: None):
    recipe = replace(classify_recipe(config, manifest), build=build_tiny)
    return train_recipe(config, manifest, recipe, find_place(), tell)


def weights(model):
    return np.concatenate([np.ravel(value) for value in model.get_weights() if value.dtype == np.float32])


@pytest.fixture(scope="module")
def trained(dataset, tmp_path_factory):
    """An uninterrupted run of 24 steps in epochs of 7, with all that it leaves in its folder."""
    folder = tmp_path_factory.mktemp("whole")
    lines = []
    run = {"steps": 24, "steps_per_epoch": 7, "work_dir": str(folder), "tensorboard": True, "patience": 0}
    return train_tiny(job(dataset, run=run), dataset[1], lines.append), folder, lines


def test_it_learns_and_says_how(trained):
    made, _, lines = trained
    assert made.history[-1]["loss"] < made.history[0]["loss"] / 2
    assert made.evaluation["split"] == "test"
    assert made.evaluation["images"] == 18
    assert made.metrics["test_accuracy"] == made.evaluation["accuracy"] > 0.8
    assert [row["step"] for row in made.history] == [7, 14, 21, 24]
    assert made.steps == 24
    assert "24 steps in 4 epochs" in lines[0]
    assert lines[-1] == "ended after 24 steps: all 24 steps are done"
    assert json.loads(json.dumps(made.facts))["steps"] == 24


def test_the_model_has_the_best_weights(trained, dataset):
    made, _, _ = trained
    best = min(made.history, key=lambda row: row["validation_loss"])
    assert made.best_epoch == best["number"]
    images, ids = next(
        iter(Examples(data=made.config.data, manifest=dataset[1], batch_size=18).once("validation"))
    )
    scores = np.asarray(made.model(images, training=False)["probabilities"])
    loss = -np.log(scores[np.arange(18), ids]).mean()
    assert loss == pytest.approx(best["validation_loss"], abs=1e-4)


def test_the_folder_of_a_run(trained):
    made, folder, _ = trained
    with open(folder / "history.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [7, 14, 21, 24]
    assert float(rows[-1]["loss"]) == made.history[-1]["loss"]
    assert Image.open(folder / "curves.png").size == (960, 420)
    kept = sorted(path.name for path in folder.glob("*.weights.h5"))
    assert kept == ["best.weights.h5", "step-00000024.weights.h5"]


def test_events_are_tensorboards_scalars(trained):
    made, folder, _ = trained
    tf = deps.need("tensorflow")
    found = {}
    for path in (folder / "tensorboard").rglob("events*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                assert value.metadata.plugin_data.plugin_name == "scalars"
                found[path.parent.name, value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    assert found["train", "epoch_loss", 24] == pytest.approx(made.history[-1]["loss"])
    assert found["validation", "epoch_loss", 7] == pytest.approx(made.history[0]["validation_loss"])


def start_and_kill(warm, folder, argv, at_step):
    """Runs ``train`` in a child until its folder has a checkpoint of ``at_step`` or later, and kills it."""
    child = warm.start(["-m", "beam_vision.pipelines.cli", "train", *argv])
    state = Path(folder) / "state.json"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        if state.exists() and json.loads(state.read_text())["step"] >= at_step:
            child.kill()
            child.wait(10)
            return json.loads(state.read_text())
        time.sleep(0.005)
    raise AssertionError(f"it ended by itself: {child.returncode}")


def test_a_killed_run_goes_on_at_the_step(warm, dataset, tmp_path):
    """The whole command in a process of its own, and SIGKILL, wherever that comes."""
    run = {"steps": 24, "steps_per_epoch": 7, "checkpoint_every_steps": 2, "patience": 0}
    values = job(dataset, run=run, optimizer={"learning_rate": 0.003})
    whole = train_job(values, dataset[1])
    folder = tmp_path / "work"
    path = tmp_path / "job.json"
    path.write_text(json.dumps(values.to_dict()))
    argv = ["--config", str(path), "--output", str(tmp_path / "model"), "--work_dir", str(folder)]
    at = start_and_kill(warm, folder, argv, at_step=9)
    assert 9 <= at["step"] < 24, "it was killed too late to show anything"
    lines = []
    resumed = train_job(values.replace(run={"work_dir": str(folder)}), dataset[1], lines.append)
    assert any(f"goes on at step {at['step']} of 24" in line for line in lines)
    assert resumed.steps == whole.steps == 24
    assert [row["step"] for row in resumed.history] == [7, 14, 21, 24]
    for one, other in zip(resumed.history, whole.history, strict=True):
        assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=0.02)
    np.testing.assert_allclose(weights(resumed.model), weights(whole.model), atol=2e-3)


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
def test_a_run_ended_at_any_step_goes_on_as_if_it_had_not(dataset, trained, tmp_path):
    """To the bit: order, augmentation, dropout, optimizer, averages of normalisation."""
    whole, _, _ = trained
    part = whole.config.replace(run={"work_dir": str(tmp_path), "checkpoint_every_steps": 3})
    ended = classify_recipe(part, dataset[1])
    broken = replace(ended, build=build_tiny, train=lambda step: ended.train(step).take(11))
    with pytest.raises(JobError, match="no more batches after step 11 of 24"):
        train_recipe(part, dataset[1], broken, find_place())
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 10
    resumed = train_tiny(part, dataset[1])
    assert [row["loss"] for row in resumed.history[2:]] == [row["loss"] for row in whole.history[2:]]
    np.testing.assert_array_equal(weights(resumed.model), weights(whole.model))


def test_a_run_that_is_over_is_not_run_again(trained, dataset):
    made, _, _ = trained
    lines = []
    again = train_tiny(made.config, dataset[1], lines.append)
    assert again.history == made.history
    assert not [line for line in lines if line.startswith("epoch")]
    np.testing.assert_array_equal(weights(again.model), weights(made.model))


def test_another_jobs_folder_is_refused(trained, dataset):
    made, _, _ = trained
    with pytest.raises(DigestMismatch, match=r"holds another job's run"):
        train_tiny(made.config.replace(run={"seed": 5}), dataset[1])


def test_a_loss_that_is_no_number_stops_the_run(dataset):
    huge = job(dataset, optimizer={"name": "sgd", "learning_rate": 1e30}, schedule={"name": "constant"})
    with pytest.raises(JobError, match=r"no longer a finite number .* at step \d+ .* lower optimizer"):
        train_tiny(huge, dataset[1])


def test_it_stops_when_nothing_gets_better(dataset):
    still = job(dataset, optimizer={"learning_rate": 1e-12}, run={"patience": 2})
    made = train_tiny(
        still.replace(run={"steps_per_epoch": 1, "monitor": "val_accuracy", "epochs": 30}), dataset[1]
    )
    assert made.stopped == "validation_accuracy was no better for 2 epochs"
    assert made.steps == made.best_epoch + 2 < 30


def test_time_ends_a_run(dataset):
    made = train_tiny(job(dataset, run={"epochs": 500, "max_seconds": 0.5}), dataset[1])
    assert made.stopped == "its 0.5 seconds are over"
    assert made.history[-1]["learning_rate"] < 0.05 * 0.9


def test_an_unknown_figure_is_refused(dataset):
    with pytest.raises(JobError, match=r"run.monitor 'validation_f1' is none of the run's figures: .*loss"):
        train_tiny(job(dataset, run={"monitor": "val_f1", "epochs": 1}), dataset[1])


def test_several_labels_an_image(tmp_path):
    folder = str(tmp_path / "several")
    several = folder, make_labelled(folder, {"train": 64, "test": 30}, side_px=SIDE, several=True)
    made = train_job(job(several, run={"epochs": 6}), several[1])
    assert made.multi_label
    assert made.evaluation["f1"] > 0.6
    assert made.metrics["test_f1"] == made.evaluation["f1"]
    with pytest.raises(UsageError, match="several labels"):
        train_job(job(several, model={"multi_label": False}), several[1])


def test_mixed_precision_gives_a_float32_model(dataset):
    made = train_tiny(job(dataset, run={"mixed_precision": True, "epochs": 2}), dataset[1])
    assert {layer.dtype_policy.compute_dtype for layer in made.model.layers} <= {"float32", "uint8"}
    assert deps.need("keras").mixed_precision.dtype_policy().name == "float32"
    assert made.metrics["test_loss"] < 1.2


@pytest.mark.parametrize("cache_bytes", [2**30, 0])
def test_batches_from_a_step_are_those_of_the_whole(dataset, cache_bytes):
    data = job(dataset, data={"cache_bytes": cache_bytes}).data
    examples = Examples(data=data, manifest=dataset[1], batch_size=24, seed=3)
    assert examples.steps_per_pass == 3
    whole = list(examples.endless().take(9).as_numpy_iterator())
    for first in (2, 4, 7):
        from_there = examples.endless(first).take(2).as_numpy_iterator()
        for ours, theirs in zip(from_there, whole[first:], strict=False):
            np.testing.assert_array_equal(ours[0], theirs[0])
            np.testing.assert_array_equal(ours[1], theirs[1])
    passes = [[image.tobytes() for batch in whole[i : i + 3] for image in batch[0]] for i in (0, 3)]
    assert sorted(passes[0]) == sorted(passes[1])
    assert len(set(passes[0])) == 64
    assert passes[0] != passes[1], "each pass has its own order"


def test_images_without_a_label_are_left_out(tmp_path):
    folder = str(tmp_path / "some")
    manifest = make_labelled(folder, {"train": 10}, side_px=SIDE, unlabelled=7)
    examples = Examples(data=job((folder, manifest)).data, manifest=manifest, batch_size=4)
    assert examples.steps_per_pass == 3
    seen = [int(one) for _, ids in examples.endless().take(3).as_numpy_iterator() for one in ids]
    assert sorted(seen) == sorted(i % 3 for i in range(10))


def test_too_few_images_for_the_replicas(dataset):
    examples = Examples(data=job(dataset).data, manifest=dataset[1], batch_size=65, whole_batches=True)
    with pytest.raises(UsageError, match=r"64 images, fewer than the 65"):
        _ = examples.steps_per_pass


@given(st.integers(1, 200), st.integers(1, 40), st.integers(0, 220))
def test_phases_do_each_step_once(steps, each, done):
    length = Length(steps, each)
    at = done
    for phase in plan_phases(length, done):
        assert phase.first_step == at
        for epoch in range(phase.first_epoch, phase.end_epoch):
            assert at // each == epoch
            at += phase.steps
            assert at == length.steps or at % each == 0
    assert at == max(steps, done)
    assert length.epochs == math.ceil(steps / each)


def test_length():
    assert plan_length(10, epochs=3) == Length(30, 10)
    assert plan_length(10, epochs=3, steps_per_epoch=4) == Length(12, 4)
    assert plan_length(10, epochs=3, steps=25) == Length(25, 10)


def test_strategies(monkeypatch):
    place = find_place()
    assert (place.name, place.replicas, place.chief) == ("one_device", 1, True)
    assert "no GPU found" in place.words
    with pytest.raises(UsageError, match="needs TF_CONFIG"):
        find_place("multi_worker")
    with pytest.raises(UsageError, match="no TPU named"):
        find_place("tpu")
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(UsageError, match="TF_CONFIG must be JSON"):
        find_place()


def test_workers():
    cluster = {"chief": ["a:1"], "worker": ["b:1", "c:1"], "ps": ["d:1"]}
    chief = read_workers(json.dumps({"cluster": cluster, "task": {"type": "chief", "index": 0}}))
    assert (chief.number, chief.is_chief) == (3, True)
    worker = read_workers(json.dumps({"cluster": cluster, "task": {"type": "worker", "index": 0}}))
    assert not worker.is_chief
    first = read_workers('{"cluster": {"worker": ["a", "b"]}, "task": {"type": "worker", "index": 0}}')
    assert first.is_chief


def test_monitors():
    assert _monitor("auto", True) == "validation_loss"
    assert _monitor("auto", False) == ""
    assert _monitor("val_accuracy", True) == "validation_accuracy"
    assert _monitor("loss", True) == "loss"


def test_curves_of_few_and_of_odd_epochs():
    rows = [{"number": 1, "loss": 1.0}, {"number": 2, "loss": float("nan"), "accuracy": None}]
    for some in ([], rows[:1], rows):
        assert draw_curves(some).startswith(b"\x89PNG")
    plain = draw_curves([{"number": n, "loss": 1 / n} for n in (1, 2, 3)])
    assert plain != draw_curves([{"number": n, "loss": 1 / n} for n in (1, 2, 3)], best_epoch=2)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_bounds_hold_the_values(one, other):
    low, high = nice_bounds(min(one, other), max(one, other))
    assert low <= min(one, other) <= max(one, other) <= high
    assert low < high


def test_ticks_are_round_and_even():
    assert ticks(0.4, 1.0) == pytest.approx([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
    assert ticks(1, 12, least=1.0) == [2, 4, 6, 8, 10, 12]
    assert ticks(1, 3, least=1.0) == [1, 2, 3]
    assert ticks(1, 1, least=1.0) == [1]


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_ticks_lie_within_the_bounds(one, other):
    low, high = nice_bounds(min(one, other), max(one, other))
    found = ticks(low, high)
    slack = 1e-6 * (high - low)
    assert 2 <= len(found) <= 7
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_a_job_needs_two_classes(tmp_path):
    folder = str(tmp_path / "one")
    manifest = make_labelled(folder, {"train": 4}, side_px=SIDE, labels=("red",))
    with pytest.raises(UsageError, match="one class only"):
        train_job(job((folder, manifest)), manifest)
