"""The sections of a streaming job's page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beam_vision.reports import charts, stream_charts, stream_timeline
from beam_vision.reports.markup import Markup, amount, join, tag
from beam_vision.reports.stream_data import Broken, BrokenGroup, CameraStory, Rollout, StreamStory
from beam_vision.reports.stream_timeline import MAX_CAMERAS, state_class, utc

MAX_ALERTS = 200
SHOWN_BYTES = 96
STAGE_NAMES = {
    "publish": "capture to publish",
    "pull": "publish to pull",
    "queue": "waiting for a batch",
    "decode": "decoding",
    "infer": "inference of its batch",
    "write": "until handed to the outputs",
    "total": "capture to row",
}


def header(story: StreamStory, title: str) -> Markup:
    """Title, the accounts, a few figures."""
    span = story.end_sec - story.start_sec
    p50, p95, p99 = story.stages.get("total", (None, None, None))
    figures = [
        (f"{story.rows / span:,.1f}/s" if span > 0 else "", "rows a second, on average"),
        (" / ".join(f"{ms:,.0f}" for ms in (p50, p95, p99) if ms is not None), "p50 / p95 / p99 ms to a row"),
        (f"{sum(camera.saved_sec for camera in story.cameras):,.1f} s", "inference spared by gating"),
        (f"{len(story.alerts):,}", "changes of a camera's state"),
        (_rollouts_said(story.rollouts), "model versions"),
    ]
    cards = [
        tag("div", tag("b", value), tag("span", name), class_="card") for value, name in figures if value
    ]
    when = f"{utc(story.start_sec, '%Y-%m-%d %H:%M:%S')} to {utc(story.end_sec)} UTC"
    cameras = amount(len(story.cameras), "camera")
    return tag(
        "header",
        tag("h1", title),
        tag("p", f"{cameras}, {when}, from the tables in {story.folder}", class_="soft"),
        account(story),
        tag("div", cards, class_="figures"),
    )


def _rollouts_said(rollouts: Sequence[Rollout]) -> str:
    served = sum(rollout.swapped for rollout in rollouts)
    refused = len(rollouts) - served
    return f"{served} served" + (f", {refused} refused" if refused else "") if rollouts else ""


def account(story: StreamStory) -> Markup:
    """What became of all messages; and whether the counts by window agree with the tables."""
    messages = story.rows + story.gated + story.duplicates + story.failed
    terms = [("messages", messages, ""), ("rows", story.rows, "=")]
    terms += [("gated", story.gated, "+"), ("repeated", story.duplicates, "+"), ("failed", story.failed, "+")]
    parts = [
        join([tag("span", sign, class_="sign") if sign else None, tag("span", tag("b", f"{n:,}"), " ", name)])
        for name, n, sign in terms
    ]
    missing = story.rows - story.counted_rows
    if missing == 0:
        verdict = tag("span", "\u2713 every row is in its window's counts", class_="ok")
    elif missing > 0:
        verdict = tag("span", f"\u2717 {missing:,} rows are in no window's counts (too late?)", class_="off")
    else:
        verdict = tag("span", f"\u2717 the counts have {-missing:,} rows that the table lacks", class_="off")
    return tag("div", parts, verdict, class_="account card")


def timelines(story: StreamStory) -> Markup:
    """A lane for each camera; of many, those with the most changes of state, failures and messages."""
    cameras = list(story.cameras)
    if len(cameras) > MAX_CAMERAS:
        cameras.sort(key=lambda c: (-len(c.spans), -len(c.failed_at), -c.total("messages")))
        cameras = sorted(cameras[:MAX_CAMERAS], key=lambda camera: camera.name)
    shown = (
        f"{len(cameras):,} of {len(story.cameras):,} cameras. " if len(cameras) < len(story.cameras) else ""
    )
    outside = f" {amount(story.outside, 'row')} with far-off times not drawn." if story.outside else ""
    lead = (
        f"{shown}Dark: rows, a bar for {_seconds(story.bin_sec)}. Behind: all messages of a window.{outside}"
    )
    keys = [
        tag("span", _swatch(name), text)
        for name, text in (
            ("rows", "rows"),
            ("gated", "gated or repeated"),
            ("failed", "failed"),
            *((state_class(state), state) for state in _states(story)),
        )
    ]
    return join(
        [
            tag("p", lead, class_="lead"),
            tag("div", stream_timeline.lanes(story, cameras), class_="card scroll"),
            tag("div", keys, class_="keys"),
        ]
    )


def _seconds(seconds: float) -> str:
    return "each second" if seconds == 1 else f"{seconds:g} seconds"


def _states(story: StreamStory) -> list[str]:
    return sorted({span.state for camera in story.cameras for span in camera.spans})


def _swatch(name: str) -> Markup:
    square = tag("rect", class_=name, width=12, height=12, rx=3)
    return tag("svg", square, viewBox="0 0 12 12", width=12, height=12)


def health(story: StreamStory) -> Markup:
    """A row for each camera, then each change of state."""
    head = tag("tr", [tag("th", name, class_=kind) for name, kind in _HEALTH_COLUMNS])
    table = tag("table", head, [_health_row(camera) for camera in story.cameras])
    alerts = [
        tag(
            "tr",
            tag("td", utc(alert.time_sec), class_="mono"),
            tag("td", alert.camera),
            tag("td", alert.previous, " \u2192 ", tag("b", alert.state)),
            tag("td", alert.detail, class_="soft"),
        )
        for alert in story.alerts[:MAX_ALERTS]
    ]
    names = tag("tr", [tag("th", name) for name in ("time (UTC)", "camera", "state", "")])
    parts: list[Any] = [tag("div", table, class_="card scroll")]
    if alerts:
        parts.append(tag("div", tag("table", names, alerts), class_="card scroll"))
    return tag("div", parts, class_="stacked")


_HEALTH_COLUMNS = (
    *(("camera", None), ("states", None), ("messages", "num"), ("rows", "num"), ("gated", "num")),
    *(("repeated", "num"), ("failed", "num"), ("spared s", "num"), ("gaps", "num"), ("longest s", "num")),
    *(("clock s", "num"), ("brightness", "num"), ("sharpness", "num")),
)


def _health_row(camera: CameraStory) -> Markup:
    states = dict.fromkeys(span.state for span in camera.spans)
    chips = [tag("span", state, class_="chip on" if state == "ok" else "chip off") for state in states]
    counts = [camera.total(kind) for kind in ("messages", "rows", "gated", "duplicates", "failed")]
    figures = [
        f"{camera.saved_sec:,.1f}",
        f"{camera.gaps:,}",
        f"{camera.longest_gap_sec:,.1f}",
        "" if camera.skew_sec is None else f"{camera.skew_sec:+.2f}",
        _between(camera.brightness),
        _between(camera.sharpness),
    ]
    return tag(
        "tr",
        tag("td", camera.name or "(unknown)"),
        tag("td", chips),
        [tag("td", f"{count:,}", class_="num") for count in counts[:-1]],
        tag("td", f"{counts[-1]:,}", class_="num bad" if counts[-1] else "num"),
        [tag("td", figure, class_="num") for figure in figures],
    )


def _between(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else "\u2013".join(dict.fromkeys(f"{end:,.0f}" for end in ends))


def classes(story: StreamStory) -> Markup:
    """What each camera saw, by class and window."""
    cards = []
    for seen in story.classes:
        if seen.classes:
            more = f"{amount(seen.others, 'more class', 'more classes')} not shown" if seen.others else ""
            head = tag("header", tag("h3", seen.camera), tag("span", more, class_="soft"))
            cards.append(tag("div", head, stream_charts.class_cells(story, seen), class_="card scroll"))
    start, end = story.columns[0]
    lead = f"A column for {_seconds(round(end - start, 3))}, by time since the start; late frames counted in."
    return join([tag("p", lead, class_="lead"), tag("div", cards, class_="beside-cards")])


def latency(story: StreamStory) -> Markup:
    """Over time by camera, and by stage."""
    cards = []
    for camera in story.cameras[:MAX_CAMERAS]:
        if camera.latency:
            p95 = "" if camera.p95_ms is None else f"p95 {camera.p95_ms:,.0f} ms"
            head = tag("header", tag("h3", camera.name), tag("span", p95, class_="soft"))
            cards.append(tag("div", head, stream_charts.latency_chart(story, camera), class_="card"))
    largest = max((figures[1] for figures in story.stages.values()), default=0.0)
    rows = [
        tag(
            "tr",
            tag("td", tag("b", stage) if stage == "total" else stage),
            tag("td", STAGE_NAMES.get(stage, ""), class_="soft hide-small"),
            [tag("td", f"{ms:,.1f}", class_="num") for ms in figures],
            tag("td", charts.bar(figures[1], largest, label=f"p95 of {stage}"), class_="hide-small bars"),
        )
        for stage, figures in story.stages.items()
    ]
    names = (("stage", None), ("", "hide-small"), ("p50 ms", "num"), ("p95 ms", "num"), ("p99 ms", "num"))
    head = tag("tr", [tag("th", name, class_=kind) for name, kind in (*names, ("p95", "hide-small"))])
    lead = "From capture to row, by window: p50 and p95 (thick), shaded up to p99. Below: all rows, by stage."
    return join(
        [
            tag("p", lead, class_="lead"),
            tag("div", cards, class_="multiples") if cards else None,
            tag("div", tag("table", head, rows), class_="card scroll"),
        ]
    )


def broken(groups: Sequence[BrokenGroup], pictures: Mapping[int, str]) -> Markup:
    """Failures by reason, with what their payloads look like.

    Args:
      groups: the failures.
      pictures: ``data:`` URIs of payloads that could be drawn, by ``id`` of the :class:`Broken`.
    """
    total = sum(group.total for group in groups)
    lead = f"{amount(total, 'message')} went to the dead letter, payload and all; all others went on."
    parts = []
    for group in groups:
        items = [_broken_item(example, pictures.get(id(example), "")) for example in group.examples]
        more = group.total - len(group.examples)
        if more > 0:
            items.append(tag("li", f"and {more:,} more", class_="soft"))
        count = tag("span", f"{group.total:,}", class_="chip bad")
        name = tag("h3", group.reason.replace("_", " "), " ", count)
        parts.append(tag("div", name, tag("ul", items), class_="reason"))
    return join([tag("p", lead, class_="lead"), tag("div", parts, class_="card")])


def _broken_item(example: Broken, picture: str) -> Markup:
    drawn: Markup | str = f"{len(example.data):,} bytes" if example.data else "no payload"
    if picture.startswith("data:image/"):
        drawn = tag("img", src=picture, alt="its payload", loading="lazy")
    begins = None
    if example.data and not picture:
        begins = tag("div", tag("code", _beginning(example.data)), class_="soft")
    when = utc(example.time_sec) if example.time_sec else ""
    return tag(
        "li",
        tag("div", drawn, class_="pic"),
        tag(
            "div",
            tag("code", example.key),
            tag("div", f"{when} {example.stage}: {example.detail}", class_="soft"),
            begins,
        ),
        class_="broken",
    )


def _beginning(data: bytes) -> str:
    """How a payload begins: as text where it is text, else its bytes in hexadecimal digits."""
    text = data[:SHOWN_BYTES].decode("utf-8", "replace")
    strange = sum(not (c.isprintable() or c.isspace()) or c == "\ufffd" for c in text)
    return data[: SHOWN_BYTES // 4].hex(" ") if strange > len(text) // 10 else " ".join(text.split())


def rollouts(found: Sequence[Rollout]) -> Markup:
    """Each candidate: when, whether it serves, why not."""
    rows = [
        tag(
            "tr",
            tag("td", utc(rollout.time_sec), class_="mono"),
            tag("td", rollout.version),
            tag("td", tag("code", rollout.model_digest[:12])),
            tag("td", tag("span", rollout.outcome, class_=f"chip {'on' if rollout.swapped else 'off'}")),
            tag("td", rollout.reason, class_="soft"),
            tag("td", f"{rollout.load_sec:,.1f}", class_="num"),
            tag("td", f"{rollout.rows:,}" if rollout.swapped else "", class_="num"),
        )
        for rollout in found
    ]
    names = (("time (UTC)", None), ("version", None), ("digest", None), ("", None), ("", None))
    head = tag("tr", [tag("th", name, class_=kind) for name, kind in (*names, ("s", "num"), ("rows", "num"))])
    return tag("div", tag("table", head, rows), class_="card scroll")
