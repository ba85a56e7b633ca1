"""A scene as a figure: the image with its boxes as sharp lines, readable at any size. A click enlarges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beam_vision.reports.detection_data import KINDS, DrawnBox, Scene
from beam_vision.reports.markup import Markup, amount, join, tag
from beam_vision.reports.overlay import PAD, Area, Overlay, Plate, lay_out
from beam_vision.reports.thumbnails import Picture

ROW_UNITS = 230.0
MAX_WIDTH, MAX_HEIGHT, MIN_UNITS = 420.0, 400.0, 80.0
MAX_GROWTH = 1.3
"""How much a picture may grow to fill its row."""
CORNER_UNITS = 9.0
ENLARGED = 2.5
"""How many times as wide an enlarged picture is taken to be when its labels are laid out."""
COLOURS = 8
"""Detections without truth are coloured by their label, in so many colours."""

NAMES = {
    "hit": "found",
    "miss": "missed",
    "false_alarm": "false alarm",
    "truth": "true object",
    "detection": "detection",
    "crowd": "crowd",
}


def label_colours(scenes: Sequence[Scene]) -> dict[str, int]:
    """A colour number for each label of scenes without truth, by name: the same in every run."""
    judged = {"hit", "false_alarm", "miss"}
    plain = [scene.boxes for scene in scenes if not any(box.kind in judged for box in scene.boxes)]
    labels = {box.label for boxes in plain for box in boxes if box.kind == "detection"}
    return {label: i % COLOURS for i, label in enumerate(sorted(labels))}


def canvas(width_px: int, height_px: int) -> tuple[float, float]:
    """Size in units at which a picture of this shape is laid out: equal heights where that can be.

    A wide one is lower, a narrow one higher; one of more than about 5 to 1 is squeezed.
    """
    scale = max(min(ROW_UNITS / height_px, MAX_WIDTH / width_px), MIN_UNITS / min(width_px, height_px))
    return min(width_px * scale, MAX_WIDTH), min(height_px * scale, MAX_HEIGHT)


class Album:
    """Draws the scenes of a page. However often an image is shown, its bytes are on the page once.

    Args:
      scenes: all that will be drawn.
      pictures: copies of their images, by URI; one without is a blank that says why.
      prefix: of the ids of images.
    """

    def __init__(self, scenes: Sequence[Scene], pictures: Mapping[str, Picture], prefix: str = "") -> None:
        self.pictures = pictures
        self.colours = label_colours(scenes)
        self.prefix = prefix
        self.drawn: dict[tuple[str, float, float], str] = {}

    def figure(self, scene: Scene, anchor: str) -> Markup:
        """A scene with its caption; ``anchor`` is an id for it, its own on the page."""
        picture = self.pictures.get(scene.uri, Picture(problem="not opened"))
        scene = scene.of_size(picture.width_px or 4, picture.height_px or 3)
        width, height = canvas(scene.width_px, scene.height_px)
        if picture.data_uri.startswith("data:image/"):
            image = self._image(scene.uri, picture, width, height)
            shown = _enlargeable(drawing(scene, image, width, height, self.colours), anchor)
        else:
            reason = tag("span", tag("b", "no picture"), tag("span", picture.problem))
            shown = tag("div", reason, class_="blank", style=f"aspect-ratio: {width:.0f} / {height:.0f}")
        counts = " \u00b7 ".join(filter(None, [counted(scene), _changed(scene, picture)]))
        return tag(
            "figure",
            shown,
            tag("figcaption", tag("b", short_name(scene.key)), tag("span", counts)),
            class_="scene",
            id=anchor,
            title=scene.key,
            style=f"flex: {width:.0f} 1 {width:.0f}px; max-width: min(100%, {width * MAX_GROWTH:.0f}px)",
        )

    def _image(self, uri: str, picture: Picture, width: float, height: float) -> Markup:
        known = self.drawn.get((uri, width, height))
        if known is not None:
            return tag("use", href=f"#{known}")
        anchor = self.drawn[uri, width, height] = f"{self.prefix}image-{len(self.drawn) + 1}"
        place = {"width": _n(width), "height": _n(height)}
        return tag("image", id=anchor, href=picture.data_uri, preserveAspectRatio="none", **place)


def counted(scene: Scene) -> str:
    """The boxes of a scene in words: ``3 found, 1 missed``. A true box beside its hit isn't counted again."""
    said = []
    for kind, name in NAMES.items():
        number = scene.count(kind)
        if number and not (kind == "truth" and scene.count("hit")):
            said.append(f"{number:,} {name}" if kind in ("hit", "miss") else amount(number, name))
    return ", ".join(said) or "no boxes"


def short_name(key: str) -> str:
    """The last part of a key, which is enough to recognise a file."""
    return key.rstrip("/").rsplit("/", 1)[-1] or key


