"""The sections of a report's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from beam_vision.reports import charts
from beam_vision.reports.data import (
    ClassSheet,
    Confusion,
    Facts,
    FailureGroup,
    Hit,
    Query,
    Report,
    Shown,
    StageRun,
)
from beam_vision.reports.markup import Markup, join, tag

MAX_MATRIX_CLASSES = 30
"""A matrix with more classes can't be read; then only the most frequent mistakes are listed."""


def header(report: Report) -> Markup:
    """Title, the accounts of the main job, a few figures."""
    figures = [
        tag("div", tag("b", value), tag("span", name), class_="card") for name, value in report.highlights
    ]
    return tag(
        "header",
        tag("h1", report.title),
        tag("p", report.subtitle, class_="soft"),
        account(report.stages),
        tag("div", figures, class_="figures") if figures else None,
    )


def account(stages: Sequence[StageRun]) -> Markup | None:
    """in = out + failed of the last stage that counts images and takes any failed ones into account."""
    counted = [stage for stage in stages if stage.inputs is not None and stage.unit == "images"]
    if not counted:
        return None
    stage = counted[-1]
    terms = [("in", stage.inputs, ""), ("out", stage.outputs, "=")]
    if stage.already_done:
        terms.append(("already done", stage.already_done, "+"))
    terms.append(("failed", stage.failed, "+"))
    parts = [
        join([tag("span", sign, class_="sign") if sign else None, tag("span", tag("b", f"{n:,}"), " ", name)])
        for name, n, sign in terms
    ]
    if all(stage.accounted for stage in stages):
        verdict = tag("span", "\u2713 every image accounted for, at every stage", class_="ok")
    else:
        wrong = ", ".join(stage.name for stage in stages if not stage.accounted)
        verdict = tag("span", f"\u2717 images are unaccounted for: {wrong}", class_="off")
    return tag("div", parts, verdict, class_="account card")


def stages(runs: Sequence[StageRun]) -> Markup:
    """A table with the accounts and the time of each job, and the commands that ran them."""
    longest = max((run.wall_sec for run in runs), default=0.0)
    head = tag(
        "tr",
        [tag("th", name, class_=kind) for name, kind in _STAGE_COLUMNS],
    )
    commands = tag("pre", "\n".join(f"$ {run.command}" for run in runs if run.command), class_="mono")
    whole = sum(run.wall_sec for run in runs)
    return join(
        [
            tag("p", f"{whole:,.1f} s in all. Parts are summed over threads.", class_="lead"),
            tag("div", tag("table", head, [_stage_row(run, longest) for run in runs]), class_="card scroll"),
            tag("details", tag("summary", "The commands that were run"), commands),
        ]
    )


_STAGE_COLUMNS = (
    ("stage", None),
    ("in", "num"),
    ("out", "num"),
    ("failed", "num"),
    ("seconds", "num"),
    ("", "hide-small"),
)


def _stage_row(run: StageRun, longest: float) -> Markup:
    parts = " \u00b7 ".join(f"{name} {sec:,.1f} s" for name, sec in run.parts_sec.items())
    unit = "" if run.unit == "images" else f"counts {run.unit}"
    notes = [tag("div", text, class_="soft small") for text in (run.note, unit, parts) if text]
    counts = ("", "", "")
    if run.inputs is not None:
        counts = (f"{run.inputs:,}", f"{run.outputs + run.already_done:,}", f"{run.failed:,}")
    bad = "num bad" if run.failed or not run.accounted else "num"
    label = f"{run.name}: {run.wall_sec:.1f} s"
    return tag(
        "tr",
        tag("td", run.name, notes),
        tag("td", counts[0], class_="num"),
        tag("td", counts[1], class_="num"),
        tag("td", counts[2], class_=bad),
        tag("td", f"{run.wall_sec:,.1f}", class_="num"),
        tag("td", charts.bar(run.wall_sec, longest, label=label), class_="hide-small bars"),
    )


def failures(groups: Sequence[FailureGroup]) -> Markup:
    """Failures by reason, each with its files and what was wrong with them."""
    if not groups:
        return tag("p", "No image failed.", class_="lead")
    total = sum(group.total for group in groups)
    lead = f"{total:,} {'image' if total == 1 else 'images'} went to the dead letter; all others went on."
    return join(
        [
            tag("p", lead, class_="lead"),
            tag("div", [_failure_group(group) for group in groups], class_="card"),
        ]
    )


def _failure_group(group: FailureGroup) -> Markup:
    items = [
        tag("li", tag("code", failure.key), tag("div", failure.detail, class_="soft"))
        for failure in group.examples
    ]
    more = group.total - len(group.examples)
    if more > 0:
        items.append(tag("li", f"and {more:,} more", class_="soft"))
    count = tag("span", f"{group.total:,}", class_="chip bad")
    return tag(
        "div", tag("h3", group.reason.replace("_", " "), " ", count), tag("ul", items), class_="reason"
    )


def queries(found: Sequence[Query], pictures: Mapping[str, str]) -> Markup:
    """Query images with their nearest neighbours; a neighbour with another label is marked."""
    others = [
        (query.image, hit.image) for query in found for hit in query.hits if hit.image.key != query.image.key
    ]
    known = [(mine.label, other.label) for mine, other in others if None not in (mine.label, other.label)]
    agree = sum(mine == theirs for mine, theirs in known)
    lead = "Each image is followed by its nearest neighbours; the figure is the cosine similarity."
    if known:
        lead += f" {agree:,} of {len(known):,} neighbours have the label of their query."
    cards = [_query(query, pictures) for query in found]
    commands = "\n".join(f"$ {query.command}" for query in found if query.command)
    asked = (
        tag("details", tag("summary", "The searches"), tag("pre", commands, class_="mono"))
        if commands
        else None
    )
    return join([tag("p", lead, class_="lead"), cards, asked])


