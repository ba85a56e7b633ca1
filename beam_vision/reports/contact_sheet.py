"""Scenes as one picture file, for a slide, a ticket or a message."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from beam_vision import storage
from beam_vision.errors import Stage, UsageError
from beam_vision.failures import Guard
from beam_vision.images.codec import DecodeSettings, decode, read_header
from beam_vision.reports.detection_data import DrawnBox, Scene
from beam_vision.reports.overlay import PAD, Area, Plate, lay_out
from beam_vision.reports.scenes import CORNER_UNITS, NAMES, counted, label_colours, short_name
from beam_vision.reports.thumbnails import read_image
from beam_vision.types import Failure, ImageRef

GAP_PX = 14
CAPTION_PX = 48
LEGEND_PX = 30
TEXT_PX = 13
BEYOND_PX = 20
"""How far outside its picture a line is drawn (where nobody sees it)."""
MAX_SHEET_PIXELS = 100_000_000
PAGE, INK, SOFT, TRACK, GROUND, DARK = "#f7f7f5", "#1b1d1f", "#62686e", "#e0e2dd", "#5d666b", "#0b0d0e"
KIND_COLOURS = {
    "hit": "#56c1ff",
    "miss": "#ffe14a",
    "false_alarm": "#ff7a3d",
    "truth": "#ffffff",
    "detection": "#c3a6ff",
    "crowd": "#d4d8da",
}
LABEL_COLOURS = ("#56c1ff", "#ffb02e", "#45e0a8", "#ffe14a", "#ff9ad5", "#ff7a3d", "#c3a6ff", "#d3f06a")
DASHES_PX = {"miss": (9, 6), "crowd": (2, 5)}


def write_contact_sheet(
    path: str,
    scenes: Sequence[Scene],
    *,
    columns: int = 4,
    cell_px: int = 360,
    font: str = "",
    read: Callable[[str], bytes] = storage.read_bytes,
) -> int:
    """Draws scenes side by side, with their boxes, and writes one PNG (aside, then renamed).

    Args:
      path: of the PNG.
      scenes: in the order to show; one whose image can't be opened is a blank that says why.
      columns: how many lie side by side.
      cell_px: the longer side of each.
      font: a TrueType file for the labels; empty takes Pillow's own, which knows Latin letters only.
      read: opens an image.

    Returns:
      The file's size in bytes.

    Raises:
      UsageError: there are no scenes, a number is out of range, or the sheet would be too large.
    """
    sheet = draw_contact_sheet(scenes, columns=columns, cell_px=cell_px, font=font, read=read)
    file = io.BytesIO()
    sheet.save(file, "PNG")
    storage.write_bytes(path, file.getvalue())
    return file.tell()


def draw_contact_sheet(
    scenes: Sequence[Scene],
    *,
    columns: int = 4,
    cell_px: int = 360,
    font: str = "",
    read: Callable[[str], bytes] = storage.read_bytes,
) -> Image.Image:
    """The picture that :func:`write_contact_sheet` writes, as RGB."""
    if not scenes or columns < 1 or cell_px < 64:
        raise UsageError("a contact sheet needs a scene, a column and cells of at least 64 pixels")
    lines = -(-len(scenes) // columns)
    most = columns * (cell_px + GAP_PX) * lines * (cell_px + CAPTION_PX)
    if most > MAX_SHEET_PIXELS:
        raise UsageError(
            f"{len(scenes):,} scenes of {cell_px} pixels make {most:,} pixels, more than "
            f"{MAX_SHEET_PIXELS:,}: give fewer scenes or smaller cells"
        )
    letters = ImageFont.truetype(font, TEXT_PX) if font else ImageFont.load_default(TEXT_PX)
    colours = label_colours(scenes)
    guard = Guard(lambda scene: _cell(scene, cell_px, letters, colours, read), Stage.READ)
    with ThreadPoolExecutor(4) as pool:
        drawn = list(pool.map(lambda scene: guard(ImageRef(scene.key, scene.uri), scene), scenes))
    cells = [_blank(cell, cell_px, letters) if isinstance(cell, Failure) else cell for cell in drawn]
    return _arranged(scenes, cells, min(columns, len(cells)), cell_px, letters)


def _arranged(
    scenes: Sequence[Scene], cells: Sequence[Image.Image], columns: int, cell_px: int, letters: Any
) -> Image.Image:
    """The legend, and below it the cells in rows, each with its caption."""
    kinds = [kind for kind in KIND_COLOURS if any(scene.count(kind) for scene in scenes)]
    kinds = [] if kinds == ["detection"] else kinds
    rows = [range(i, min(i + columns, len(cells))) for i in range(0, len(cells), columns)]
    heights = [max(cells[i].height for i in row) + CAPTION_PX for row in rows]
    top = GAP_PX + (LEGEND_PX if kinds else 0)
    sheet = Image.new("RGB", (GAP_PX + columns * (cell_px + GAP_PX), top + sum(heights)), PAGE)
    draw = ImageDraw.Draw(sheet)
    _legend(draw, kinds, letters)
    for row, height in zip(rows, heights, strict=True):
        for i in row:
            left = GAP_PX + (i - row.start) * (cell_px + GAP_PX)
            sheet.paste(cells[i], (left, top))
            _caption(draw, scenes[i], (left, top + cells[i].height + 3), cell_px, letters)
        top += height
    return sheet


def _cell(
    scene: Scene, cell_px: int, letters: Any, colours: Mapping[str, int], read: Callable[[str], bytes]
) -> Image.Image:
    """An image with its boxes, its longer side ``cell_px``."""
    data = read_image(scene.uri, read)
    true_width, true_height = read_header(data).upright_size
    scene = scene.of_size(true_width, true_height)
    scale = cell_px / max(scene.width_px, scene.height_px)
    width, height = max(round(scene.width_px * scale), 32), max(round(scene.height_px * scale), 32)
    settings = DecodeSettings(width_px=width, height_px=height, resize="stretch", interpolation="lanczos")
    image = Image.fromarray(decode(data, settings).pixels)
    draw = ImageDraw.Draw(image)
    overlay = lay_out(
        scene, width, height, text_size=TEXT_PX, measure=lambda text: letters.getlength(_said(text))
    )
    for area, box in overlay.boxes:
        _draw_box(draw, area, box, _colour(box, colours))
    for plate in overlay.plates:
        _draw_plate(draw, plate, _colour(plate.box, colours), letters)
    return image


def _colour(box: DrawnBox, colours: Mapping[str, int]) -> str:
    if box.kind == "detection" and box.label in colours:
        return LABEL_COLOURS[colours[box.label]]
    return KIND_COLOURS[box.kind]


def _draw_box(draw: ImageDraw.ImageDraw, area: Area, box: DrawnBox, colour: str) -> None:
    """A line in its colour on a dark one: seen on any ground."""
    most = max(draw.im.size) + BEYOND_PX
    x0, y0, x1, y1 = (round(min(max(v, -BEYOND_PX), most)) for v in area)
    draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=DARK, width=4)
    dash = DASHES_PX.get(box.kind)
    if dash is None:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)
    else:
        for piece in _dashes(x0, y0, x1, y1, *dash):
            draw.rectangle(piece, fill=colour)
    if box.kind == "false_alarm":
        side = min(CORNER_UNITS, (x1 - x0) / 2, (y1 - y0) / 2)
        draw.polygon([(x1 - side, y0), (x1, y0), (x1, y0 + side)], fill=colour)


def _dashes(x0: int, y0: int, x1: int, y1: int, on: int, off: int) -> Iterator[tuple[int, int, int, int]]:
    """Pieces of a dashed rectangle with lines of two pixels."""
    for x in range(x0, x1, on + off):
        for y in (y0, y1 - 1):
            yield x, y, min(x + on - 1, x1), max(y, y0) + 1
    for y in range(y0, y1, on + off):
        for x in (x0, x1 - 1):
            yield x, y, max(x, x0) + 1, min(y + on - 1, y1)


def _draw_plate(draw: ImageDraw.ImageDraw, plate: Plate, colour: str, letters: Any) -> None:
    x0, y0, x1, y1 = plate.area
    draw.rounded_rectangle((round(x0), round(y0), round(x1) - 1, round(y1) - 1), radius=2, fill=colour)
    draw.text((round(x0) + PAD, (y0 + y1) / 2), _said(plate.text), fill=DARK, font=letters, anchor="lm")


def _said(text: str) -> str:
    """Text in letters that Pillow's font has."""
    return text.replace("\u2717", "false")


