"""What is made of the streaming benchmark's measurements: percentiles, ratios, a slope, and a page of them.

Pure; a *run* is what one contender did in one step of one round, see :class:`Run`.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

BARE = "bare"
TITLES = {BARE: "bare loop", "topic": "beam-vision, topic", "folder": "beam-vision, topic and Parquet folder"}
QUANTILES = (0.5, 0.95, 0.99)
HALF = 0.5


@dataclass(frozen=True)
class Run:
    """What one contender did with the messages of one step.

    Attributes:
      name: the contender.
      round: 1, 2, ...
      share: of the bare loop's top rate, at which messages were published; 0: all at once.
      rate: messages a second: published, or (all at once) written.
      latencies_ms: publish to row written, each message once.
      late_ms: how late the publisher sent its latest message.
      cpu_ms: processor time of the contender's process, a message.
      mib: its resident memory after the step.
      stolen: the share of the machine's processor time that its hypervisor withheld meanwhile.
    """

    name: str
    round: int
    share: float
    rate: float
    latencies_ms: Sequence[float] = ()
    late_ms: float = 0.0
    cpu_ms: float = 0.0
    mib: float = 0.0
    stolen: float = 0.0


@dataclass(frozen=True)
class Memory:
    """Resident memory over time: seconds, MiB, and how many messages were handled meanwhile."""

    seconds: Sequence[float]
    mib: Sequence[float]
    messages: int


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest of ``values`` that at least the share ``q`` of them doesn't exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(q * len(ordered) * 1e6) // 10**6) - 1)]


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """The slope of the least-squares line through points; 0 for fewer than two places."""
    if len(set(xs)) < 2:
        return 0.0
    return statistics.linear_regression(xs, ys).slope


def drained_rate(written_sec: Sequence[float]) -> float:
    """Rows a second while a backlog is worked off: the first tenth and the last are left out.

    Rows come in batches; so the rate is that between two of them, counted to the end of each.
    """
    ordered = sorted(written_sec)
    first, last = ordered[len(ordered) // 10], ordered[len(ordered) * 9 // 10]
    if last <= first:
        raise ValueError("all rows were written at once: the backlog is too small for a rate")
    return sum(first < at <= last for at in ordered) / (last - first)


def of(runs: Iterable[Run], name: str, share: float) -> list[Run]:
    """The runs of a contender at a share."""
    return [run for run in runs if run.name == name and run.share == share]


def top_rate(runs: Sequence[Run], name: str) -> float:
    """A contender's top rate: the median over rounds."""
    return statistics.median(run.rate for run in of(runs, name, 0))


def latency_ms(runs: Sequence[Run], name: str, share: float, q: float) -> float:
    """A quantile of a contender's latency: the median over rounds."""
    return statistics.median(quantile(run.latencies_ms, q) for run in of(runs, name, share))


def latency_ratio(runs: Sequence[Run], name: str, share: float, q: float) -> float:
    """How a contender's quantile compares with the bare loop's: the median of the rounds' ratios."""
    pairs = zip(of(runs, name, share), of(runs, BARE, share), strict=True)
    return statistics.median(quantile(a.latencies_ms, q) / quantile(b.latencies_ms, q) for a, b in pairs)


def rate_ratio(runs: Sequence[Run], name: str) -> float:
    """How a contender's top rate compares with the bare loop's: the median of the rounds' ratios."""
    pairs = zip(of(runs, name, 0), of(runs, BARE, 0), strict=True)
    return statistics.median(a.rate / b.rate for a, b in pairs)


def growth(memory: Memory) -> tuple[float, float]:
    """MiB a minute and MiB a thousand messages by which memory grew, over the last three quarters."""
    start = len(memory.seconds) // 4
    a_second = slope(memory.seconds[start:], memory.mib[start:])
    took_sec = memory.seconds[-1] - memory.seconds[0]
    return 60 * a_second, 1000 * a_second * took_sec / max(memory.messages, 1)


def top_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Top rates."""
    lines = [
        "| | top rate, messages/s (range) | of the bare loop | processor ms a message | resident MiB |",
        "|---|---|---|---|---|",
    ]
    for name in names:
        mine = of(runs, name, 0)
        rates = [run.rate for run in mine]
        shown = f"{top_rate(runs, name):.1f} ({min(rates):.1f} to {max(rates):.1f})"
        cpu_ms = statistics.median(run.cpu_ms for run in mine)
        mib = max(run.mib for run in runs if run.name == name)
        share = f"{rate_ratio(runs, name):.0%}"
        lines.append(f"| {TITLES[name]} | {shown} | {share} | {cpu_ms:.1f} | {mib:.0f} |")
    return "\n".join(lines)


def latency_table(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Latencies at rising rates."""
    heads = [f"p{100 * q:g} ms" for q in QUANTILES]
    lines = [
        f"| of the top rate | messages/s | | {' | '.join(heads)} | p95, of the bare loop's |",
        "|---" * (len(heads) + 4) + "|",
    ]
    for share in sorted({run.share for run in runs if run.share}):
        for name in names:
            rate = statistics.median(run.rate for run in of(runs, name, share))
            cells = [f"{latency_ms(runs, name, share, q):.0f}" for q in QUANTILES]
            ratio = f"{latency_ratio(runs, name, share, 0.95):.2f}"
            lines.append(f"| {share:.0%} | {rate:.0f} | {TITLES[name]} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def verdict(runs: Sequence[Run], memory: Memory | None, names: Sequence[str]) -> str:
    """The aims, and whether they were met."""
    lines = []
    for name in names:
        if name == BARE:
            continue
        rate, p95 = rate_ratio(runs, name), latency_ratio(runs, name, HALF, 0.95)
        lines.append(f"{TITLES[name]}: {rate:.0%} of the bare loop's top rate (aim: 80 %), ")
        lines[-1] += f"p95 at half load {p95:.2f} of its (aim: 1.2)"
    if memory is not None:
        minute, thousand = growth(memory)
        lines.append(
            f"Memory: {memory.mib[-1]:.0f} MiB, {minute:+.2f} MiB a minute, {thousand:+.2f} MiB a thousand "
            f"messages, over {memory.seconds[-1] - memory.seconds[0]:.0f} s and {memory.messages} messages"
        )
    return "\n".join(f"- {line}" for line in lines)
