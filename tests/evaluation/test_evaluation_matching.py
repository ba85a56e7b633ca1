"""Matching against pycocotools' own loops and IoU; curves' cuts against counting; pictures' marks."""

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.evaluation.images import EvaluatedImage, evaluate, place_of, tallies
from beam_vision.evaluation.marking import IMAGES_A_CLASS, Worst, mark, pictures
from beam_vision.evaluation.matching import assign, corners_of, crowd_iou
from beam_vision.evaluation.summary import CUTS, best_cut, class_metrics
from beam_vision.evaluation.tally import curves_of, merge
from beam_vision.types import Box


def loops(ious, counts, crowd, thresholds):
    """``COCOeval.evaluateImg``, word by word: truths that count first, and a free one or a crowd is taken."""
    taken = np.full((len(counts), len(thresholds), len(ious)), -1)
    for a, counted in enumerate(counts):
        order = np.argsort(~counted, kind="mergesort")
        for t, threshold in enumerate(thresholds):
            used = set()
            for d in range(len(ious)):
                best, found = min(threshold, 1 - 1e-10), -1
                for g in order:
                    if g in used and not crowd[g]:
                        continue
                    if found > -1 and counted[found] and not counted[g]:
                        break
                    if ious[d, g] < best:
                        continue
                    best, found = ious[d, g], g
                if found > -1:
                    taken[a, t, d] = found
                    used.add(found)
    return taken


@given(st.integers(0, 10**9))
def test_assign_does_what_pycocotools_loops_do(seed):
    rng = np.random.default_rng(seed)
    detections, truths = rng.integers(0, 9), rng.integers(0, 7)
    ious = rng.choice([0, 0.5, 0.55, 0.7, 0.75, 0.95, 1.0], (detections, truths))
    crowd = rng.random(truths) < 0.3
    counts = (rng.random((3, truths)) < 0.6) & ~crowd
    thresholds = np.linspace(0.5, 0.95, 10)
    np.testing.assert_array_equal(
        assign(ious, counts, crowd, thresholds), loops(ious, counts, crowd, thresholds)
    )


@given(st.integers(0, 10**9))
def test_crowd_iou_is_pycocotools(seed):
    from pycocotools import mask

    rng = np.random.default_rng(seed)
    boxes = rng.integers(0, 20, (9, 4)).astype(float)
    boxes[:, 2:] += boxes[:, :2]
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    crowd = rng.random(4) < 0.5
    theirs = mask.iou(xywh[:5], xywh[5:], crowd.astype(np.uint8).tolist())
    np.testing.assert_array_equal(crowd_iou(boxes[:5], boxes[5:], crowd), theirs)


def image_of(truth, detections, *, key="a", place=1):
    return EvaluatedImage(key, key, place, 100, 100, truth, detections)


def test_an_area_that_nobody_knows_counts_among_all_sizes_only():
    box = Box(0, 0, 10, 10, "cat", area_px=float("nan"))
    (metrics,) = evaluate([image_of([box], [Box(0, 0, 10, 10, "cat", 0.5)])])
    assert metrics.truths == {"all": 1, "small": 0, "medium": 0, "large": 0}
    assert metrics.numbers["AP50"] > 0.999
    assert metrics.numbers["APs"] is None


def test_sizes_go_by_the_annotated_area():
    box = Box(0, 0, 200, 200, "cat", area_px=500)
    (metrics,) = evaluate([image_of([box], [])])
    assert metrics.truths == {"all": 1, "small": 1, "medium": 0, "large": 0}
    (metrics,) = evaluate([image_of([Box(0, 0, 32, 32, "cat")], [])])
    assert metrics.truths == {"all": 1, "small": 1, "medium": 1, "large": 0}


def test_images_of_one_place_still_give_one_result():
    right, wrong = Box(0, 0, 10, 10, "cat", 0.5), Box(50, 50, 60, 60, "cat", 0.5)
    truth = [Box(0, 0, 10, 10, "cat")]
    images = [image_of(truth, [right if i % 3 else wrong], place=7) for i in range(30)]
    seen = set()
    for seed in range(4):
        order = random.Random(seed).sample(images, len(images))
        curves = curves_of(merge(tally for image in order for _, tally in tallies(image)))
        seen.add(curves.precision.tobytes())
    assert len(seen) == 1


def test_a_place_is_the_image_id_or_a_hash_of_the_key():
    assert place_of("a", "17") == 17
    assert place_of("a") == place_of("a", "no number") == place_of("a", "-3") == place_of("a", str(2**70))
    assert place_of("a") != place_of("b")
    assert 0 <= place_of("a") < 2**62


