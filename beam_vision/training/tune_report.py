"""What a search came to, for people: a table, a picture, and the best trial's job, ready to be trained."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.training.config import JobConfig
from beam_vision.training.tune import Trial, best_trial, job_of, show
from beam_vision.training.tune_space import Range, Space

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

TABLE_FILE = "trials.csv"
PICTURE_FILE = "trials.png"
BEST_FILE = "best.yaml"
_PANEL_PX = (360, 260)
_MARGIN_PX = (54, 30, 16, 40)  # left, top, right, bottom
_COLUMNS = 3
_INK, _GREY, _DOT, _BEST = (30, 30, 30), (200, 200, 200), (52, 101, 164), (204, 0, 0)


def write_report(folder: str, config: JobConfig, space: Space, trials: Sequence[Trial]) -> Trial:
    """Writes ``trials.csv``, ``trials.png`` and ``best.yaml``, each whole; gives the best trial.

    Args:
      folder: where.
      config: the job that was searched from.
      space: what was searched.
      trials: at least one has a score.
    """
    import yaml

    best = best_trial(trials, space)
    storage.write_bytes(storage.join(folder, TABLE_FILE), _table(space, trials).encode())
    storage.write_bytes(storage.join(folder, PICTURE_FILE), draw(space, trials))
    job = job_of(config, space, best.values).to_dict()
    said = yaml.safe_dump({name: value for name, value in job.items() if name != "tune"}, sort_keys=False)
    head = f"# trial {best.number} of {len(trials)}: {space.objective} {show(best.score)}\n"
    storage.write_bytes(storage.join(folder, BEST_FILE), (head + said).encode())
    return best


def _table(space: Space, trials: Sequence[Trial]) -> str:
    text = io.StringIO()
    names = ["trial", "status", space.objective, "epochs", *space.parameters, "error"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for one in trials:
        score = "" if one.score is None else one.score
        values = [one.values[name] for name in space.parameters]
        writer.writerow([one.number, one.status, score, one.epochs, *values, one.error])
    return text.getvalue()


def table_lines(space: Space, trials: Sequence[Trial], most: int = 10) -> list[str]:
    """The best trials for the terminal, the best one first, in columns."""
    sign = -1 if space.direction == "max" else 1
    done = sorted((one for one in trials if one.score is not None), key=lambda one: sign * (one.score or 0.0))
    rows = [["trial", space.objective, *space.parameters]]
    rows += [
        [str(o.number), show(o.score), *(show(o.values[n]) for n in space.parameters)] for o in done[:most]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def draw(space: Space, trials: Sequence[Trial]) -> bytes:
    """A PNG: the score by trial with the best so far, and the score by each parameter's value.

    A red dot is the best trial. Scales are linear; of a parameter with ``scale: log`` logarithmic.
    """
    from PIL import Image, ImageDraw

    ranges = space.ranges()
    done = [one for one in trials if one.score is not None]
    best = best_trial(trials, space)
    rows = math.ceil((1 + len(ranges)) / _COLUMNS)
    columns = min(1 + len(ranges), _COLUMNS)
    image = Image.new("RGB", (_PANEL_PX[0] * columns, _PANEL_PX[1] * rows), "white")
    canvas = ImageDraw.Draw(image)
    scores = [one.score or 0.0 for one in done]
    panels: list[tuple[str, list[float], list[str]]] = [
        ("trial", [float(one.number) for one in done], [show(done[0].number), show(done[-1].number)])
    ]
    panels += [(name, *_places(one, [t.values[name] for t in done])) for name, one in ranges.items()]
    for at, (name, xs, ends) in enumerate(panels):
        corner = (at % _COLUMNS * _PANEL_PX[0], at // _COLUMNS * _PANEL_PX[1])
        panel = _Panel(canvas, corner, xs, scores)
        panel.frame(name, space.objective, ends)
        if at == 0:
            panel.line(xs, _so_far(scores, max if space.direction == "max" else min))
        panel.dots(xs, scores, done.index(best))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def _so_far(scores: Sequence[float], better: Any) -> list[float]:
    return [better(scores[: at + 1]) for at in range(len(scores))]


def _places(one: Range, values: Sequence[Any]) -> tuple[list[float], list[str]]:
    """Where a parameter's values are on its axis, and what its ends are called."""
    if one.values and isinstance(one.values[0], str | bool):
        known = list(one.values)
        return [float(known.index(value)) for value in values], [show(known[0]), show(known[-1])]
    numbers = [float(value) for value in values]
    ends = [show(min(numbers)), show(max(numbers))]
    return ([math.log10(value) for value in numbers] if one.scale == "log" else numbers), ends


class _Panel:
    """One plot of the picture."""

    def __init__(
        self, canvas: ImageDraw, corner: tuple[int, int], xs: Sequence[float], ys: Sequence[float]
    ) -> None:
        left, top, right, bottom = _MARGIN_PX
        self._canvas = canvas
        self._box = (
            corner[0] + left,
            corner[1] + top,
            corner[0] + _PANEL_PX[0] - right,
            corner[1] + _PANEL_PX[1] - bottom,
        )
        self._x = min(xs), (max(xs) - min(xs)) or 1.0
        self._y = min(ys), (max(ys) - min(ys)) or 1.0
        self._ends = [show(float(max(ys))), show(float(min(ys)))]

    def _at(self, x: float, y: float) -> tuple[float, float]:
        left, top, right, bottom = self._box
        across = (x - self._x[0]) / self._x[1]
        up = (y - self._y[0]) / self._y[1]
        return left + 8 + across * (right - left - 16), bottom - 8 - up * (bottom - top - 16)

    def frame(self, name: str, objective: str, ends: Sequence[str]) -> None:
        left, top, right, bottom = self._box
        self._canvas.rectangle(self._box, outline=_GREY)
        self._canvas.text((left, top - 18), f"{objective} by {name}", fill=_INK)
        self._canvas.text((left, bottom + 6), ends[0], fill=_INK)
        self._canvas.text((right, bottom + 6), ends[1], fill=_INK, anchor="ra")
        self._canvas.text((left - 6, top + 4), self._ends[0], fill=_INK, anchor="ra")
        self._canvas.text((left - 6, bottom - 16), self._ends[1], fill=_INK, anchor="ra")

    def line(self, xs: Sequence[float], ys: Sequence[float]) -> None:
        self._canvas.line([self._at(x, y) for x, y in zip(xs, ys, strict=True)], fill=_GREY, width=2)

    def dots(self, xs: Sequence[float], ys: Sequence[float], best: int) -> None:
        order = [at for at in range(len(xs)) if at != best] + [best]  # the best one is on top
        for at in order:
            x, y = self._at(xs[at], ys[at])
            self._canvas.ellipse((x - 4, y - 4, x + 4, y + 4), fill=_BEST if at == best else _DOT)
