"""What a running stream shows on the terminal: a line for each camera, and the model that serves."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from beam_vision.pipelines.job import watching
from beam_vision.streaming.board import BOARD, Board, BoardNow, CameraNow

MAX_CAMERAS = 20
DIGEST_CHARS = 12
QUIET_EVERY = 10
"""Where there is no terminal, a line each so many rounds."""
BOLD, SOFT, RED, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[0m"
COLUMNS = (
    *(("camera", "<18"), ("state", "<9"), ("rate/s", ">8"), ("p95 ms", ">8"), ("rows", ">9")),
    *(("gated", ">8"), ("failed", ">8"), ("repeated", ">9"), ("  sees", "<16")),
)


@contextlib.contextmanager
def shown(board: Board = BOARD, *, every_sec: float = 1.0, stream: TextIO | None = None) -> Iterator[None]:
    """Shows the board while the block runs: drawn anew each round on a terminal, else a line now and then.

    Args:
      board: what to show.
      every_sec: how long a round is.
      stream: where; stderr by default.
    """
    out = stream or sys.stderr
    screen = _Screen(out, board) if out.isatty() else _Lines(out, board)
    try:
        with watching(screen.show, every_sec):
            yield
    finally:
        screen.show(last=True)


class _Screen:
    """A table that is drawn over the one before."""

    def __init__(self, out: TextIO, board: Board) -> None:
        self._out, self._board = out, board
        self._start = time.monotonic()
        self._height = 0

    def show(self, *, last: bool = False) -> None:
        width = shutil.get_terminal_size().columns
        lines = table(self._board.snapshot(), time.monotonic() - self._start, colours=True)
        up = f"\033[{self._height}A" if self._height else ""
        self._out.write(f"\r{up}\033[J" + "".join(f"{_cut(line, width - 1)}\n" for line in lines))
        self._out.flush()
        self._height = len(lines)


class _Lines:
    """For a log: the state of all cameras on one line, each tenth round."""

    def __init__(self, out: TextIO, board: Board) -> None:
        self._out, self._board = out, board
        self._start = time.monotonic()
        self._round = 0

    def show(self, *, last: bool = False) -> None:
        self._round += 1
        if last or self._round % QUIET_EVERY == 0:
            self._out.write(line(self._board.snapshot(), time.monotonic() - self._start) + "\n")
            self._out.flush()


def table(now: BoardNow, elapsed_sec: float, *, colours: bool = False) -> list[str]:
    """The table's lines: a head, the cameras, the model."""
    bold, soft, red, plain = (BOLD, SOFT, RED, PLAIN) if colours else ("",) * 4
    lines = [soft + "".join(f"{name:{form}}" for name, form in COLUMNS).rstrip() + plain]
    for camera in now.cameras[:MAX_CAMERAS]:
        cells = [f"{text:{form}}" for text, (_, form) in zip(_cells(camera), COLUMNS, strict=True)]
        cells[0] = bold + cells[0] + plain
        if camera.state not in ("", "ok"):
            cells[1] = red + cells[1] + plain
        if camera.failed:
            cells[6] = red + cells[6] + plain
        lines.append("".join(cells).rstrip())
    if len(now.cameras) > MAX_CAMERAS:
        lines.append(f"{soft}and {len(now.cameras) - MAX_CAMERAS:,} more{plain}")
    seconds = int(elapsed_sec)
    lines.append(f"{soft}{seconds // 60}:{seconds % 60:02d}{plain}  {_model(now)}")
    return lines


def _cells(camera: CameraNow) -> list[str]:
    p95 = "" if camera.p95_ms is None else f"{camera.p95_ms:,.0f}"
    totals = [f"{n:,}" for n in (camera.rows, camera.gated, camera.failed, camera.duplicates)]
    named = [_short(camera.camera, 17), _short(camera.state, 8)]
    return [*named, f"{camera.rate_per_sec:,.1f}", p95, *totals, "  " + _short(camera.label, 14)]


def _model(now: BoardNow) -> str:
    if not now.model_digest:
        return "no model serves yet"
    said = f"model {now.version} {now.model_digest[:DIGEST_CHARS]}".replace("  ", " ")
    for number, word in ((now.swaps, "swapped in"), (now.refused, "refused")):
        said += f", {number} {word}" if number else ""
    return said


def line(now: BoardNow, elapsed_sec: float) -> str:
    """The same on one line."""
    cameras = [
        f"{camera.camera} {camera.rate_per_sec:.1f}/s"
        + ("" if camera.p95_ms is None else f" p95 {camera.p95_ms:,.0f} ms")
        + "".join(f" {n:,} {word}" for n, word in ((camera.gated, "gated"), (camera.failed, "failed")) if n)
        + f" {camera.state}".rstrip()
        for camera in now.cameras[:MAX_CAMERAS]
    ]
    if len(now.cameras) > MAX_CAMERAS:
        cameras.append(f"and {len(now.cameras) - MAX_CAMERAS:,} more")
    return f"{elapsed_sec:6.0f} s  " + "; ".join([*cameras, _model(now)])


def _short(text: str, most: int) -> str:
    plain = "".join(c if c.isprintable() else "?" for c in text)
    return plain if len(plain) <= most else plain[: most - 1] + "\u2026"


def _cut(text: str, width: int) -> str:
    """At most ``width`` characters on the screen; colours take none."""
    shown, i = 0, 0
    while i < len(text) and shown < width:
        if text[i] == "\033":
            i = text.index("m", i)
        else:
            shown += 1
        i += 1
    return text if i >= len(text) else text[:i] + PLAIN