def _query(query: Query, pictures: Mapping[str, str]) -> Markup:
    image = query.image
    asked = _figure(image, pictures, join([tag("b", image.label or "query"), tag("div", _name(image.key))]))
    hits = [_hit(query, hit, pictures) for hit in query.hits]
    return tag("div", asked, tag("div", hits, class_="grid"), class_="query card")


def _hit(query: Query, hit: Hit, pictures: Mapping[str, str]) -> Markup:
    other = None not in (query.image.label, hit.image.label) and query.image.label != hit.image.label
    mark = "\u2717 " if other else ""
    caption = join([tag("b", f"{mark}{hit.image.label or ''}"), tag("div", f"{hit.score:.3f}")])
    return _figure(hit.image, pictures, caption, wrong=other)


def uncertain(report: Report, pictures: Mapping[str, str]) -> Markup:
    """The images whose top score is lowest."""
    figures = [_predicted(image, pictures) for image in report.uncertain]
    lead = "Lowest top score first: what a person should look at, and what the next labels should be for."
    return join(
        [tag("p", lead, class_="lead"), tag("div", tag("div", figures, class_="grid"), class_="card")]
    )


def confusion(report: Report) -> Markup:
    """The confusion matrix, and the most frequent mistakes."""
    matrix = report.confusion
    assert matrix is not None
    total, correct = charts.total_and_correct(matrix.counts)
    share = f" ({correct / total:.1%})" if total else ""
    lead = f"{correct:,} of {total:,} images{share} lie on the diagonal. {matrix.caption}"
    drawn = None
    if len(matrix.labels) <= MAX_MATRIX_CLASSES:
        drawn = tag("div", charts.confusion_matrix(matrix), class_="scroll")
    both = tag("div", drawn, tag("div", _mistakes(matrix), class_="scroll"), class_="card beside")
    return join([tag("p", lead, class_="lead"), both])


def _mistakes(matrix: Confusion) -> Markup:
    found = charts.mistakes(matrix)
    if not found:
        return tag("p", "No mistakes.")
    head = tag("tr", tag("th", "is"), tag("th", "was taken for"), tag("th", "times", class_="num"))
    rows = [
        tag("tr", tag("td", true), tag("td", predicted), tag("td", f"{count:,}", class_="num"))
        for true, predicted, count in found
    ]
    return join([tag("h3", "Most frequent mistakes"), tag("table", head, rows)])


def classes(report: Report, pictures: Mapping[str, str]) -> Markup:
    """A sample of each class with its predictions, wrong ones marked."""
    lead = (
        "A sample of each class, the same in every run; wrong predictions come first and are marked \u2717."
    )
    if report.classes_in_all > len(report.classes):
        shown = f"{len(report.classes):,} of {report.classes_in_all:,}"
        lead += f" {shown} classes are shown: those most often wrong."
    sheets = [_sheet(sheet, pictures) for sheet in report.classes]
    return join([tag("p", lead, class_="lead"), tag("div", sheets, class_="sheets")])


def _sheet(sheet: ClassSheet, pictures: Mapping[str, str]) -> Markup:
    count = f"{sheet.total:,} images" if sheet.total != 1 else "1 image"
    if sheet.correct is not None:
        count = f"{sheet.correct:,} of {sheet.total:,} right"
    head = tag("header", tag("h3", sheet.name), tag("span", count, class_="soft"))
    figures = [_predicted(image, pictures, named=False) for image in sheet.images]
    return tag("div", head, tag("div", figures, class_="grid"), class_="sheet card")


def facts(lists: Sequence[Facts]) -> Markup:
    """Digests, ids, settings: what one needs to find a run again."""
    cards = [
        tag(
            "div",
            tag("h3", item.title),
            tag(
                "dl", [join([tag("dt", name), tag("dd", value, class_="mono")]) for name, value in item.rows]
            ),
            class_="card",
        )
        for item in lists
    ]
    return tag("div", cards, class_="facts")


def _predicted(image: Shown, pictures: Mapping[str, str], *, named: bool = True) -> Markup:
    """An image with its prediction; a wrong one is marked.

    Args:
      image: what to show.
      pictures: thumbnails, by URI.
      named: whether the true label stands there too (a heading may have said it).
    """
    score = "" if image.score is None else f" {image.score:.2f}"
    if image.wrong:
        lines = [tag("b", f"\u2717 {image.prediction}"), score]
        lines += [tag("div", f"is {image.label}")] if named else []
    else:
        lines = [tag("b", image.prediction or image.label or ""), score] if named else [score]
    return _figure(image, pictures, join(lines), wrong=image.wrong)


def _figure(image: Shown, pictures: Mapping[str, str], caption: Markup, *, wrong: bool = False) -> Markup:
    source = pictures.get(image.uri, "")
    picture: Markup | str = "no preview"
    if source.startswith("data:image/"):
        picture = tag("img", src=source, alt=_name(image.key), loading="lazy")
    return tag(
        "figure",
        tag("div", picture, class_="pic"),
        tag("figcaption", caption),
        class_="wrong" if wrong else None,
        title=image.key,
    )


def _name(key: str) -> str:
    """The last part of a key, which is enough to recognise a file."""
    return key.rstrip("/").rsplit("/", 1)[-1] or key