def _changed(scene: Scene, picture: Picture) -> str:
    """A remark when the file has another size than it had."""
    now, was = (picture.width_px, picture.height_px), (scene.width_px, scene.height_px)
    return (
        f"the file is {now[0]} x {now[1]} now, not {was[0]} x {was[1]}"
        if picture.data_uri and now != was
        else ""
    )


def _enlargeable(drawn: Markup, anchor: str) -> Markup:
    """A drawing that fills the window when the address ends in ``#anchor``; needs no script."""
    return join(
        [
            tag("span", id=f"at-{anchor}"),
            tag("a", drawn, class_="shot", href=f"#{anchor}"),
            tag("a", "close", class_="close", href=f"#at-{anchor}"),
        ]
    )


def drawing(scene: Scene, image: Markup, width: float, height: float, colours: Mapping[str, int]) -> Markup:
    """``image`` with boxes and labels, as SVG of ``width`` x ``height`` units.

    Labels are laid out twice: an enlarged picture has room for more of them.
    """
    overlay = lay_out(scene, width, height)
    enlarged = lay_out(scene, width * ENLARGED, height * ENLARGED)
    return tag(
        "svg",
        image,
        [_box(area, box, colours) for area, box in overlay.boxes],
        _labels(overlay, colours, class_="labels"),
        _labels(enlarged, colours, class_="labels-large", transform=f"scale({_n(1 / ENLARGED)})"),
        viewBox=f"0 0 {_n(width)} {_n(height)}",
        role="img",
        aria_label=f"{scene.key}: {counted(scene)}{_unlabelled(overlay)}",
    )


def _unlabelled(overlay: Overlay) -> str:
    return f"; {overlay.left_out:,} without label for want of room" if overlay.left_out else ""


def _style(box: DrawnBox, colours: Mapping[str, int]) -> str:
    coloured = box.kind == "detection" and box.label in colours
    return box.kind.replace("_", "-") + (f" c{colours[box.label]}" if coloured else "")


def _box(area: Area, box: DrawnBox, colours: Mapping[str, int]) -> Markup:
    x0, y0, x1, y1 = area
    place = {"x": _n(x0), "y": _n(y0), "width": _n(x1 - x0), "height": _n(y1 - y0)}
    score = "" if box.score is None else f" {box.score:.3f}"
    return tag(
        "g",
        tag("title", f"{NAMES[box.kind]}: {box.label}{score}"),
        tag("rect", class_="under", **place),
        tag("rect", class_="line", **place),
        class_=f"box {_style(box, colours)}",
    )


def _corner(area: Area, box: DrawnBox, colours: Mapping[str, int]) -> Markup:
    """The filled corner of a false alarm."""
    x0, y0, x1, y1 = area
    side = min(CORNER_UNITS, (x1 - x0) / 2, (y1 - y0) / 2)
    line = f"M{_n(x1 - side)} {_n(y0)}H{_n(x1)}V{_n(y0 + side)}Z"
    return tag("path", d=line, class_=f"corner {_style(box, colours)}")


def _labels(overlay: Overlay, colours: Mapping[str, int], **attributes: str) -> Markup:
    """What stands at boxes, of the same size however large the box: corners and names."""
    corners = [_corner(area, box, colours) for area, box in overlay.boxes if box.kind == "false_alarm"]
    return tag("g", corners, [_plate(plate, colours) for plate in overlay.plates], **attributes)


def _plate(plate: Plate, colours: Mapping[str, int]) -> Markup:
    x0, y0, x1, y1 = plate.area
    return tag(
        "g",
        tag("rect", x=_n(x0), y=_n(y0), width=_n(x1 - x0), height=_n(y1 - y0), rx=2),
        tag(
            "text",
            plate.text,
            x=_n(x0 + PAD),
            y=_n(y1 - (y1 - y0) * 0.26),
            textLength=_n(x1 - x0 - 2 * PAD),
            lengthAdjust="spacingAndGlyphs",
        ),
        class_=f"plate {_style(plate.box, colours)}",
    )


def legend(scenes: Sequence[Scene]) -> Markup | None:
    """What the lines mean, for the kinds of box that the scenes have."""
    present = {box.kind for scene in scenes for box in scene.boxes}
    if present <= {"detection"}:
        return None
    items = []
    for kind in (kind for kind in KINDS if kind in present):
        swatch = DrawnBox((3, 3, 31, 17), NAMES[kind], None, kind)
        corner = _corner(swatch.xyxy, swatch, {}) if kind == "false_alarm" else None
        drawn = tag("svg", _box(swatch.xyxy, swatch, {}), corner, viewBox="0 0 34 20", width=34, height=20)
        items.append(tag("span", drawn, NAMES[kind] + (", not judged" if kind == "detection" else "")))
    return tag("div", items, class_="legend")


def _n(value: float) -> str:
    """A coordinate, to a hundredth of a unit."""
    return f"{value:.2f}".rstrip("0").rstrip(".")
