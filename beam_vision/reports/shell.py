"""The frame of every page: one HTML file that fetches nothing and runs no script."""

from __future__ import annotations

from collections.abc import Sequence

from beam_vision.reports import detection_style, style
from beam_vision.reports.markup import Markup, tag

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""Content security policy: even markup that slipped through could load and run nothing."""

Part = tuple[str, str, Markup]
"""(anchor, title, content) of a section."""


def document(
    title: str, header: Markup, parts: Sequence[Part], notes: Sequence[str], *, css: str = detection_style.CSS
) -> str:
    """A page: the header, links to its sections, the sections, notes at the foot.

    Args:
      css: the style of what is on this page alone.
    """
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in parts]
    body = tag(
        "main",
        header,
        tag("nav", links, aria_label="Sections") if links else None,
        [tag("section", tag("h2", name), content, id=anchor) for anchor, name, content in parts],
        tag("footer", [tag("p", note) for note in notes]) if notes else None,
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Markup(style.CSS + css)),
    )
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"