def _blank(failure: Failure, cell_px: int, letters: Any) -> Image.Image:
    """What stands for an image that can't be opened."""
    image = Image.new("RGB", (cell_px, cell_px * 3 // 4), TRACK)
    draw = ImageDraw.Draw(image)
    words = [f"no picture: {failure.reason.replace('_', ' ')}", failure.detail]
    for i, line in enumerate(words):
        said = _cut(line, cell_px - 24, letters)
        draw.text((12, image.height // 2 - 18 + 20 * i), said, fill=(INK, SOFT)[i], font=letters)
    return image


def _legend(draw: ImageDraw.ImageDraw, kinds: Sequence[str], letters: Any) -> None:
    left = GAP_PX
    for kind in kinds:
        draw.rectangle((left, GAP_PX, left + 38, GAP_PX + 20), fill=GROUND)
        area = (left + 5.0, GAP_PX + 4.0, left + 33.0, GAP_PX + 16.0)
        _draw_box(draw, area, DrawnBox(area, "", None, kind), KIND_COLOURS[kind])
        draw.text((left + 46, GAP_PX + 10), NAMES[kind], fill=INK, font=letters, anchor="lm")
        left += 46 + round(letters.getlength(NAMES[kind])) + 24


def _caption(
    draw: ImageDraw.ImageDraw, scene: Scene, place: tuple[int, int], width: int, letters: Any
) -> None:
    for i, line in enumerate((short_name(scene.key), counted(scene))):
        said = _cut(line, width, letters)
        draw.text((place[0], place[1] + 16 * i), said, fill=(INK, SOFT)[i], font=letters)


def _cut(text: str, width: int, letters: Any) -> str:
    """One line of ``text``, at most ``width`` pixels wide."""
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(text + "\u2026") > width:
        text = text[:-1]
    return text + "\u2026"
