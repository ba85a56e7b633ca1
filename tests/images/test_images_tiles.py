"""Tiles cover an image, and what is found in them comes out once, in its full extent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.images.nms import nms
from beam_vision.images.tiles import Tile, merge_tiles, plan_tiles

sides = st.integers(1, 300)


def shown(objects, tile, classes=None, scores=None, least_px=1):
    """What a perfect detector finds in a tile: each object as far as it is seen, in the tile's pixels."""
    left, top, right, bottom = tile.box
    found = []
    for n, (xmin, ymin, xmax, ymax) in enumerate(objects):
        box = max(xmin, left) - left, max(ymin, top) - top, min(xmax, right) - left, min(ymax, bottom) - top
        if box[2] - box[0] >= least_px and box[3] - box[1] >= least_px:
            found.append((box, 0.9 if scores is None else scores[n], 0 if classes is None else classes[n]))
    boxes = np.array([item[0] for item in found], np.float32).reshape(-1, 4)
    return tile, boxes, np.array([f[1] for f in found], np.float32), np.array([f[2] for f in found], np.int64)


def merged(objects, width, height, tile_px, overlap, **options):
    plan = plan_tiles(width, height, tile_px, overlap)
    boxes, scores, classes = merge_tiles([shown(objects, tile) for tile in plan], width, height, **options)
    assert boxes.dtype == scores.dtype == np.float32
    assert len(boxes) == len(scores) == len(classes)
    return sorted(boxes.tolist())


