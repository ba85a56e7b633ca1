"""A detector's report: figures, precision-recall curves and pictures with boxes, as one HTML page.

What it shows is a :class:`DetectionReport`, made of the values of
:mod:`beam_vision.reports.detection_data`, which can all be imported from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from beam_vision import storage
from beam_vision.reports import detection_sections
from beam_vision.reports.detection_data import (
    RECALL_POINTS,
    Accounts,
    ClassRow,
    Curve,
    DetectionReport,
    DrawnBox,
    Headline,
    Scene,
    Sheet,
)
from beam_vision.reports.detection_sections import section
from beam_vision.reports.shell import document
from beam_vision.reports.thumbnails import Picture, load_pictures

__all__ = [
    "RECALL_POINTS",
    "Accounts",
    "ClassRow",
    "Curve",
    "DetectionReport",
    "DrawnBox",
    "Headline",
    "Scene",
    "Sheet",
    "load_scenes",
    "render",
    "scenes_of",
    "section",
    "write_report",
]

QUALITY = 78
SIDES_PX = ((100, 720), (250, 480))
"""(most images, longer side): a page of few images has copies that are sharp when they are enlarged."""
SMALLEST_PX = 320
BUDGET_BYTES = 12_000_000


def write_report(path: str, report: DetectionReport) -> int:
    """Draws the page and writes it, aside and then renamed.

    Returns:
      Its size in bytes.
    """
    data = render(report).encode("utf-8")
    storage.write_bytes(path, data)
    return len(data)


def render(report: DetectionReport, pictures: Mapping[str, Picture] | None = None) -> str:
    """The page.

    Args:
      report: what to show.
      pictures: copies of the images, by URI; None opens those of the report's scenes.
    """
    if pictures is None:
        pictures = load_scenes(scenes_of(report))
    return document(
        report.title,
        detection_sections.header(report),
        detection_sections.parts(report, pictures),
        report.notes,
    )


def scenes_of(report: DetectionReport) -> list[Scene]:
    """Every scene, the first of each sheet first: they have the first call on the page's bytes."""
    rounds = max((len(sheet.scenes) for sheet in report.sheets), default=0)
    return [sheet.scenes[i] for i in range(rounds) for sheet in report.sheets if i < len(sheet.scenes)]


def load_scenes(scenes: Iterable[Scene]) -> dict[str, Picture]:
    """Copies of the scenes' images, by URI; the more there are, the smaller. See :func:`load_pictures`."""
    uris = list(dict.fromkeys(scene.uri for scene in scenes))
    side_px = next((side for most, side in SIDES_PX if len(uris) <= most), SMALLEST_PX)
    return load_pictures(uris, side_px=side_px, quality=QUALITY, budget_bytes=BUDGET_BYTES)
