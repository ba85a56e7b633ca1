"""A failure is data: it goes sideways, by key, and nothing is lost in an ``except``.

``Guard`` holds the one broad ``except`` of the project.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from beam_vision.errors import Reason, Stage, VisionError
from beam_vision.types import Failure, ImageRef

if TYPE_CHECKING:
    import apache_beam as beam

T = TypeVar("T")

FAILED = "failed"
"""The tag of a transform's failures."""

MAX_DETAIL_CHARS = 500


class Outcome(NamedTuple):
    """What a transform that may fail gives: ``good`` elements and ``failed`` (:class:`Failure`)."""

    good: beam.PCollection
    failed: beam.PCollection


class Guard(Generic[T]):
    """Calls ``fn`` for one element and gives its result, or the :class:`Failure` that stands for it.

    Args:
      fn: a function of the element; a :class:`VisionError` names the reason, a ``MemoryError`` is
        ``out_of_memory``, any other exception is ``unexpected`` with its type in the detail.
      stage: where this happens.
      run_id: stands in each failure.
      attempt: stands in each failure; 1 unless this is a redrive.
    """

    def __init__(self, fn: Callable[..., T], stage: Stage, *, run_id: str = "", attempt: int = 1) -> None:
        self.fn = fn
        self.stage = stage
        self.run_id = run_id
        self.attempt = attempt

    def __call__(self, ref: ImageRef, *args: Any) -> T | Failure:
        """``fn(*args)``, or the Failure of ``ref``."""
        try:
            return self.fn(*args)
        except Exception as error:
            return failure(error, ref, self.stage, run_id=self.run_id, attempt=self.attempt)


def failure(
    error: BaseException, ref: ImageRef, stage: Stage, *, run_id: str = "", attempt: int = 1
) -> Failure:
    """The Failure that stands for ``ref`` because of ``error``."""
    if isinstance(error, VisionError):
        reason, detail = error.reason, error.detail
    elif isinstance(error, MemoryError):
        reason, detail = Reason.OUT_OF_MEMORY, str(error) or "not enough memory"
    else:
        reason, detail = Reason.UNEXPECTED, f"{type(error).__name__}: {error}"
    return Failure(
        key=ref.key,
        uri=ref.uri,
        stage=stage.value,
        reason=reason.value,
        detail=shorten(detail),
        attempt=attempt,
        run_id=run_id,
    )


def shorten(text: str, most_chars: int = MAX_DETAIL_CHARS) -> str:
    """``text`` on one line and bounded, so that a dead letter never carries a payload."""
    line = " ".join(text.split())
    line = line.encode("utf-8", "backslashreplace").decode("utf-8")
    return line if len(line) <= most_chars else line[: most_chars - 3] + "..."
