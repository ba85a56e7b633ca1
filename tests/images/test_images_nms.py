"""Suppression against plain loops that follow the papers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.images import nms as module
from beam_vision.images.nms import SOFT_METHODS, nms, soft_nms

NONE = np.zeros((0, 4), np.float32)


def overlap(a, b):
    """IoU of two boxes by whole numbers."""
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) - width * height
    return width * height / union if union else 0.0


def loop_nms(boxes, scores, classes, threshold):
    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], i))
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        left = [i for i in left if classes[i] != classes[best] or overlap(boxes[best], boxes[i]) <= threshold]
    return kept


def loop_soft_nms(boxes, scores, classes, method, threshold, sigma, score_threshold):
    left, scores = set(range(len(boxes))), list(scores)
    kept = []
    while left:
        best = max(left, key=lambda i: (scores[i], -i))
        left.remove(best)
        kept.append(best)
        for i in left:
            if classes[i] == classes[best]:
                common = overlap(boxes[best], boxes[i])
                if method == "gaussian":
                    scores[i] *= np.exp(-common * common / sigma)
                elif common > threshold:
                    scores[i] *= 1 - common
    kept = [i for i in kept if scores[i] >= score_threshold]
    kept.sort(key=lambda i: (-scores[i], i))
    return kept, [scores[i] for i in kept]


@st.composite
def detections(draw):
    """Boxes on a small grid, so that many overlap, coincide or are without area; scores with ties."""
    count = draw(st.integers(0, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    low = rng.integers(0, 8, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 9, (count, 2))], axis=1)
    scores = rng.integers(0, 9, count) / 8
    return boxes, scores, rng.integers(0, draw(st.integers(1, 4)), count)


thresholds = st.sampled_from([0.0, 0.3, 0.5, 0.6, 0.7, 1.0])
floats = st.sampled_from([np.float32, np.float64])
mosts = st.none() | st.integers(1, 6)


@given(detections(), thresholds, floats, mosts, st.sampled_from([1, 3, 256]))
def test_nms_is_the_greedy_loop(found, threshold, dtype, most, block):
    boxes, scores, classes = found
    before, module._BLOCK_BOXES = module._BLOCK_BOXES, block
    try:
        kept = nms(
            boxes.astype(dtype), scores.astype(dtype), classes, iou_threshold=threshold, max_detections=most
        )
    finally:
        module._BLOCK_BOXES = before
    assert kept.dtype == np.int64
    assert kept.tolist() == loop_nms(boxes.tolist(), scores, classes, threshold)[:most]


@given(
    detections(),
    st.sampled_from(SOFT_METHODS),
    thresholds,
    st.sampled_from([0.1, 0.5]),
    st.sampled_from([0, 0.05, 0.3]),
    mosts,
    st.sampled_from([0, 1024]),
)
def test_soft_nms_is_the_loop_of_the_paper(found, method, threshold, sigma, score_threshold, most, matrix):
    boxes, scores, classes = found
    options = {"iou_threshold": threshold, "sigma": sigma, "score_threshold": score_threshold}
    before, module._MATRIX_BOXES = module._MATRIX_BOXES, matrix
    try:
        kept, new = soft_nms(boxes, scores, classes, method=method, max_detections=most, **options)
    finally:
        module._MATRIX_BOXES = before
    expected, expected_new = loop_soft_nms(
        boxes.tolist(), scores, classes, method, threshold, sigma, score_threshold
    )
    np.testing.assert_allclose(new, expected_new[:most], rtol=1e-12, atol=1e-15)
    by_score = dict(zip(expected, expected_new, strict=True))
    np.testing.assert_allclose(new, [by_score[i] for i in kept], rtol=1e-12, atol=1e-15)
    assert len(set(kept.tolist())) == len(kept)


def test_soft_nms_by_hand():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 4], [50, 50, 60, 60]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32)
    kept, new = soft_nms(boxes, scores, method="linear", iou_threshold=0.5)
    assert kept.tolist() == [0, 2, 1, 3]  # 0.8 overlaps 0.9 by 0.8: 0.16; 0.7 overlaps it by 0.4 only
    np.testing.assert_allclose(new, [0.9, 0.7, 0.8 * 0.2, 0.1], rtol=1e-6)
    assert new.dtype == np.float32
    kept, new = soft_nms(boxes, scores, method="gaussian", sigma=0.5)
    assert kept.tolist() == [0, 2, 1, 3]
    expected = [0.9, 0.7 * np.exp(-0.32), 0.8 * np.exp(-1.28) * np.exp(-0.5), 0.1]
    np.testing.assert_allclose(new, expected, rtol=1e-6)


def test_an_overlap_of_exactly_the_threshold_is_kept():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 6]]  # 0.6 is rounded up in single precision
    for dtype in (np.float32, np.float64, np.int64):
        assert nms(np.array(boxes, dtype), [0.9, 0.8], iou_threshold=0.6).tolist() == [0, 1]
        assert nms(np.array(boxes, dtype), [0.9, 0.8], iou_threshold=0.599).tolist() == [0]


def test_nothing_gives_nothing():
    for boxes in (NONE, [], np.zeros((0, 4))):
        assert nms(boxes, []).tolist() == []
        assert nms(boxes, np.zeros(0), np.zeros(0, np.int64)).dtype == np.int64
        kept, new = soft_nms(boxes, np.zeros(0, np.float32))
        assert (kept.tolist(), new.tolist(), new.dtype) == ([], [], np.float32)


@pytest.mark.parametrize("suppress", [nms, lambda *args: soft_nms(*args)[0]])
def test_what_is_not_finite_is_never_kept_and_suppresses_nothing(suppress):
    box = [0, 0, 10, 10]
    boxes = np.array([box, box, [0, 0, np.inf, 10], [np.nan, 0, 10, 10], box, [0, 0, 5, 2]], np.float32)
    scores = np.array([np.nan, 0.5, 0.9, 0.9, np.inf, 0.4])
    assert suppress(boxes, scores).tolist()[:2] == [1, 5]
    assert suppress(boxes[:1], scores[:1]).tolist() == []


def test_boxes_without_area_overlap_nothing_and_one_class_is_the_default():
    flat = [[3, 3, 3, 9], [3, 3, 3, 9], [9, 9, 2, 2]]
    assert nms(flat, [0.5, 0.5, 0.6], iou_threshold=0).tolist() == [2, 0, 1]
    box = [[0, 0, 4, 4], [0, 0, 4, 4]]
    assert nms(box, [0.1, 0.2]).tolist() == [1]
    assert nms(box, [0.1, 0.2], ["cat", "dog"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nms([[0, 0, 1, 1]], [0.5, 0.5]), "don't belong together"),
        (lambda: nms([[0, 0, 1, 1]], [0.5], [1, 2]), "don't belong together"),
        (lambda: nms([[0, 0, 1]], [0.5]), "don't belong together"),
        (lambda: nms(NONE, [], iou_threshold=1.5), "iou_threshold is 1.5"),
        (lambda: nms(NONE, [], iou_threshold=float("nan")), "iou_threshold is nan"),
        (lambda: nms(NONE, [], max_detections=0), "max_detections is 0"),
        (lambda: soft_nms(NONE, [], method="hard"), "linear, gaussian"),
        (lambda: soft_nms(NONE, [], method="gaussian", sigma=0), "sigma is 0"),
        (lambda: soft_nms(NONE, [], score_threshold=-1), "score_threshold is -1"),
    ],
)
def test_mistakes_of_the_caller_are_named(call, words):
    with pytest.raises(UsageError, match=words):
        call()
