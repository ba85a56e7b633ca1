"""The sections of a detector's page; the demo's page shows the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beam_vision.reports import curves
from beam_vision.reports.detection_data import Accounts, ClassRow, DetectionReport, Headline, Scene, Sheet
from beam_vision.reports.markup import Markup, amount, join, tag
from beam_vision.reports.scenes import Album, legend
from beam_vision.reports.shell import Part
from beam_vision.reports.thumbnails import Picture

MAX_CLASSES = 80
MAX_CURVES = 23
"""Charts of classes on a page: with the mean, eight rows of three."""

_COLUMNS = (
    ("class", None),
    ("objects", "num"),
    ("detections", "num"),
    ("AP", "num"),
    ("", "hide-small"),
    ("AP50", "num"),
    ("AP75", "num"),
    ("AR", "num"),
)


def header(report: DetectionReport) -> Markup:
    """Title, what was evaluated, the figures."""
    return tag(
        "header",
        tag("h1", report.title),
        tag("p", report.subtitle, class_="soft") if report.subtitle else None,
        accounts(report.accounts) if report.accounts else None,
        headlines(report.headlines) if report.headlines else None,
    )


def section(report: DetectionReport, pictures: Mapping[str, Picture]) -> Markup:
    """The whole report as one section of another page: its parts one below the other.

    Args:
      report: what to show; its title and notes are left to the page.
      pictures: the images of its scenes, by URI.
    """
    return join(
        [
            tag("p", report.subtitle, class_="lead") if report.subtitle else None,
            accounts(report.accounts) if report.accounts else None,
            headlines(report.headlines) if report.headlines else None,
            [
                tag("div", tag("h3", title), content, class_="part", id=anchor)
                for anchor, title, content in parts(report, pictures, prefix="detection-")
            ],
        ]
    )


def parts(report: DetectionReport, pictures: Mapping[str, Picture], *, prefix: str = "") -> list[Part]:
    """(anchor, title, content) of what there is to show; all ids start with ``prefix``."""
    found: list[Part] = []
    if report.classes:
        found.append((f"{prefix}classes", "By class", classes(report.classes)))
    if report.curves:
        found.append((f"{prefix}curves", "Precision and recall", _curves(report)))
    if report.sheets:
        found.append((f"{prefix}pictures", "Pictures", sheets(report, pictures, prefix)))
    return found


def accounts(found: Accounts) -> Markup:
    """Images with truth = evaluated + missing; and what was left out."""
    terms = [("", found.evaluated + found.missing, "images with truth"), ("=", found.evaluated, "evaluated")]
    terms.append(("+", found.missing, "without a row"))
    shown = [
        join([tag("span", sign, class_="sign") if sign else None, tag("span", tag("b", f"{n:,}"), " ", name)])
        for sign, n, name in terms
    ]
    if found.missing:
        verdict = tag("span", "\u2717 their objects count as missed", class_="off")
    else:
        verdict = tag("span", "\u2713 every image with truth was evaluated", class_="ok")
    return join([tag("div", shown, verdict, class_="account card"), _left_out(found)])


def _left_out(found: Accounts) -> Markup | None:
    said = []
    if found.without_truth:
        said.append(f"{amount(found.without_truth, 'row')} of images that the truth doesn't know: left out.")
    if found.faults:
        reasons = ", ".join(
            f"{reason.replace('_', ' ')} {count:,}"
            for reason, count in sorted(found.faults_by_reason.items())
        )
        why = f" ({reasons})" if reasons else ""
        said.append(f"{amount(found.faults, 'annotation')} could not be used{why}.")
    return tag("p", " ".join(said), class_="soft small beneath") if said else None


def headlines(found: Sequence[Headline]) -> Markup:
    """Figures with what they mean, the first one large."""
    cards = [
        tag(
            "div",
            tag("b", number(value)),
            tag("span", name),
            tag("span", explanation, class_="small") if explanation else None,
            class_="card",
        )
        for name, value, explanation in found
    ]
    return tag("div", cards, class_="figures metrics")


def number(value: float | None) -> str:
    """A metric in 0..1 with three digits; a dash where it isn't defined."""
    return "\u2013" if value is None else f"{value:.3f}"


