"""Capture times as cameras write them: RFC 3339, as in file names, or as numbers since the epoch."""

from __future__ import annotations

import datetime
import os
import re
from decimal import Decimal
from typing import Any

from beam_vision.errors import Reason, VisionError
from beam_vision.failures import shorten

_UTC = datetime.timezone.utc
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=_UTC)
_MICROSECOND = datetime.timedelta(microseconds=1)

_NUMBER = re.compile(r"[0-9]{1,19}(\.[0-9]{1,12})?")
_COMPACT_DIGITS = 14  # 20261122101500: no number of seconds, ms, us or ns since 1973 has so many
_TIME = re.compile(
    r"(?P<date>[0-9]{4}(?P<sep>[-_.]?)[0-9]{2}(?P=sep)[0-9]{2})[Tt _-]?"
    r"(?P<clock>[0-9]{2}[-:_.]?[0-9]{2}[-:_.]?[0-9]{2})(?:[.,_](?P<fraction>[0-9]{1,9}))? ?"
    r"(?P<zone>[Zz]|[+-][0-9]{2}:?[0-9]{2})?"
)
_LEAST_SEC, _BELOW_SEC = 1e8, 1e10  # 1973 to 2286
_UNITS = (
    (_LEAST_SEC, _BELOW_SEC, Decimal(1_000_000)),
    (1e11, 1e13, Decimal(1000)),
    (1e14, 1e16, Decimal(1)),
    (1e17, 1e19, Decimal("0.001")),
)
"""From, below, and how many microseconds one is: seconds, ms, us and ns."""

_DAY = r"\d{4}(?P<sep>[-_.]?)\d{2}(?P=sep)\d{2}"
_IN_NAME = rf"{_DAY}[Tt _-]?\d{{2}}[-:_.]?\d{{2}}[-:_.]?\d{{2}}"
_AT_END = re.compile(
    rf"(?:(?<![0-9])(?P<time>{_IN_NAME})(?:[.,_-](?P<fraction>\d{{1,9}}))?(?P<zone>[Zz]|[+-]\d\d:?\d\d)?"
    r"|(?<![0-9A-Za-z])(?P<number>\d{10}(?:\.\d{1,9})?|\d{13}|\d{16}|\d{19}))$"
)


def parse_time(value: Any, *, assume_utc: bool = False) -> float:
    """A capture time as seconds since the epoch, to the microsecond.

    Args:
      value: text or a number. RFC 3339 (``2026-11-22T10:15:00.123Z``, ``...+01:00``); what file names make
        of it (``20261122T101500Z``, ``2026-11-22_10-15-00``); or a count since the epoch, which by its size
        is of seconds, milliseconds, microseconds or nanoseconds.
      assume_utc: take a time without an offset as UTC, rather than refusing it.

    Raises:
      VisionError: ``bad_time``; so is any before 1973-03-03 (a clock that was never set) or after 2286.
    """
    if isinstance(value, str):
        text = value.strip()
        if _NUMBER.fullmatch(text) and len(text.partition(".")[0]) != _COMPACT_DIGITS:
            micros = _from_number(Decimal(text), value)
        else:
            micros = _from_text(text, value, assume_utc)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        micros = _from_number(Decimal(repr(value)), value)
    else:
        raise _bad(value, "is neither text nor a number")
    if not _LEAST_SEC <= micros / 1e6 < _BELOW_SEC:
        raise _bad(value, "is of a clock that is not set")
    return micros / 1e6


def time_in_name(name: str) -> float | None:
    """The time at the end of a file's name, in seconds since the epoch; None where there is none.

    As RFC 3339 or what file names make of it (``cam1_2026-11-22T10-15-00.123Z.jpg``), in UTC where no
    offset stands there, or as seconds, ms, us or ns since the epoch by 10, 13, 16 or 19 digits. A time that
    is followed by anything else (``..._frame2.jpg``) isn't taken.
    """
    match = _AT_END.search(os.path.splitext(name)[0])
    if match is None:
        return None
    text = match["number"]
    if text is None:
        text = match["time"] + (f".{match['fraction']}" if match["fraction"] else "") + (match["zone"] or "")
    try:
        return parse_time(text, assume_utc=True)
    except VisionError:
        return None


def _from_number(number: Decimal, value: Any) -> int:
    if number.is_finite():
        for least, below, microseconds in _UNITS:
            if least <= number < below:
                return round(number * microseconds)
    raise _bad(value, "is no count of seconds, ms, us or ns since the epoch")


def _from_text(text: str, value: Any, assume_utc: bool) -> int:
    found = _TIME.fullmatch(text)
    if found is None:
        raise _bad(value, "is no time")
    if found["zone"] is None and not assume_utc:
        raise _bad(value, "has no offset from UTC")
    date = re.sub("[^0-9]", "", found["date"])
    clock = re.sub("[^0-9]", "", found["clock"])
    try:
        day = datetime.datetime(int(date[:4]), int(date[4:6]), int(date[6:]), tzinfo=_UTC)
    except ValueError as error:
        raise _bad(value, f"is no date: {error}") from error
    hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:])
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        raise _bad(value, "is no time of a day")
    seconds = hour * 3600 + minute * 60 + second - _offset_sec(found["zone"] or "Z", value)
    fraction = round(int((found["fraction"] or "0").ljust(9, "0")) / 1000)
    return (day - _EPOCH) // _MICROSECOND + seconds * 1_000_000 + fraction


def _offset_sec(zone: str, value: Any) -> int:
    if zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    if hours > 23 or minutes > 59:
        raise _bad(value, "has no valid offset")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _bad(value: Any, why: str) -> VisionError:
    shown = shorten(repr(value) if isinstance(value, str | int | float) else type(value).__name__, 60)
    remedy = "write RFC 3339 (2026-11-22T10:15:00.123Z) or seconds since the epoch"
    return VisionError(Reason.BAD_TIME, f"the capture time {shown} {why}; {remedy}")
