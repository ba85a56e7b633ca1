"""Where labels go: inside the picture, apart from each other, mistakes first."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.reports.detection_data import KINDS, Curve, DrawnBox, Scene
from beam_vision.reports.overlay import MAX_COVERED, PAD, caption, lay_out, text_width
from beam_vision.reports.scenes import MIN_UNITS, canvas

sides = st.integers(1, 3000)
parts = st.floats(0, 1, allow_nan=False)
labels = st.text(max_size=30)


@st.composite
def scenes(draw):
    width, height = draw(sides), draw(sides)
    boxes = []
    for _ in range(draw(st.integers(0, 12))):
        xs, ys = sorted([draw(parts), draw(parts)]), sorted([draw(parts), draw(parts)])
        corners = (xs[0] * width, ys[0] * height, xs[1] * width, ys[1] * height)
        score = draw(st.none() | parts)
        boxes.append(DrawnBox(corners, draw(labels), score, draw(st.sampled_from(KINDS))))
    return Scene("k", "u", width, height, boxes)


def common(a, b):
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def size(a):
    return (a[2] - a[0]) * (a[3] - a[1])


@given(scenes())
@settings(max_examples=150, deadline=None)
def test_labels_stay_inside_and_apart(scene):
    width, height = canvas(scene.width_px, scene.height_px)
    assert min(width, height) >= MIN_UNITS - 1e-6
    found = lay_out(scene, width, height)
    areas = [plate.area for plate in found.plates]
    for x0, y0, x1, y1 in areas:
        assert -1e-6 <= x0 < x1 <= width + 1e-6
        assert -1e-6 <= y0 < y1 <= height + 1e-6
    for i, area in enumerate(areas):
        assert sum(common(area, other) for other in areas[:i]) <= MAX_COVERED * size(area) + 1e-6
    assert sorted(map(str, scene.boxes)) == sorted(str(box) for _, box in found.boxes)
    unnamed = scene.count("truth") if scene.count("hit") else 0
    assert len(found.plates) + found.left_out == len(scene.boxes) - unnamed


@given(scenes())
@settings(max_examples=50, deadline=None)
def test_boxes_are_the_given_pixels_scaled(scene):
    for area, box in lay_out(scene, 300, 200).boxes:
        sx, sy = 300 / scene.width_px, 200 / scene.height_px
        expected = (box.xyxy[0] * sx, box.xyxy[1] * sy, box.xyxy[2] * sx, box.xyxy[3] * sy)
        assert area == pytest.approx(expected)


def test_a_lone_label_stands_on_its_box():
    box = DrawnBox((100, 100, 200, 180), "cat", 0.5, "hit")
    (plate,) = lay_out(Scene("k", "u", 400, 300, [box]), 400, 300).plates
    assert plate.area[0] == 100
    assert plate.area[3] == 100
    assert plate.text == "cat 0.50"


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (370, 0, 400, 20), (370, 280, 400, 300), (0, 0, 400, 300)])
def test_a_label_at_the_edge_touches_its_box(box):
    (plate,) = lay_out(Scene("k", "u", 400, 300, [DrawnBox(box, "elephant", 0.5)]), 400, 300).plates
    grown = (box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1)
    assert common(plate.area, grown) > 0


def test_a_label_avoids_another_object():
    low = DrawnBox((100, 100, 200, 180), "cat", 0.9)
    high = DrawnBox((100, 80, 200, 99), "dog", 0.8)
    plates = {
        plate.box.label: plate.area
        for plate in lay_out(Scene("k", "u", 400, 300, [low, high]), 400, 300).plates
    }
    assert common(plates["cat"], high.xyxy) < 0.2 * size(plates["cat"])
    assert common(plates["dog"], low.xyxy) < 0.2 * size(plates["dog"])


def test_where_there_is_no_room_mistakes_are_named_and_hits_are_not():
    crowd = [DrawnBox((150, 100, 250, 200), "hit label", 0.9, "hit") for _ in range(60)]
    crowd += [
        DrawnBox((150, 100, 250, 200), "false", 0.4, "false_alarm"),
        DrawnBox((150, 100, 250, 200), "lost", None, "miss"),
    ]
    found = lay_out(Scene("k", "u", 400, 300, crowd), 400, 300)
    assert {"miss", "false_alarm"} <= {plate.box.kind for plate in found.plates}
    assert found.left_out > 40
    assert len(found.boxes) == 62


def test_a_true_box_is_named_only_where_nothing_was_found():
    truth, hit = DrawnBox((9, 9, 90, 90), "a", None, "truth"), DrawnBox((10, 10, 91, 91), "a", 0.9, "hit")
    assert [p.text for p in lay_out(Scene("k", "u", 300, 300, [truth, hit]), 300, 300).plates] == ["a 0.90"]
    assert [p.text for p in lay_out(Scene("k", "u", 300, 300, [truth]), 300, 300).plates] == ["a"]


def test_a_long_name_is_shortened_but_its_score_stays():
    box = DrawnBox((10, 10, 90, 90), "a very long name of a class " * 4, 0.75, "false_alarm")
    (plate,) = lay_out(Scene("k", "u", 200, 200, [box]), 200, 200).plates
    assert plate.text.startswith("\u2717 a very long")
    assert plate.text.endswith("\u2026 0.75")
    assert text_width(plate.text) <= 200 - 2 * PAD


def test_small_objects_lie_on_top():
    small, large = DrawnBox((10, 10, 20, 20), "s"), DrawnBox((0, 0, 90, 90), "l")
    assert [box.label for _, box in lay_out(Scene("k", "u", 99, 99, [small, large]), 99, 99).boxes] == [
        "l",
        "s",
    ]


def test_captions_say_the_kind():
    said = {kind: caption(DrawnBox((0, 0, 1, 1), "a\nb", None, kind)) for kind in KINDS}
    assert said["miss"] == "missed a b"
    assert said["false_alarm"] == "\u2717 a b"
    assert said["crowd"] == "crowd of a b"
    assert said["hit"] == said["truth"] == said["detection"] == "a b"


def test_pictures_of_odd_shapes_are_bounded():
    for shape in [(1, 3000), (3000, 1), (1, 1), (30_000, 30_000)]:
        width, height = canvas(*shape)
        assert min(width, height) >= MIN_UNITS
        assert max(width, height) <= 420


def test_pictures_of_usual_shapes_are_equally_high():
    assert {round(canvas(*shape)[1], 6) for shape in [(640, 480), (480, 640), (4000, 3000), (300, 300)]} == {
        230.0
    }


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UsageError, match="kind is 'wrong'"):
        DrawnBox((0, 0, 1, 1), "a", None, "wrong")
    with pytest.raises(UsageError, match="3 precisions for 101"):
        Curve("a", 0.5, [1, 1, 1])
