"""The RetinaNet: its anchors, losses and boxes; that it learns, and leaves a bundle that runs."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from beam_vision.errors import UsageError
from beam_vision.inference.anchors import retinanet_anchors
from beam_vision.training.config import DetectorConfig, LossConfig, ModelConfig, from_dict
from beam_vision.training.detect import measure_detector
from beam_vision.training.retinanet import (
    BOXES,
    LOGITS,
    anchors_px,
    build_retinanet,
    last_level,
    plain_network,
    rate_multipliers,
)
from beam_vision.training.retinanet_anchors import boxes_in, choose_anchor_size, share_met
from beam_vision.training.retinanet_backbone import level_maps
from beam_vision.training.retinanet_export import BOXES as FOUND
from beam_vision.training.retinanet_export import (
    CLASSES,
    COUNT,
    SCORES,
    export_retinanet,
    find_boxes,
    serving,
)
from beam_vision.training.retinanet_loss import compile_retinanet, focal_losses, smooth_l1

SIDE = 32
CONFIG = DetectorConfig(anchor_size=2.0, head_layers=1)
LABELS = ("dark", "bright", "neither")


def small_network(name="compact", side=SIDE, **more):
    from beam_vision.training.architectures import build_backbone

    return build_backbone(ModelConfig(architecture=name, **more), side, seed=0)


@pytest.fixture(scope="module")
def untrained():
    return build_retinanet(small_network(), 3, config=CONFIG, seed=1)


def squares(number=16, seed=0):
    """Images with a dark or a bright square on gray, and their boxes."""
    rng = np.random.default_rng(seed)
    images = np.full((number, SIDE, SIDE, 3), 120, np.uint8)
    boxes, labels = np.zeros((number, 3, 4), np.float32), np.full((number, 3), -1, np.int64)
    for i, image in enumerate(images):
        side = int(rng.integers(14, 20))
        x, y = (int(value) for value in rng.integers(0, SIDE - side, 2))
        labels[i, 0] = rng.integers(2)
        image[y : y + side, x : x + side] = 250 if labels[i, 0] else 10
        boxes[i, 0] = (x, y, x + side, y + side)
    return images, {"boxes": boxes, "labels": labels}


def test_anchors_are_those_that_the_papers_settings_give():
    for side in (64, 256):
        np.testing.assert_array_equal(anchors_px(side, 4.0, 7), retinanet_anchors(side, side))


@pytest.mark.parametrize(
    ("side", "asked", "deepest", "level"),
    [(64, None, 5, 5), (512, None, 5, 7), (256, None, 5, 6), (64, 7, 5, 7), (512, None, 4, 4)],
)
def test_the_last_level_is_the_last_whose_anchors_fit(side, asked, deepest, level):
    assert last_level(side, DetectorConfig(anchor_size=4.0, max_level=asked), deepest) == level


def test_a_network_that_ends_early_has_no_further_levels():
    with pytest.raises(UsageError, match="ends at level 4"):
        last_level(64, DetectorConfig(anchor_size=4.0, max_level=6), 4)


def test_the_anchor_size_is_chosen_by_the_boxes():
    def of(side):
        return np.array([[x, x, x + side, x + side] for x in range(0, 30, 3)], np.float32)

    def anchors(size):
        return anchors_px(64, size, 5)

    assert choose_anchor_size(of(32), anchors) == (4.0, 1.0)
    small, share = choose_anchor_size(of(12), anchors)
    assert small < 3
    assert share > share_met(of(12), anchors(4.0))
    assert choose_anchor_size(np.zeros((0, 4)), anchors) == (4.0, 1.0)


def test_boxes_of_batches_leave_out_what_is_none():
    images, truth = squares(4)
    truth["labels"][1] = -1
    assert boxes_in([(images, truth)] * 3).shape == (9, 4)
    assert boxes_in([(images, truth)] * 3, most=4).shape == (6, 4)


def test_focal_loss_by_hand():
    truth, p = np.array([[1.0, 0.0, 0.0]]), np.array([0.8, 0.3, 0.01])
    found = focal_losses(truth, np.log(p / (1 - p))[None], alpha=0.25, gamma=2.0)
    wanted = -0.25 * 0.2**2 * np.log(0.8) - 0.75 * (0.3**2 * np.log(0.7) + 0.01**2 * np.log(0.99))
    assert float(found[0]) == pytest.approx(wanted, rel=1e-5)
    entropy = focal_losses(truth, np.log(p / (1 - p))[None], alpha=0.5, gamma=0.0)
    assert float(entropy[0]) == pytest.approx(-0.5 * np.log([0.8, 0.7, 0.99]).sum(), rel=1e-5)
    assert np.isfinite(focal_losses(truth, np.array([[-500.0, 500.0, 0.0]]), alpha=0.25, gamma=0.5)).all()


def test_smooth_l1_by_hand():
    found = smooth_l1(np.zeros((1, 4)), np.array([[0.05, -0.1, 1.0, -2.0]]), beta=0.1)
    assert float(found[0]) == pytest.approx(0.0125 + 0.05 + 0.95 + 1.95, rel=1e-6)


def test_levels_of_networks():
    for name, levels in (("compact", {"P3": 8, "P4": 4}), ("mobilenet_v2_035", {"P3": 8, "P4": 4, "P5": 2})):
        network = small_network(name, 64)
        inner = next(layer for layer in network.layers if isinstance(layer, keras.Model))
        maps = level_maps(inner)
        assert {level: shape.shape[1] for level, shape in maps.items()} == levels
        assert all(shape.shape[3] > 30 for shape in maps.values())


@pytest.mark.parametrize(
    ("name", "side", "message"),
    [("compact", 40, "the nearest is 32"), ("vit_micro_patch8", 64, "no feature maps at P3, P4")],
)
def test_networks_and_sizes_that_do_not_fit(name, side, message):
    network = small_network(name, side)
    with pytest.raises(UsageError, match=message):
        build_retinanet(network, 2, config=CONFIG)


def test_an_untrained_model_expects_nothing_anywhere(untrained):
    out = untrained(squares(2)[0])
    anchors = anchors_px(SIDE, 2.0, 4)
    assert out[BOXES].shape == (2, len(anchors), 4)
    assert out[LOGITS].shape == (2, len(anchors), 3)
    np.testing.assert_allclose(tf.sigmoid(out[LOGITS]), 0.01, atol=0.004)
    np.testing.assert_allclose(out[BOXES], 0, atol=0.5)


def test_the_same_seed_gives_the_same_weights(untrained):
    again = build_retinanet(small_network(), 3, config=CONFIG, seed=1)
    for mine, theirs in zip(untrained.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_rates_of_the_network_and_of_the_rest(untrained):
    rates = rate_multipliers(untrained, 0.1)
    slow = sum(
        v.shape.num_elements() for v, r in zip(untrained.trainable_variables, rates, strict=True) if r < 1
    )
    network = sum(v.shape.num_elements() for v in small_network().trainable_variables)
    assert 0.3 * network < slow <= network
    assert rates.count(1.0) > 8
    frozen = build_retinanet(small_network(freeze="backbone"), 3, config=CONFIG)
    assert set(rate_multipliers(frozen, 0.1)) == {1.0}


def test_boxes_come_out_where_they_were_put():
    """What a perfect model would say, decoded: the inverse of what KerasHub's encoder asks for."""
    anchors = anchors_px(SIDE, 2.0, 4)
    box = np.array([6.0, 9.0, 22.0, 27.0], np.float32)
    middle, size = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    offsets = np.concatenate(
        [((box[:2] + box[2:]) / 2 - middle) / size, np.log((box[2:] - box[:2]) / size)], 1
    )
    logits = np.full((1, len(anchors), 3), -9.0, np.float32)
    logits[0, 5, 2], logits[0, 9, 2], logits[0, 7, 0] = 3.0, 2.0, 1.0
    out = find_boxes({BOXES: offsets[None].astype(np.float32), LOGITS: logits}, anchors, SIDE, CONFIG)
    assert float(out[COUNT][0]) == 2  # that of 9 is suppressed by that of 5; 7 is of another class
    assert out[CLASSES][0, :2].numpy().tolist() == [3, 1]
    np.testing.assert_allclose(out[SCORES][0, :2], 1 / (1 + np.exp([-3.0, -1.0])), rtol=1e-5)
    for found in out[FOUND][0, :2].numpy():
        np.testing.assert_allclose(found[[1, 0, 3, 2]] * SIDE, box, atol=1e-3)


