"""What was come across in an evaluation: counts by name, each with a few examples. Merged in any order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

LISTED = "listed"
IMAGES = "images"
ROWS = "rows"
COMMON = "common"
MISSING = "missing"
SIZE_UNKNOWN = "size_unknown"
WITHOUT_TRUTH = "without_truth"
TRUTHS = "truths"
CROWDS = "crowds"
DETECTIONS = "detections"
UNUSABLE = "unusable_detections"
CLIPPED = "clipped"
FAULT = "fault"

EXAMPLES = 5


@dataclass(frozen=True)
class Finding:
    """Something that was found ``number`` times, and an example of it (a key, a sentence)."""

    name: str
    number: int = 1
    example: str = ""


@dataclass
class Findings:
    """All findings so far.

    Attributes:
      numbers: by name.
      examples: by name, the first :data:`EXAMPLES` in the order of the alphabet.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, finding: Finding) -> Findings:
        """Counts one, and gives itself."""
        self.numbers[finding.name] = self.number(finding.name) + finding.number
        if finding.example:
            self._show(finding.name, [finding.example])
        return self

    def absorb(self, other: Findings) -> Findings:
        """Counts what ``other`` holds, and gives itself."""
        for name, number in other.numbers.items():
            self.numbers[name] = self.number(name) + number
        for name, examples in other.examples.items():
            self._show(name, examples)
        return self

    def number(self, name: str) -> int:
        """How often ``name`` was found."""
        return self.numbers.get(name, 0)

    def faults(self) -> dict[str, int]:
        """Annotations that could not be used, by reason."""
        start = f"{FAULT}:"
        return {name[len(start) :]: n for name, n in sorted(self.numbers.items()) if name.startswith(start)}

    def _show(self, name: str, examples: Iterable[str]) -> None:
        self.examples[name] = sorted({*self.examples.get(name, ()), *examples})[:EXAMPLES]