def classes(rows: Sequence[ClassRow]) -> Markup:
    """A table with a row for each class; of many, those with the lowest AP."""
    shown = list(rows)
    lead = (
        "AP is the mean precision over COCO's 101 recall points and over IoU .50 to .95; AR the recall "
        "with at most 100 detections an image."
    )
    if len(rows) > MAX_CLASSES:
        kept = sorted(rows, key=lambda row: (row.ap is None, row.ap or 0.0, row.label))[:MAX_CLASSES]
        shown = sorted(kept, key=list(rows).index)
        lead += f" {MAX_CLASSES} of {len(rows):,} classes are shown: those with the lowest AP."
    head = tag("tr", [tag("th", name, class_=kind) for name, kind in _COLUMNS])
    table = tag("table", head, [_class_row(row) for row in shown], class_="tight")
    return join([tag("p", lead, class_="lead"), tag("div", table, class_="card scroll")])


def _class_row(row: ClassRow) -> Markup:
    length = 120
    bar = tag(
        "svg",
        tag("rect", class_="track", width=length, height=10, rx=3),
        tag("rect", class_="bar", width=f"{(row.ap or 0.0) * length:.1f}", height=10, rx=3),
        viewBox=f"0 0 {length} 10",
        width=length,
        height=10,
        aria_hidden="true",
    )
    figures = [tag("td", number(value), class_="num") for value in (row.ap50, row.ap75, row.ar)]
    return tag(
        "tr",
        tag("td", row.label),
        tag("td", f"{row.truth:,}", class_="num"),
        tag("td", f"{row.detections:,}", class_="num"),
        tag("td", number(row.ap), class_="num"),
        tag("td", bar, class_="hide-small short"),
        figures,
    )


def _curves(report: DetectionReport) -> Markup:
    labels = list(dict.fromkeys(curve.label for curve in report.curves if curve.label is not None))
    lead = (
        "At each recall the best precision that can still be had; beside the name, the average of each line."
    )
    if len(labels) > MAX_CURVES:
        lowest = {label: min(c.ap for c in report.curves if c.label == label) for label in labels}
        kept = set(sorted(labels, key=lambda label: (lowest[label], label))[:MAX_CURVES])
        lead += f" {MAX_CURVES} of {len(labels):,} classes are shown: those with the lowest average."
        labels = [label for label in labels if label in kept]
    return join([tag("p", lead, class_="lead"), curves.charts(report.curves, labels)])


def sheets(report: DetectionReport, pictures: Mapping[str, Picture], prefix: str) -> Markup:
    """All sheets, with one legend and links to each."""
    scenes = [scene for sheet in report.sheets for scene in sheet.scenes]
    album = Album(scenes, pictures, prefix)
    anchors = [f"{prefix}sheet-{i}" for i in range(1, len(report.sheets) + 1)]
    named = list(zip(anchors, report.sheets, strict=True))
    links = [tag("a", sheet.name, href=f"#{anchor}") for anchor, sheet in named]
    return join(
        [
            tag("p", _drawn(report, scenes), class_="lead"),
            legend(scenes),
            tag("nav", links, aria_label="Sheets", class_="small") if len(links) > 1 else None,
            [_sheet(sheet, anchor, album) for anchor, sheet in named],
        ]
    )


def _sheet(sheet: Sheet, anchor: str, album: Album) -> Markup:
    lead = sheet.explanation
    if sheet.total > len(sheet.scenes):
        lead += f" {len(sheet.scenes):,} of {sheet.total:,} are shown."
    figures = [album.figure(scene, f"{anchor}-{i}") for i, scene in enumerate(sheet.scenes, 1)]
    head = tag("h3", sheet.name)
    return tag(
        "div",
        head,
        tag("p", lead, class_="soft small"),
        tag("div", figures, class_="scenes"),
        class_="part",
        id=anchor,
    )


def _drawn(report: DetectionReport, scenes: Sequence[Scene]) -> str:
    said = []
    if report.score_threshold:
        said.append(f"Detections are drawn from a score of {report.score_threshold:g}.")
    if report.match_iou and any(scene.count("hit") for scene in scenes):
        said.append(
            f"One is right when it overlaps a true object of its class by an IoU of {report.match_iou:g}."
        )
    return " ".join([*said, "Click a picture to enlarge it."])
