"""What a trial on Vertex AI tells of its objective, epoch by epoch while it trains.

Vertex AI reads a file; its form is that of Google's ``cloudml-hypertune`` (0.1), a line of JSON a
measurement, of which the last hundred are kept. What is told early lets Vertex AI end a hopeless trial early.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections import deque
from collections.abc import Mapping

from beam_vision import storage
from beam_vision.errors import UsageError

METRIC_FILE = "CLOUD_ML_HP_METRIC_FILE"
TRIAL_ID = "CLOUD_ML_TRIAL_ID"
_DEFAULT_FILE = "/tmp/hypertune/output.metrics"
_MOST_LINES = 100


class TrialReport:
    """Tells the objective of each epoch once.

    Args:
      objective: the figure's name, such as ``val_accuracy``; empty: nothing is told.
      history: path of the run's ``history.csv``, which has a further row at each epoch's end.
      env: as Vertex AI sets it, with the file's name and the trial's id.
    """

    def __init__(self, objective: str, history: str, env: Mapping[str, str]) -> None:
        self._objective = objective
        self._column = (
            objective.replace("val_", "validation_", 1) if objective.startswith("val_") else objective
        )
        self._history = history
        self._path = env.get(METRIC_FILE) or _DEFAULT_FILE
        self._trial = env.get(TRIAL_ID) or "0"
        self._told: set[str] = set()
        self._lines: deque[str] = deque(maxlen=_MOST_LINES)

    def look(self) -> None:
        """Tells of the epochs that have come to the history since the last look."""
        if not self._objective or not storage.exists(self._history):
            return
        new = [row for row in self._rows() if row.get(self._column) and row["number"] not in self._told]
        for row in new:
            self._told.add(row["number"])
            self._lines.append(self._line(row))
        if new:
            storage.write_bytes(self._path, ("\n".join(self._lines) + "\n").encode())

    def end(self) -> None:
        """Tells of the last epochs.

        Raises:
          UsageError: no epoch has such a figure.
        """
        self.look()
        if self._objective and not self._told:
            rows = self._rows() if storage.exists(self._history) else []
            known = ", ".join(rows[0]) if rows else "nothing: there were none"
            raise UsageError(f"tune.objective is {self._objective}, and the epochs have only {known}")

    def _rows(self) -> list[dict[str, str]]:
        text = storage.read_text(self._history)
        return list(csv.DictReader(io.StringIO(text)))

    def _line(self, row: Mapping[str, str]) -> str:
        measured = {
            "timestamp": time.time(),
            "trial": self._trial,
            self._objective: str(float(row[self._column])),
            "global_step": row["number"],
            "checkpoint_path": "",
        }
        return json.dumps(measured, sort_keys=True)