@given(sides, sides, st.integers(8, 80), st.sampled_from([0, 0.1, 0.2, 0.25, 0.5, 0.77]))
def test_tiles_cover_every_pixel_with_the_overlap_asked_for(width, height, tile_px, overlap):
    if tile_px * overlap > tile_px - 1:
        with pytest.raises(UsageError, match="overlap"):
            plan_tiles(width, height, tile_px, overlap)
        return
    plan = plan_tiles(width, height, tile_px, overlap)
    assert plan == plan_tiles(width, height, tile_px, overlap)
    assert [tile.index for tile in plan] == list(range(len(plan)))
    assert [(t.top_px, t.left_px) for t in plan] == sorted((t.top_px, t.left_px) for t in plan)
    covered = np.zeros((height, width), int)
    for tile in plan:
        left, top, right, bottom = tile.box
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (right - left, bottom - top) == (min(tile_px, width), min(tile_px, height))
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    for side, starts in ((width, {t.left_px for t in plan}), (height, {t.top_px for t in plan})):
        starts = sorted(starts)
        assert starts[0] == 0
        assert starts[-1] == max(0, side - tile_px), "the last is flush with the edge"
        steps = np.diff(starts)
        assert (tile_px - steps >= tile_px * overlap - 1e-6).all()
        if len(steps):
            assert steps.max() - steps.min() <= 1, "spread evenly"
            fewest = -(-(side - tile_px) // (tile_px - int(np.ceil(tile_px * overlap - 1e-9))))
            assert len(steps) == fewest


def test_tiles_by_hand():
    plan = plan_tiles(1500, 640, 640, 0.2)
    assert plan == (Tile(0, 0, 640, 640, 0), Tile(430, 0, 640, 640, 1), Tile(860, 0, 640, 640, 2))
    assert plan[1].box == (430, 0, 1070, 640)
    assert plan_tiles(300, 200, 640, 0.2) == (Tile(0, 0, 300, 200, 0),)
    assert plan_tiles(641, 100, 640, 0.2) == (Tile(0, 0, 640, 100, 0), Tile(1, 0, 640, 100, 1))


@pytest.mark.parametrize(("tile_px", "overlap"), [(0, 0.2), (640, 1.0), (640, -0.1), (5, 0.9), (640, np.nan)])
def test_tiles_that_make_no_sense_are_refused(tile_px, overlap):
    with pytest.raises(UsageError, match="tile"):
        plan_tiles(1000, 1000, tile_px, overlap)


@st.composite
def scenes(draw):
    """Objects that lie apart by a pixel or more, in an image of some tiles."""
    tile_px = draw(st.sampled_from([30, 40, 100]))
    width, height = draw(st.integers(20, 200)), draw(st.integers(20, 200))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    canvas = np.zeros((height, width), bool)
    objects = []
    for _ in range(draw(st.integers(1, 40))):
        size = rng.integers(2, draw(st.sampled_from([10, 30, 120])), 2)
        x, y = rng.integers(0, max(1, width - size[0])), rng.integers(0, max(1, height - size[1]))
        box = [int(v) for v in (x, y, min(x + size[0], width), min(y + size[1], height))]
        if not canvas[max(0, box[1] - 1) : box[3] + 1, max(0, box[0] - 1) : box[2] + 1].any():
            canvas[box[1] : box[3], box[0] : box[2]] = True
            objects.append(box)
    return objects, width, height, tile_px, draw(st.sampled_from([0.15, 0.2, 0.3, 0.5]))


@settings(max_examples=120)
@given(scenes(), st.sampled_from([0.3, 0.5, 0.7]))
def test_every_object_comes_out_once_in_its_full_extent(scene, threshold):
    objects, width, height, tile_px, overlap = scene
    assert merged(objects, width, height, tile_px, overlap, iou_threshold=threshold) == sorted(objects)


@pytest.mark.parametrize("overlap", [0, 0.1, 0.2, 0.5])
@pytest.mark.parametrize(
    "box",
    [
        [80, 20, 110, 50],  # on an edge
        [20, 90, 60, 105],
        [85, 85, 120, 118],  # on the corner of four tiles
        [10, 10, 190, 30],  # longer than a tile
        [5, 5, 195, 198],  # larger than all of them
    ],
)
def test_an_object_on_edges_and_corners_comes_out_once(box, overlap):
    assert merged([box], 200, 200, 100, overlap) == [box]
    if overlap == 0.2:
        pieces = [shown([box], tile)[1] for tile in plan_tiles(200, 200, 100, overlap)]
        assert sum(len(boxes) for boxes in pieces) > 1, "or the test proves nothing"


def noisy(found, rng, amount_px):
    tile, boxes, scores, classes = found
    limits = [tile.width_px, tile.height_px] * 2
    moved = np.clip(boxes + rng.uniform(-amount_px, amount_px, boxes.shape), 0, limits)
    return tile, moved, rng.uniform(0.3, 1, len(scores)), classes


def test_boxes_that_are_a_little_wrong_are_merged_too():
    rng = np.random.default_rng(0)
    for _ in range(200):
        size = rng.integers(80, 900, 2)
        low = rng.integers(0, [1400, 1000] - size)
        box = [*low, *(low + size)]
        plan = plan_tiles(1400, 1000, 640, 0.2)
        found = [noisy(shown([box], tile, least_px=12), rng, 8) for tile in plan]
        boxes, scores, _ = merge_tiles(found, 1400, 1000)
        assert len(boxes) == 1, box
        np.testing.assert_allclose(boxes[0], box, atol=8.001)
        assert scores[0] == pytest.approx(max(scores.max() for _, _, scores, _ in found if len(scores)))


def test_two_objects_side_by_side_on_an_edge_stay_two():
    objects = [[80, 20, 120, 50], [80, 52, 120, 80], [70, 100, 100, 130], [101, 100, 130, 130]]
    assert merged(objects, 200, 200, 100, 0.2) == sorted(objects)


def test_boxes_that_one_tile_tells_apart_are_never_joined():
    overlapping = [[60, 20, 100, 80], [64, 20, 104, 80], [62, 22, 102, 82]]  # each on two tiles
    assert merged(overlapping, 160, 100, 100, 0.4) == sorted(overlapping)


def test_objects_of_other_classes_are_never_joined():
    plan = plan_tiles(150, 100, 100, 0.5)
    found = [shown([[50, 10, 90, 40]], tile, classes=[n]) for n, tile in enumerate(plan)]
    boxes, _, classes = merge_tiles(found, 150, 100)
    assert boxes.tolist() == [[50, 10, 90, 40]] * 2
    assert sorted(classes.tolist()) == [0, 1]
    named = [(t, b, s, np.array(["cat"])) for t, b, s, _ in found]
    assert merge_tiles(named, 150, 100)[2].tolist() == ["cat"]


def test_the_piece_with_the_better_score_does_not_shorten_the_object():
    whole, piece = Tile(0, 0, 100, 100), Tile(80, 0, 100, 100, 1)
    found = [(whole, [[60, 10, 95, 40]], [0.4], [0]), (piece, [[0, 10, 15, 40]], [0.9], [0])]
    boxes, scores, _ = merge_tiles(found, 180, 100)
    assert boxes.tolist() == [[60, 10, 95, 40]]
    assert scores.tolist() == [np.float32(0.9)]


def test_a_piece_that_is_narrower_than_the_object_is_a_part_of_it():
    """The legs of somebody whose arms only the upper tile sees, and who goes on in the lower one."""
    upper, lower = Tile(0, 0, 100, 100), Tile(0, 80, 100, 100, 1)
    body, legs = [20, 10, 70, 100], [35, 0, 55, 60]
    boxes, _, _ = merge_tiles([(upper, [body], [0.8], [0]), (lower, [legs], [0.9], [0])], 100, 180)
    assert boxes.tolist() == [[20, 10, 70, 140]]
    inside = [35, 0, 55, 15]  # ends within the upper tile, whose box of the body ends there too
    body = [20, 10, 70, 96]
    boxes, _, _ = merge_tiles([(upper, [body], [0.8], [0]), (lower, [inside], [0.9], [0])], 100, 180)
    assert boxes.tolist() == [body]


def test_an_object_in_front_of_a_larger_one_stays():
    upper, lower = Tile(0, 0, 100, 100), Tile(0, 80, 100, 100, 1)
    parent = [20, 10, 70, 100]
    child = [40, 85, 60, 97]  # touches no edge of the lower tile, which sees it whole
    found = [(upper, [parent], [0.8], [0]), (lower, [[40, 5, 60, 17]], [0.9], [0])]
    boxes, _, _ = merge_tiles(found, 100, 180)
    assert sorted(boxes.tolist()) == sorted([parent, child])
    # the child is on the lower tile's edge, and the upper tile tells it from the parent
    objects = [[20, 10, 70, 170], [40, 70, 60, 95]]
    assert merged(objects, 100, 180, 100, 0.2) == sorted(objects)


LEFT, RIGHT = Tile(0, 0, 100, 100), Tile(60, 0, 100, 100, 1)


def both(in_left, in_right, width=160):
    """What comes out of a box of each tile, given in pixels of the image, whichever tile comes first."""
    found = [(LEFT, [in_left], [0.8], [0]), (RIGHT, [in_right], [0.9], [0])]
    one = merge_tiles(found, width, 100, pixels_of="image")[0].tolist()
    assert sorted(one) == sorted(merge_tiles(found[::-1], width, 100, pixels_of="image")[0].tolist())
    return sorted(one)


def test_an_object_that_begins_in_a_tile_is_not_the_rest_of_one_that_comes_from_outside():
    assert both([10, 10, 80, 40], [64, 10, 90, 40]) == [[10, 10, 80, 40], [64, 10, 90, 40]]
    assert both([10, 10, 80, 40], [61, 10, 81, 40]) == [[10, 10, 80, 40]]


def test_a_piece_goes_on_where_the_other_box_ends_only_if_that_one_is_cut_there():
    behind, pole = [20, 10, 94, 90], [60, 40, 140, 50]
    assert both(behind, pole) == sorted([behind, pole])
    assert both([20, 10, 100, 90], pole) == [[20, 10, 140, 90]]


def test_what_a_tile_sees_whole_is_no_piece_of_a_larger_box_that_is_cut():
    parent, child = [63, 10, 100, 60], [70, 20, 90, 50]
    assert both(parent, child) == sorted([parent, child])


def test_a_box_that_is_cut_on_the_other_side_is_no_piece():
    large, pole = [50, 10, 100, 90], [70, 40, 160, 50]
    assert both(large, pole, width=220) == sorted([large, pole])


def test_of_several_views_of_the_whole_object_the_best_counts():
    best, other = [71, 0, 91, 41], [70, 0, 90, 40]  # at the edge of the image: that cuts nothing
    assert both(other, best) == [best]


def detections(seed, count, width, height):
    rng = np.random.default_rng(seed)
    centre, size = rng.uniform(0, [width, height], (count, 2)), rng.uniform(3, 40, (count, 2))
    boxes = np.concatenate([centre - size / 2, centre + size / 2], axis=1)
    return np.clip(boxes, 0, [width, height] * 2), rng.random(count), rng.integers(0, 3, count)


def test_an_image_of_one_tile_is_as_it_would_be_without_tiles():
    boxes, scores, classes = detections(1, 60, 90, 70)
    kept = nms(boxes, scores, classes)
    found = boxes[kept].astype(np.float32), scores[kept].astype(np.float32), classes[kept]
    (tile,) = plan_tiles(90, 70, 100, 0.2)
    for ours, theirs in zip(merge_tiles([(tile, *found)], 90, 70), found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype


def test_where_only_whole_objects_in_common_parts_are_seen_it_is_suppression():
    plan = plan_tiles(150, 100, 100, 0.5)
    boxes = np.array([[60, 20, 90, 50], [61, 21, 91, 52]], np.float64)
    found = [
        (plan[0], boxes[:1], [0.7], [0]),
        (plan[1], boxes[1:] - [plan[1].left_px, 0, plan[1].left_px, 0], [0.8], [0]),
    ]
    assert merge_tiles(found, 150, 100)[0].tolist() == [boxes[1].tolist()]
    assert len(merge_tiles(found, 150, 100, iou_threshold=0.95)[0]) == 2


def test_boxes_may_count_from_the_corner_of_the_image():
    objects = [[80, 20, 110, 50], [150, 150, 160, 170]]
    found = [shown(objects, tile) for tile in plan_tiles(200, 200, 100, 0.2)]
    in_image = [(t, b + np.array([t.left_px, t.top_px] * 2), s, c) for t, b, s, c in found]
    boxes, _, _ = merge_tiles(in_image, 200, 200, pixels_of="image")
    assert sorted(boxes.tolist()) == sorted(objects)
    with pytest.raises(UsageError, match="pixels_of"):
        merge_tiles(found, 200, 200, pixels_of="crop")


def test_nothing_found_and_what_cannot_be_used():
    tile = Tile(0, 0, 100, 100)
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
    for per_tile in ([], [(tile, *empty)], [(tile, [], [], [])]):
        boxes, scores, classes = merge_tiles(per_tile, 200, 100)
        assert (boxes.shape, scores.shape, classes.shape) == ((0, 4), (0,), (0,))
    odd = [[np.nan, 0, 1, 1], [0, 0, np.inf, 5], [0, 0, 5, 5], [3, 3, 3, 9], [9, 9, 2, 2], [200, 0, 300, 9]]
    scores = [0.9, 0.9, np.nan, 0.9, 0.9, 0.9]
    assert len(merge_tiles([(tile, odd, scores, [0] * 6)], 200, 100)[0]) == 0
    beyond = merge_tiles([(tile, [[-5, 5, 104, 20]], [0.5], [0])], 200, 100)[0]
    assert beyond.tolist() == [[0, 5, 100, 20]], "cut at the tile"


@pytest.mark.parametrize("seed", range(8))
def test_the_order_is_by_score_and_the_result_does_not_depend_on_the_order_of_tiles(seed):
    boxes, scores, classes = detections(seed, 40, 250, 180)
    objects = np.rint(boxes).tolist()
    plan = plan_tiles(250, 180, 100, 0.3)
    scores = np.round(scores, 6) + np.arange(40) * 1e-7
    found = [shown(objects, tile, classes, scores) for tile in plan]
    one, other = merge_tiles(found, 250, 180), merge_tiles(found[::-1], 250, 180)
    assert (np.diff(one[1]) <= 0).all()
    assert sorted(map(tuple, one[0].tolist())) == sorted(map(tuple, other[0].tolist()))
