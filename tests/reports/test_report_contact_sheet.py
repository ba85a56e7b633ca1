"""The contact sheet as a picture file: pixels where boxes are, blanks, bounds."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from beam_vision.errors import UsageError
from beam_vision.reports.contact_sheet import (
    CAPTION_PX,
    GAP_PX,
    KIND_COLOURS,
    LEGEND_PX,
    TRACK,
    draw_contact_sheet,
    write_contact_sheet,
)
from beam_vision.reports.detection_data import DrawnBox, Scene

GREY = (90, 90, 90)


def scenes(folder, number, boxes=(), size=(200, 100)):
    for i in range(number):
        Image.new("RGB", size, GREY).save(folder / f"{i}.png")
    return [Scene(f"{i}.png", str(folder / f"{i}.png"), *size, boxes) for i in range(number)]


def near(pixel, colour):
    return np.abs(np.array(pixel[:3], int) - ImageColor.getrgb(colour)).max() <= 2


@pytest.mark.parametrize("kind", sorted(KIND_COLOURS))
def test_a_box_is_drawn_at_its_pixels_in_its_colour(tmp_path, kind):
    box = DrawnBox((50, 40, 150, 90), "", None, kind)
    sheet = draw_contact_sheet(
        scenes(tmp_path, 1, [box, DrawnBox((0, 0, 9, 9), "", None, "hit")]), cell_px=400
    )
    top = GAP_PX + LEGEND_PX
    left, right, upper, lower = GAP_PX + 100, GAP_PX + 300, top + 80, top + 180
    column = [sheet.getpixel((left, y)) for y in range(upper + 8, lower - 8)]
    assert sum(near(pixel, KIND_COLOURS[kind]) for pixel in column) >= len(column) / 4
    whole = all(near(pixel, KIND_COLOURS[kind]) for pixel in column)
    assert whole == (kind not in ("miss", "crowd"))
    assert sheet.getpixel(((left + right) // 2, (upper + lower) // 2)) == GREY


def test_a_file_is_written_whole(tmp_path):
    target = tmp_path / "out" / "sheet.png"
    size = write_contact_sheet(str(target), scenes(tmp_path, 5), columns=2, cell_px=100)
    assert target.stat().st_size == size
    with Image.open(target) as sheet:
        assert sheet.size == (GAP_PX + 2 * (100 + GAP_PX), GAP_PX + 3 * (50 + CAPTION_PX))
    assert [path.name for path in target.parent.iterdir()] == ["sheet.png"]


def test_an_image_that_cannot_be_opened_is_a_blank_among_the_others(tmp_path):
    given = scenes(tmp_path, 2)
    (tmp_path / "0.png").unlink()
    sheet = draw_contact_sheet(given, cell_px=100)
    assert near(sheet.getpixel((GAP_PX + 3, GAP_PX + 3)), TRACK)
    assert sheet.getpixel((GAP_PX + 100 + GAP_PX + 3, GAP_PX + 3)) == GREY


def test_sizes_that_are_not_known_are_the_files(tmp_path):
    known = scenes(tmp_path, 1, [DrawnBox((50, 40, 150, 90), "a", 0.5)])
    unknown = [Scene(scene.key, scene.uri, 0, 0, scene.boxes) for scene in known]
    assert draw_contact_sheet(unknown).tobytes() == draw_contact_sheet(known).tobytes()


def test_odd_boxes_and_names_do_no_harm(tmp_path):
    boxes = [
        DrawnBox((-30, -30, 400, 400), "larger than the image", 0.5),
        DrawnBox((-1e12, 10, 1e12, 50), "absurd", 0.5, "miss"),
        DrawnBox((50, 50, 50, 50), "empty", 0.5, "miss"),
        DrawnBox((60, 60, 60.2, 60.2), "\udcff\u202e\n\u6f22\u5b57", 0.5, "false_alarm"),
    ]
    given = [Scene("\udcff\n\u202e" * 99, scene.uri, 200, 100, boxes) for scene in scenes(tmp_path, 1)]
    assert draw_contact_sheet(given, cell_px=120).width == 2 * GAP_PX + 120


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(UsageError, match="needs a scene"):
        draw_contact_sheet([])
    with pytest.raises(UsageError, match="fewer scenes or smaller cells"):
        draw_contact_sheet(scenes(tmp_path, 1) * 500, cell_px=2000)
