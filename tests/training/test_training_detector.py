"""The detector: what it is asked for, its loss, its peaks; that it learns, and leaves a bundle that runs."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf

from beam_vision.errors import UsageError
from beam_vision.training.detector import HEAT, SIDES, STRIDE_PX, build_detector
from beam_vision.training.detector_export import (
    BOXES,
    CLASSES,
    COUNT,
    LEAST_SCORE,
    SCORES,
    export_detector,
    find_peaks,
)
from beam_vision.training.detector_fit import fit_detector, recoloured, shifted
from beam_vision.training.detector_loss import Targets, generalised_iou, loss, targets
from beam_vision.training.fit import FitSettings

ROWS, COLUMNS, NUMBER = 6, 8, 3


def batch(*images):
    """Boxes and classes of images given as lists of ``(xmin, ymin, xmax, ymax, class)``."""
    most = max(map(len, images))
    boxes = np.zeros((len(images), most, 4), np.float32)
    classes = np.full((len(images), most), -1, np.int64)
    for i, found in enumerate(images):
        for j, (*box, class_id) in enumerate(found):
            boxes[i, j], classes[i, j] = box, class_id
    return boxes, classes


def asked(*images):
    found = targets(*map(tf.constant, batch(*images)), rows=ROWS, columns=COLUMNS, number=NUMBER)
    return Targets(*(each.numpy() for each in found))


def test_targets_of_one_object():
    found = asked([(8, 4, 36, 40, 1)], [])
    assert found.heat.shape == (2, ROWS, COLUMNS, NUMBER)
    assert np.argwhere(found.heat == 1).tolist() == [[0, 22 // STRIDE_PX, 22 // STRIDE_PX, 1]]
    assert (found.heat[..., [0, 2]] == 0).all()
    assert (found.heat[1] == 0).all()
    assert (found.weight[1] == 0).all()
    assert found.sides[0, 2, 2].tolist() == [20 - 8, 20 - 4, 36 - 20, 40 - 20]
    assert found.weight[0, 2, 2] == 1
    assert 0 < found.heat[0, 2, 3, 1] < 1


def test_two_objects_each_have_their_cells():
    found = asked([(0, 0, 16, 16, 0), (40, 24, 64, 48, 2)])
    assert sorted(np.argwhere(found.heat == 1).tolist()) == [[0, 1, 1, 0], [0, 4, 6, 2]]
    assert found.sides[0, 1, 1].tolist() == [12, 12, 4, 4]
    assert found.sides[0, 4, 6].tolist() == [12, 12, 12, 12]
    learn = found.weight > 0
    assert (found.sides[learn] > 0).all()


def test_sides_and_heat_of_targets_decode_to_the_boxes():
    """What a perfect model would say, through the decoding that is exported."""
    truth = [(8, 4, 36, 40, 1), (40, 24, 64, 48, 2), (3, 30, 21, 47, 0)]
    found = asked(truth)
    logits = np.log(np.clip(found.heat, 1e-6, 1 - 1e-6) / (1 - np.clip(found.heat, 1e-6, 1 - 1e-6)))
    out = find_peaks(tf.constant(logits, tf.float32), tf.constant(found.sides))
    size = np.array([COLUMNS, ROWS, COLUMNS, ROWS]) * STRIDE_PX
    best = {
        int(class_id): (box[[1, 0, 3, 2]] * size).round(3).tolist()
        for box, class_id in zip(out[BOXES][0].numpy()[:3], out[CLASSES][0].numpy()[:3], strict=True)
    }
    assert best == {class_id + 1: list(box) for *box, class_id in truth}


def test_the_loss_is_least_for_what_is_asked():
    found = targets(*map(tf.constant, batch([(8, 4, 36, 40, 1)])), rows=ROWS, columns=COLUMNS, number=NUMBER)
    perfect = tf.where(found.heat >= 0.999, 12.0, -12.0)
    best = float(loss(perfect, found.sides, found))
    assert best < 0.01
    assert float(loss(-perfect, found.sides, found)) > 10
    assert float(loss(perfect, found.sides + 5, found)) > best + 0.2
    away = tf.where((found.weight > 0)[..., None], found.sides, 99.0)
    assert float(loss(perfect, away, found)) == pytest.approx(best)


def test_generalised_iou_by_hand():
    def of(a, b):
        return float(generalised_iou(tf.constant(a, tf.float32), tf.constant(b, tf.float32)))

    assert of([1, 1, 1, 1], [1, 1, 1, 1]) == pytest.approx(1)
    assert of([1, 1, 1, 1], [2, 2, 2, 2]) == pytest.approx(4 / 16)
    assert of([1, 1, 1, 1], [1, 1, 3, 1]) == pytest.approx(4 / 8)
    assert of([2, 1, 2, 1], [1, 2, 1, 2]) == pytest.approx(4 / 12 - (16 - 12) / 16)


def test_peaks_leave_out_neighbours_and_order_by_score():
    heat = np.full((1, 4, 5, 2), -9.0, np.float32)
    heat[0, 1, 1, 0], heat[0, 1, 2, 0], heat[0, 3, 4, 1] = 2.0, 1.0, 3.0
    sides = np.full((1, 4, 5, 4), 100.0, np.float32)
    out = {name: value.numpy() for name, value in find_peaks(tf.constant(heat), tf.constant(sides)).items()}
    assert out[COUNT].tolist() == [2]
    assert out[CLASSES][0, :2].tolist() == [2, 1]
    assert out[SCORES][0, :2] == pytest.approx([1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-2))], rel=1e-5)
    assert (out[SCORES][0, 2:] < LEAST_SCORE).all()
    assert out[BOXES][0, 0].tolist() == [0, 0, 1, 1]
    assert out[BOXES].shape == (1, 40, 4)


def test_changes_of_a_batch_keep_boxes_on_their_objects():
    tf.random.set_seed(3)
    images = np.zeros((2, 32, 48, 3), np.uint8)
    images[:, 10:20, 12:30] = (250, 130, 20)
    boxes = tf.constant([[[12, 10, 30, 20]]] * 2, tf.float32)
    places = set()
    for _ in range(10):
        moved, at = shifted(tf.constant(images), boxes)
        lit = recoloured(moved).numpy().max(axis=3) > 170
        for one, box in zip(lit, at.numpy()[:, 0], strict=True):
            rows, columns = np.nonzero(one)
            assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == box.tolist()
            places.add(tuple(box))
    assert len(places) > 4


@pytest.mark.parametrize(("size", "classes"), [((60, 64), 3), ((0, 64), 3), ((64, 64), 0)])
def test_inputs_that_do_not_fit(size, classes):
    with pytest.raises(UsageError):
        build_detector(*size, classes)


@pytest.fixture(scope="module")
def trained():
    """A detector of bright and dark squares on gray."""
    rng = np.random.default_rng(0)
    images = np.full((48, 32, 32, 3), 120, np.uint8)
    found = []
    for image in images:
        side = int(rng.integers(10, 18))
        x, y = (int(value) for value in rng.integers(0, 32 - side, 2))
        class_id = int(rng.integers(2))
        image[y : y + side, x : x + side] = 250 if class_id else 10
        found.append([(x, y, x + side, y + side, class_id)])
    boxes, classes = batch(*found)
    data = tf.data.Dataset.from_tensor_slices((images, boxes, classes)).batch(8)
    model = build_detector(32, 32, 2, seed=1)
    epochs = fit_detector(model, data, FitSettings(epochs=24, learning_rate=5e-3), steps=6)
    return model, epochs, (images, boxes, classes)


@pytest.mark.slow
def test_it_learns_squares(trained):
    model, epochs, (images, boxes, classes) = trained
    assert len(epochs) == 24
    assert epochs[-1].loss < 0.3 * epochs[0].loss
    found = model(images, training=False)
    out = {name: value.numpy() for name, value in find_peaks(found[HEAT], found[SIDES]).items()}
    off = np.abs(out[BOXES][:, 0][:, [1, 0, 3, 2]] * 32 - boxes[:, 0]).max(axis=1)
    assert (out[CLASSES][:, 0] - 1 == classes[:, 0]).mean() > 0.9
    assert (off < 4).mean() > 0.8


@pytest.mark.slow
def test_its_bundle_says_all_that_predict_needs(trained, tmp_path):
    from beam_vision.inference import bundle, loader

    model, _, (images, *_) = trained
    spec = export_detector(model, str(tmp_path / "model"), labels=["dark", "bright"], training={"a": 1})
    assert spec == bundle.read_bundle(str(tmp_path / "model"))
    assert (spec.task, spec.detector, spec.class_offset, spec.box_format) == (
        "detect",
        "tf_od",
        1,
        "rel_yxyx",
    )
    assert spec.labels == ("dark", "bright")
    run = loader.load(str(tmp_path / "model"), spec).run(images[:3])
    found = model(images[:3], training=False)
    wanted = find_peaks(found[HEAT], found[SIDES])
    assert set(run) >= {BOXES, SCORES, CLASSES, COUNT}
    np.testing.assert_allclose(run[BOXES], wanted[BOXES], atol=1e-4)
    np.testing.assert_allclose(run[SCORES], wanted[SCORES], atol=1e-4)


def test_it_ends_when_its_time_is_over():
    model = build_detector(16, 16, 1)
    boxes, classes = batch(*[[(2, 2, 12, 12, 0)]] * 4)
    data = tf.data.Dataset.from_tensors((np.zeros((4, 16, 16, 3), np.uint8), boxes, classes)).repeat(500)
    epochs = fit_detector(model, data, FitSettings(epochs=1000, max_seconds=0.5), steps=500)
    assert len(epochs) < 100
