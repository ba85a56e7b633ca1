"""A run that is asked to end: it saves a checkpoint after the step it is in, and says where it goes on.

Machines of the cheaper kinds are taken back with a SIGTERM and some seconds of grace.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from beam_vision.errors import JobError

SIGNALS = (signal.SIGTERM,)


class Interrupted(JobError):  # noqa: N818  (what happened, and no fault)
    """The run was asked to end before it was over; the same command goes on from its checkpoint."""


class StopRequest:
    """Whether someone wants the run to end.

    Attributes:
      number: of the signal that asked for it; 0: none did.
    """

    def __init__(self) -> None:
        self.number = 0

    def __bool__(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        """What a shell says of a process that the signal ended; where another process of the run was asked,
        too."""
        return 128 + (self.number or signal.SIGTERM)


@contextlib.contextmanager
def asked_by_signals(request: StopRequest | None) -> Iterator[None]:
    """In the block SIGTERM asks for the end, once; a second one ends the process as it always does.

    Without a request, and in another than the main thread, where signals can't be caught, nothing is changed.
    """
    if request is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {int(number): signal.getsignal(number) for number in SIGNALS}

    def ask(number: int, frame: FrameType | None) -> None:
        request.number = number
        signal.signal(number, before[number])

    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
