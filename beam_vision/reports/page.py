"""A :class:`~beam_vision.reports.data.Report` as one HTML page that fetches nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping

from beam_vision import storage
from beam_vision.reports import detection_sections, sections
from beam_vision.reports.data import Report, Shown
from beam_vision.reports.detection import load_scenes, scenes_of
from beam_vision.reports.markup import Markup
from beam_vision.reports.shell import Part, document
from beam_vision.reports.thumbnails import Picture, thumbnails


def write_report(path: str, report: Report) -> int:
    """Draws the page with thumbnails of its images and writes it, aside and then renamed.

    Returns:
      Its size in bytes.
    """
    pictures = thumbnails(image.uri for image in images_of(report))
    scenes = load_scenes(scenes_of(report.detection)) if report.detection else {}
    data = render(report, pictures, scenes).encode("utf-8")
    storage.write_bytes(path, data)
    return len(data)


def images_of(report: Report) -> list[Shown]:
    """Every image on the page, those that matter most first."""
    found = [image for query in report.queries for image in (query.image, *(hit.image for hit in query.hits))]
    found += report.uncertain
    rounds = max((len(sheet.images) for sheet in report.classes), default=0)
    found += [sheet.images[i] for i in range(rounds) for sheet in report.classes if i < len(sheet.images)]
    return found


def render(report: Report, pictures: Mapping[str, str], scenes: Mapping[str, Picture] | None = None) -> str:
    """The page.

    Args:
      report: what to show.
      pictures: ``data:`` URIs of thumbnails, by the image's URI; an image without one is shown as a blank.
      scenes: the images of the detection part, by URI.
    """
    return document(
        report.title, sections.header(report), _parts(report, pictures, scenes or {}), report.notes
    )


def _parts(report: Report, pictures: Mapping[str, str], scenes: Mapping[str, Picture]) -> list[Part]:
    """(anchor, title, content) of the sections that have something to show."""
    drawn = [
        ("stages", "Stages", bool(report.stages), lambda: sections.stages(report.stages)),
        ("failures", "Failures", bool(report.stages), lambda: sections.failures(report.failures)),
        ("search", "Search", bool(report.queries), lambda: sections.queries(report.queries, pictures)),
        ("uncertain", "Least certain", bool(report.uncertain), lambda: sections.uncertain(report, pictures)),
        ("confusion", "Confusion", report.confusion is not None, lambda: sections.confusion(report)),
        ("classes", "Contact sheet", bool(report.classes), lambda: sections.classes(report, pictures)),
        ("detection", "Detection", report.detection is not None, lambda: _detection(report, scenes)),
        ("facts", "Facts", bool(report.facts), lambda: sections.facts(report.facts)),
    ]
    return [(anchor, title, draw()) for anchor, title, present, draw in drawn if present]


def _detection(report: Report, scenes: Mapping[str, Picture]) -> Markup:
    assert report.detection is not None
    return detection_sections.section(report.detection, scenes)
