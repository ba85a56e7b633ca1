"""A :class:`~beam_vision.reports.data.Report` as one HTML page that fetches nothing and runs no script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beam_vision import storage
from beam_vision.reports import sections
from beam_vision.reports.data import Report, Shown
from beam_vision.reports.markup import Markup, tag
from beam_vision.reports.style import CSS
from beam_vision.reports.thumbnails import thumbnails

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content security policy: even markup that slipped through could load and run nothing."""


def write_report(path: str, report: Report) -> int:
    """Draws the page with thumbnails of its images and writes it, aside and then renamed.

    Returns:
      Its size in bytes.
    """
    pictures = thumbnails(image.uri for image in images_of(report))
    data = render(report, pictures).encode("utf-8")
    storage.write_bytes(path, data)
    return len(data)


def images_of(report: Report) -> list[Shown]:
    """Every image on the page, those that matter most first."""
    found = [image for query in report.queries for image in (query.image, *(hit.image for hit in query.hits))]
    found += report.uncertain
    rounds = max((len(sheet.images) for sheet in report.classes), default=0)
    found += [sheet.images[i] for i in range(rounds) for sheet in report.classes if i < len(sheet.images)]
    return found


def render(report: Report, pictures: Mapping[str, str]) -> str:
    """The page.

    Args:
      report: what to show.
      pictures: ``data:`` URIs of thumbnails, by the image's URI; an image without one is shown as a blank.
    """
    parts = _parts(report, pictures)
    links = [tag("a", title, href=f"#{anchor}") for anchor, title, _ in parts]
    body = tag(
        "main",
        sections.header(report),
        tag("nav", links, aria_label="Sections") if links else None,
        [tag("section", tag("h2", title), content, id=anchor) for anchor, title, content in parts],
        _footer(report),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", report.title),
        tag("style", Markup(CSS)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _parts(report: Report, pictures: Mapping[str, str]) -> Sequence[tuple[str, str, Markup]]:
    """(anchor, title, content) of the sections that have something to show."""
    drawn = [
        ("stages", "Stages", bool(report.stages), lambda: sections.stages(report.stages)),
        ("failures", "Failures", bool(report.stages), lambda: sections.failures(report.failures)),
        ("search", "Search", bool(report.queries), lambda: sections.queries(report.queries, pictures)),
        ("uncertain", "Least certain", bool(report.uncertain), lambda: sections.uncertain(report, pictures)),
        ("confusion", "Confusion", report.confusion is not None, lambda: sections.confusion(report)),
        ("classes", "Contact sheet", bool(report.classes), lambda: sections.classes(report, pictures)),
        ("facts", "Facts", bool(report.facts), lambda: sections.facts(report.facts)),
    ]
    return [(anchor, title, draw()) for anchor, title, present, draw in drawn if present]


def _footer(report: Report) -> Markup | None:
    if not report.notes:
        return None
    return tag("footer", [tag("p", note) for note in report.notes])