@given(st.integers(0, 10**9))
def test_the_best_cut_is_the_best(seed):
    rng = np.random.default_rng(seed)
    boxes = [Box(40.0 * i, 0, 40.0 * i + 30, 30, "cat") for i in range(6)]
    found = [
        Box(box.xmin + float(rng.choice([0, 25])), 0, box.xmax, 30, "cat", float(np.float32(rng.random())))
        for box in boxes
    ]
    images = [
        image_of([box], [other], place=i) for i, (box, other) in enumerate(zip(boxes, found, strict=True))
    ]
    (metrics,) = evaluate(images)
    hit = [other.xmin == box.xmin for box, other in zip(boxes, found, strict=True)]

    def f1(cut):
        kept = [h for h, box in zip(hit, found, strict=True) if box.score >= cut]
        return 2 * sum(kept) / (len(kept) + len(boxes))

    if not any(hit):
        assert best_cut([metrics]) is None
        return
    cut, best = best_cut([metrics])
    assert best == max(map(f1, CUTS)) == f1(cut)
    assert metrics.best_f1 == max(f1(box.score) for box in found) == f1(metrics.threshold)


def test_marks_say_what_each_box_is():
    truth = [Box(0, 0, 10, 10, "cat"), Box(30, 0, 40, 10, "cat"), Box(60, 0, 90, 30, "cat", crowd=True)]
    hit, again = Box(0, 0, 10, 9, "cat", 0.9), Box(0, 0, 9, 10, "cat", 0.8)
    in_crowd, low = Box(61, 1, 71, 11, "cat", 0.7), Box(30, 0, 40, 10, "cat", 0.1)
    marked = mark(truth, [low, in_crowd, again, hit], 0.5)
    assert [(each.box, each.kind) for each in marked] == [
        (hit, "hit"),
        (again, "false_alarm"),
        (in_crowd, "detection"),
        (truth[0], "truth"),
        (truth[1], "miss"),
        (truth[2], "crowd"),
    ]


def test_a_picture_has_its_class_and_what_it_was_taken_for():
    truth = [Box(0, 0, 10, 10, "cat"), Box(50, 50, 60, 60, "owl")]
    found = [Box(0, 0, 10, 10, "dog", 0.9), Box(50, 50, 60, 60, "owl", 0.9), Box(0, 0, 10, 10, "fox", 0.9)]
    drawn = dict(pictures(image_of(truth, found), 0.5, {"cat", "dog", "owl"}))
    assert set(drawn) == {"cat", "dog"}
    (errors, key, picture), *_ = drawn["cat"].kept
    assert (errors, key) == (1, "a")
    assert [(each.box.label, each.kind) for each in picture.boxes] == [
        ("cat", "miss"),
        ("dog", "false_alarm"),
    ]


def test_the_worst_are_kept_in_any_order():
    def worst(i):
        boxes = [Box(20.0 * n, 0, 20.0 * n + 9, 9, "cat") for n in range(1 + i % 7)]
        ((_, one),) = pictures(image_of(boxes, [], key=f"{i:02d}"), 0.5, {"cat"})
        return one

    seen = []
    for seed in range(3):
        whole = Worst()
        for i in random.Random(seed).sample(range(40), 40):
            whole.absorb(worst(i))
        seen.append([(errors, key) for errors, key, _ in whole.kept])
        assert (whole.images, whole.errors) == (40, sum(1 + i % 7 for i in range(40)))
    assert seen[0] == seen[1] == seen[2] == [(7, "06"), (7, "13"), (7, "20"), (7, "27"), (7, "34"), (6, "05")]
    assert len(seen[0]) == IMAGES_A_CLASS


def test_a_class_of_crowds_has_no_numbers():
    (metrics,) = evaluate([image_of([Box(0, 0, 9, 9, "cat", crowd=True)], [Box(0, 0, 9, 9, "cat", 0.5)])])
    assert set(metrics.numbers.values()) == {None}
    assert (metrics.curve50, metrics.best_f1) == ((), None)
    assert metrics == class_metrics(
        "cat",
        merge(
            t
            for _, t in tallies(image_of([Box(0, 0, 9, 9, "cat", crowd=True)], [Box(0, 0, 9, 9, "cat", 0.5)]))
        ),
    )


def test_corners_of_nothing_are_an_empty_array():
    assert corners_of([]).shape == (0, 4)