def test_fields_of_a_job_reach_it():
    job = from_dict({"task": "detect", "detector": {"anchor_size": 3, "head_norm": True}})
    assert (job.detector.anchor_size, job.detector.head_norm) == (3.0, True)
    with pytest.raises(UsageError, match="anchor_size"):
        from_dict({"detector": {"anchor_sizes": 3}})


@pytest.fixture(scope="module")
def trained():
    images, truth = squares()
    model = build_retinanet(small_network(), 3, config=CONFIG, seed=1)
    compile_retinanet(
        model, keras.optimizers.Adam(2e-3, clipnorm=10.0), CONFIG, LossConfig(), jit_compile=False
    )
    data = tf.data.Dataset.from_tensor_slices((images, truth)).batch(8).cache()
    history = model.fit(data.repeat(), epochs=3, steps_per_epoch=20, shuffle=False, verbose=0)
    return model, history.history, data


@pytest.mark.slow
def test_it_learns_squares(trained):
    model, history, data = trained
    assert history["loss"][-1] < 0.3 * history["loss"][0]
    found = measure_detector(model, data, LABELS, CONFIG)
    assert found["images"] == 16
    assert found["AP50"] > 0.7
    blank = [(images, {**truth, "boxes": truth["boxes"] * 0.3}) for images, truth in data]
    assert measure_detector(model, blank, LABELS, CONFIG)["AP50"] < 0.2


