"""What is kept of a run for people: a table of its epochs, their curves, and events for TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from beam_vision import deps, storage
from beam_vision.training.curves import draw_curves

HISTORY_FILE = "history.csv"
CURVES_FILE = "curves.png"


def write_history(folder: str, epochs: Sequence[Mapping[str, Any]]) -> None:
    """Writes ``history.csv``, a row an epoch, whole; what an epoch lacks is empty."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: "" if v is None else v for k, v in epoch.items()} for epoch in epochs)
    storage.write_bytes(storage.join(folder, HISTORY_FILE), text.getvalue().encode())


def write_curves(folder: str, epochs: Sequence[Mapping[str, Any]], *, best_epoch: int = 0) -> None:
    """Writes ``curves.png``, whole; see :func:`~beam_vision.training.curves.draw_curves`."""
    storage.write_bytes(storage.join(folder, CURVES_FILE), draw_curves(epochs, best_epoch=best_epoch))


class Events:
    """Figures for TensorBoard, in the form of its scalars; written by TensorFlow itself.

    Args:
      folder: where the events files go, one of ``train`` and one of ``validation``.
    """

    def __init__(self, folder: str) -> None:
        tf = deps.need("tensorflow")
        self._writers = {
            name: tf.summary.create_file_writer(storage.join(folder, name))
            for name in ("train", "validation")
        }

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        """Writes the figures of an epoch, those named ``validation_...`` to the curve beside."""
        tf = deps.need("tensorflow")
        for name, value in figures.items():
            if not isinstance(value, float) or not math.isfinite(value):
                continue
            kind = "validation" if name.startswith("validation_") else "train"
            with self._writers[kind].as_default():
                tag = f"epoch_{name.removeprefix('validation_')}"
                tf.summary.write(tag, tf.constant(value, tf.float32), step=step, metadata=_scalar_metadata())
        for writer in self._writers.values():
            writer.flush()

    def close(self) -> None:
        """Ends the files."""
        for writer in self._writers.values():
            writer.close()


def _scalar_metadata() -> Any:
    """What marks a value as one of TensorBoard's scalars (tensorboard/plugins/scalar/metadata.py)."""
    SummaryMetadata = deps.need("tensorflow").compat.v1.SummaryMetadata  # noqa: N806  (a class)
    data = SummaryMetadata.PluginData(plugin_name="scalars")
    return SummaryMetadata(plugin_data=data, data_class=1)  # DATA_CLASS_SCALAR
