"""A plan as a table for a terminal, and as plain JSON values."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from beam_vision.planning.estimate import Estimate, Range
from beam_vision.planning.lake import Lake, Share, images_text


@dataclass(frozen=True)
class StepTime:
    """A step of a job.

    Attributes:
      name: as the table shows it.
      cpu_ms: CPU milliseconds an image.
      share: of all CPU time of the job here, the model's included, in 0..1.
    """

    name: str
    cpu_ms: Range
    share: float


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that a plan says.

    Attributes:
      job: its name.
      mode: ``batch`` or ``streaming``.
      images: how many it is for.
      lake: as the sample shows it.
      steps: where time goes here.
      model_images_per_sec: of the model alone, with all cores of this machine; None without a model.
      here: the estimate for this machine.
      workers: for each type of worker, the cheapest first.
      prices: date, region, currency, source and note of the price table.
      assumptions: in words.
      notes: what the person who plans should know.
    """

    job: str
    mode: str
    images: int
    lake: Lake
    steps: tuple[StepTime, ...]
    model_images_per_sec: Range | None
    here: Estimate
    workers: tuple[Estimate, ...]
    prices: dict[str, str]
    assumptions: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def to_json(plan: Plan) -> dict[str, Any]:
    """All of it as plain JSON values."""
    content = dataclasses.asdict(plan)
    cheapest = plan.workers[0].machine.shown if plan.workers else ""
    return {**content, "cheapest": cheapest}


def render(plan: Plan) -> str:
    """The plan as text."""
    parts = [_lake(plan), _steps(plan), _workers(plan)]
    parts += [_list("assumed:", plan.assumptions), _list("notes:", plan.notes)]
    return "\n\n".join(part for part in parts if part)


def _list(title: str, items: Sequence[str]) -> str:
    return "\n".join([title, *(f"  - {item}" for item in items)]) if items else ""


def _lake(plan: Plan) -> str:
    lake = plan.lake
    about = "" if lake.exact else "about "
    title = f"{about}{images_text(lake.total)}, {lake.sampled:,} looked at"
    if lake.mean_bytes:
        title += f": {lake.mean_bytes / 1e3:,.0f} kB each, {lake.median_mp:.3g} megapixels (median)"
    groups = (
        ("format", lake.formats),
        ("size", lake.sizes),
        ("EXIF", lake.orientations),
        ("fails", lake.failures or (Share("none", 0, 0, 0.0, 0.0),)),
    )
    rows = [("", "share", "95 % interval", "")]
    for title_of_group, shares in groups:
        for i, share in enumerate(shares):
            rows.append((title_of_group if i == 0 else "", *_share(share, lake.sampled)))
    rows += [("listing", f"{number:,}", "", reason) for reason, number in lake.listing_failed.items()]
    return "\n".join([title, _table(rows, left=(0, 3))])


def _share(share: Share, sampled: int) -> tuple[str, str, str]:
    from beam_vision.planning.lake import wilson

    if not share.of:  # nothing failed: what could still be there
        return "0.0 %", f"0.0 .. {100 * wilson(0, sampled)[1]:.1f} %", share.name
    return (
        f"{100 * share.value:.1f} %",
        f"{100 * share.low:.1f} .. {100 * share.high:.1f} %",
        share.name,
    )


def _steps(plan: Plan) -> str:
    rows = [("step", "CPU ms an image", "nine in ten", "share")]
    rows += [
        (
            step.name,
            f"{step.cpu_ms.value:,.2f}",
            f"{step.cpu_ms.low:,.2f} .. {step.cpu_ms.high:,.2f}",
            f"{step.share:.0%}",
        )
        for step in plan.steps
    ]
    here = plan.here
    lines = ["measured here:", _table(rows, left=(0,))]
    if plan.model_images_per_sec:
        lines.append(f"  the model alone: {_figure(plan.model_images_per_sec)} images/s")
    lines.append(
        f"  the job here, with {here.machine.vcpus} cores: about {_figure(here.images_per_sec)} images/s, "
        f"limited by {here.limit}"
    )
    return "\n".join(lines)


def _workers(plan: Plan) -> str:
    currency = plan.prices["currency"]
    has_gpus = any(item.gpu_busy for item in plan.workers)
    head = ("worker", "images/s", "nine in ten", "limit", *(["GPU busy"] if has_gpus else []))
    head += ("workers", "run time", f"{currency} the job", f"{currency} a million", "nine in ten")
    rows: list[tuple[str, ...]] = [head]
    for item in plan.workers:
        busy = f"{item.gpu_busy.value:.0%}" if item.gpu_busy else "-"
        rows.append(
            (
                item.machine.shown,
                _short(item.images_per_sec.value),
                f"{_short(item.images_per_sec.low)} .. {_short(item.images_per_sec.high)}",
                item.limit,
                *([busy] if has_gpus else []),
                f"{item.workers:,}",
                duration(item.run_sec.value) + ("" if item.in_time else " (late)"),
                f"{item.cost.value:,.2f}",
                f"{item.cost_per_million.value:,.2f}",
                f"{item.cost_per_million.low:,.2f} .. {item.cost_per_million.high:,.2f}",
            )
        )
    prices = plan.prices
    what = images_text(plan.images) + (" in an hour" if plan.mode == "streaming" else "")
    title = f"{what} on Dataflow ({prices['region']}, list prices of {prices['date']}):"
    return "\n".join([title, _table(rows, left=(0, 3)), *_ratios(plan)])


def _ratios(plan: Plan) -> list[str]:
    """From how many vCPUs on each kind of GPU no longer waits for decoding."""
    found = {item.machine.gpu: item.vcpus_per_gpu for item in plan.workers if item.vcpus_per_gpu}
    return [
        f"  one {gpu} waits for decoding with fewer than {_figure(ratio)} vCPUs"
        for gpu, ratio in sorted(found.items(), key=lambda item: item[1].value)
    ]


def _table(rows: Sequence[Sequence[str]], *, left: Sequence[int]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(f"  {line}".rstrip() for line in lines)


def _figure(figure: Range) -> str:
    return f"{_short(figure.value)} ({_short(figure.low)} .. {_short(figure.high)})"


def _short(number: float) -> str:
    """Three digits are more than is known."""
    if number >= 100:
        digits = len(str(int(number)))
        return f"{round(number, 3 - digits):,.0f}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """``95`` -> ``1 min 35 s``, ``7300`` -> ``2 h 2 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