@pytest.mark.slow
def test_images_without_boxes_leave_the_loss_finite(trained):
    model, _, data = trained
    images, truth = next(iter(data))
    none = {"boxes": tf.zeros_like(truth["boxes"]), "labels": -tf.ones_like(truth["labels"])}
    some = {name: tf.concat([truth[name][:4], none[name][4:]], 0) for name in none}
    for each in (none, some):
        assert np.isfinite(model.evaluate(images, each, verbose=0, batch_size=8)).all()


@pytest.mark.slow
def test_its_bundle_says_all_that_predict_needs(trained, tmp_path):
    from beam_vision.inference import bundle, loader

    model, _, data = trained
    images, _ = next(iter(data))
    folder = str(tmp_path / "model")
    spec = export_retinanet(
        model, folder, labels=LABELS, config=CONFIG, training={"a": 1}, resize="letterbox", keras_too=True
    )
    assert spec == bundle.read_bundle(folder)
    assert (spec.task, spec.detector, spec.box_format) == ("detect", "tf_od", "rel_yxyx")
    assert (spec.labels, spec.resize, spec.value_range) == (LABELS, "letterbox", "0..255")
    run = loader.load(folder, spec).run(images.numpy())
    wanted = serving(model, CONFIG)(images)
    for name in (FOUND, SCORES, CLASSES, COUNT):
        np.testing.assert_allclose(run[name], wanted[name], atol=1e-4)
    again = keras.models.load_model(os.path.join(folder, "keras", "model.keras"))
    np.testing.assert_allclose(again(images)[LOGITS], model(images)[LOGITS], atol=1e-4)


@pytest.mark.slow
def test_the_plain_network_is_the_same(trained):
    model, _, data = trained
    images, _ = next(iter(data))
    normed = build_retinanet(
        small_network(), 2, config=dataclasses.replace(CONFIG, head_norm=True, head_layers=2)
    )
    for each in (model, normed):
        plain = plain_network(each)
        assert plain.input.dtype == "uint8"
        for name, wanted in each(images).items():
            np.testing.assert_allclose(plain(images)[name], wanted, atol=1e-5)
