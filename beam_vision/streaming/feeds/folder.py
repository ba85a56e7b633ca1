"""A watched folder as a feed: ``FOLDER/CAMERA/*.jpg``, each file a message that names it.

Nothing in the folder is ever changed. Files had best be renamed into it: one that is written in place is
taken once it has stopped to grow, which a writer that pauses can deceive.
"""

from __future__ import annotations

import collections
import json
import os
import time
from collections.abc import Sequence
from urllib.parse import quote

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.stream_types import Message, iso_time
from beam_vision.streaming.feeds.base import Feed, Received
from beam_vision.streaming.feeds.journal import Journal, Version
from beam_vision.streaming.feeds.watch import FolderWatch, Found

JOURNAL = "folder-done.jsonl"

_LOOK_SHARE = 0.1  # of the time


class FolderFeed(Feed):
    """New files of a folder, as JSON messages with ``uri``, ``camera`` and ``capture_time``.

    The camera is the first folder below the watched one, or the watched one's own name for files directly in
    it; the capture time stands at the end of the file's name, else it is the time of modification. A
    message's id is the file's path and version, so that a later run's redelivery has the same one.

    Args:
      source: the folder.
      state_dir: a local folder that keeps what was acknowledged; empty: a later run begins again.
      once: ends when all that is there was handed out, rather than to wait for more.
      settle_sec: a file is whole when it hasn't changed for so long, or was renamed since it last did.
      look_sec: the time between two looks, at least; no more than a tenth of the time goes to looking.

    Raises:
      UsageError: there is no such folder.
    """

    def __init__(
        self,
        source: str,
        *,
        state_dir: str = "",
        once: bool = False,
        settle_sec: float = 0.3,
        look_sec: float = 0.05,
    ) -> None:
        self.source = source
        self._root = storage.absolute(source)
        if not os.path.isdir(self._root):
            state = "is not a folder" if os.path.exists(self._root) else "is not there"
            raise UsageError(f"{source} {state}; give a folder of cameras: {source}/CAMERA/IMAGE.jpg")
        self._once = once
        self._look_sec = look_sec
        self._journal = Journal(os.path.join(state_dir, JOURNAL) if state_dir else "")
        self._watch = FolderWatch(self._root, self._journal, settle_sec=settle_sec)
        self._waiting: collections.deque[Found] = collections.deque()
        self._out: dict[str, tuple[str, Version]] = {}
        self._next_look = 0.0
        self._stopped = False
        self._exhausted = False

    def open(self) -> None:
        """As :meth:`Feed.open`."""
        self._journal.open()

    def pull(self, max_messages: int, max_bytes: int, timeout_sec: float) -> list[Received]:
        """As :meth:`Feed.pull`; a message has about 200 bytes."""
        end = time.monotonic() + timeout_sec
        while not self._stopped:
            self._look()
            if self._waiting or self._exhausted or time.monotonic() >= end:
                break
            time.sleep(max(0.0, min(self._next_look, end) - time.monotonic()))
        taken: list[Received] = []
        size = 0
        while self._waiting and len(taken) < max_messages:
            message = _message(self._waiting[0])
            size += len(message.data)
            if taken and size > max_bytes:
                break
            found = self._waiting.popleft()
            self._out[message.message_id] = found.path, found.version
            taken.append(Received(message, message.message_id))
        return taken

    def _look(self) -> None:
        began = time.monotonic()
        if began < self._next_look or self._exhausted:
            return
        try:
            self._waiting.extend(self._watch.look())
        except OSError as error:
            raise UsageError(f"{self.source} can no longer be read: {error}") from error
        self._exhausted = self._once and not self._watch.unsettled
        now = time.monotonic()
        self._next_look = now + max(self._look_sec, (now - began) / _LOOK_SHARE)

    def ack(self, tokens: Sequence[str]) -> None:
        """As :meth:`Feed.ack`; a kill after this loses none."""
        done = [self._out.pop(token) for token in dict.fromkeys(tokens) if token in self._out]
        self._journal.add(item for item in done if os.path.exists(item[0]))

    def stop(self) -> None:
        """As :meth:`Feed.stop`."""
        self._stopped = True
        self._waiting.clear()

    def close(self) -> None:
        """As :meth:`Feed.close`."""
        self.stop()
        self._journal.close()

    @property
    def exhausted(self) -> bool:
        """As :attr:`Feed.exhausted`; only ever True with ``once``."""
        return self._exhausted and not self._waiting

    @property
    def waiting(self) -> int:
        """As :attr:`Feed.waiting`: files that were seen and not handed out."""
        return len(self._waiting)


def _message(found: Found) -> Message:
    uri = _uri(found.path)
    body = {"uri": uri, "camera": found.camera, "capture_time": iso_time(found.capture_us / 1e6)}
    return Message(
        data=json.dumps(body, ensure_ascii=False).encode("utf-8", "backslashreplace"),
        message_id=f"{uri}@{found.version.mtime_ns}",
        publish_sec=found.version.mtime_ns / 1e9,
        pull_sec=time.time(),
    )


def _uri(path: str) -> str:
    """The path; as a ``file://`` URI where it isn't UTF-8 and so would not pass through JSON."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return "file://" + quote(os.fsencode(path))
    return path
