"""Runs a batch so that one bad image costs only itself, and too little memory only time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from beam_vision.errors import Reason, VisionError
from beam_vision.inference.loader import LoadedModel, filled_up


@dataclass
class Rows:
    """Outputs of a batch, row by row.

    Attributes:
      outputs: by name, ``[n, ...]``; the rows of failed images hold zeros.
      errors: what failed, by row.
      bisected: how often a failing batch was cut in two.
      halved: how often a batch was cut because memory didn't suffice.
    """

    outputs: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[int, VisionError] = field(default_factory=dict)
    bisected: int = 0
    halved: int = 0


def run_rows(model: LoadedModel, batch: np.ndarray) -> Rows:
    """Runs ``batch``; on an error cuts it in two until only the culprits are left.

    When memory doesn't suffice, half as many images are run at a time, from then on
    (``model.most_images``). An output of the wrong leading dimension fails all its rows: which rows it
    stands for can't be told.
    """
    found = Rows()
    parts: list[tuple[int, int, dict[str, np.ndarray]]] = []
    todo = [(0, len(batch))]
    while todo:
        start, stop = todo.pop()
        size = stop - start
        most = model.most_images or size
        if size > most:
            todo += reversed([(i, min(i + most, stop)) for i in range(start, stop, most)])
            continue
        try:
            parts.append((start, stop, model.run(batch[start:stop])))
        except VisionError as error:
            if error.reason is Reason.OUT_OF_MEMORY and size > 1:
                model.most_images = size // 2
                found.halved += 1
                todo.append((start, stop))
            elif error.reason is Reason.MODEL_ERROR and size > 1:
                middle = start + size // 2
                found.bisected += 1
                todo += [(middle, stop), (start, middle)]
            else:
                found.errors.update(dict.fromkeys(range(start, stop), error))
    if model.spec.detector:
        filled = filled_up([outputs for _, _, outputs in parts])
        parts = [(start, stop, more) for (start, stop, _), more in zip(parts, filled, strict=True)]
    _put_together(found, parts, len(batch))
    return found


def _put_together(found: Rows, parts: list[tuple[int, int, dict[str, np.ndarray]]], images: int) -> None:
    if len(parts) == 1 and parts[0][:2] == (0, images):
        found.outputs = parts[0][2]
        return
    for start, stop, outputs in parts:
        for name, value in outputs.items():
            whole = found.outputs.setdefault(name, np.zeros((images, *value.shape[1:]), value.dtype))
            if whole.shape[1:] == value.shape[1:]:
                whole[start:stop] = value
                continue
            shapes = f"{list(value.shape[1:])} and {list(whole.shape[1:])}"
            detail = f"output {name!r} has shapes {shapes} for two images"
            error = VisionError(Reason.BAD_MODEL_OUTPUT, detail)
            found.errors.update(dict.fromkeys(range(start, stop), error))
