import contextlib
import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import Reason, VisionError
from beam_vision.stream_types import iso_time
from beam_vision.streaming.capture_time import parse_time

SEC = 1795342500.123456  # 2026-11-22T10:15:00.123456Z


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026-11-22T10:15:00.123456Z", SEC),
        ("2026-11-22T10:15:00.1234564Z", SEC),
        ("2026-11-22t10:15:00.123456z", SEC),
        ("2026-11-22 11:15:00,123456 +01:00", SEC),
        ("2026-11-22T03:45:00.123456-06:30", SEC),
        ("2026-11-22T10:15:00Z", 1795342500.0),
        (" 20261122T101500Z ", 1795342500.0),
        ("2026-11-22_10-15-00Z", 1795342500.0),
        ("20261122101500.5Z", 1795342500.5),
        ("2026-12-31T23:59:60Z", 1798761600.0),  # a leap second
        ("2026-12-31T23:59:59.9999999Z", 1798761600.0),
        (1795342500, 1795342500.0),
        (1795342500.123456, SEC),
        (1795342500123, 1795342500.123),
        (1795342500123.5, 1795342500.1235),
        (1795342500123456, SEC),
        (1795342500123456789, 1795342500.123457),
        ("1795342500", 1795342500.0),
        ("1795342500.123456", SEC),
        ("1795342500123", 1795342500.123),
        ("1795342500123456", SEC),
        ("1795342500123456789", 1795342500.123457),
    ],
)
def test_times_are_read_to_the_microsecond(value, expected):
    assert parse_time(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        *("", "now", "12:30", "2026-11-22", "2026-13-22T10:15:00Z", "2026-02-30T10:15:00Z"),
        *("2026-11-22T24:15:00Z", "2026-11-22T10:61:00Z", "2026-11-22T10:15:00+25:00", "20261122 Z"),
        *(
            "2026-11/22T10:15:00Z",
            "٢٠٢٦-11-22T10:15:00Z",
            "0001-01-01T00:00:00+23:59",
            "9999-12-31T23:59:59Z",
        ),
        *("1970-01-01T00:00:12Z", 12.5, "12.5", 0, -1795342500, 3.3e10, "50000000000", 10**30, 10**400),
        *(float("nan"), float("inf"), True, None, b"1795342500", [1795342500], {"seconds": 1795342500}),
    ],
)
def test_what_is_no_time_says_so(value):
    with pytest.raises(VisionError) as caught:
        parse_time(value)
    assert caught.value.reason is Reason.BAD_TIME
    assert len(caught.value.detail) < 300


def test_a_time_without_an_offset_is_only_taken_where_utc_is_assumed():
    for value in ("2026-11-22T10:15:00", "20261122101500", "2026_11_22-10_15_00", "20261122_101500"):
        assert parse_time(value, assume_utc=True) == 1795342500.0
        with pytest.raises(VisionError, match="no offset"):
            parse_time(value)
    assert parse_time("2026-11-22T11:15:00+01:00", assume_utc=True) == 1795342500.0


@given(
    st.datetimes(datetime.datetime(1974, 1, 1), datetime.datetime(2106, 1, 1)),  # then floats get coarser
    st.integers(-14 * 60, 14 * 60),
)
def test_any_time_comes_back(moment, offset_min):
    zone = datetime.timezone(datetime.timedelta(minutes=offset_min))
    local = moment.replace(tzinfo=zone)
    time_sec = parse_time(local.isoformat())
    assert iso_time(time_sec) == local.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    micros = round(time_sec * 1e6)
    assert parse_time(str(micros)) == parse_time(iso_time(time_sec)) == time_sec


LIKE_TIMES = st.from_regex(r"[0-9TZ:+. _-]{10,30}", fullmatch=True)


@given(st.one_of(st.text(), st.integers(), st.floats(), LIKE_TIMES))
def test_anything_is_a_time_or_no_time(value):
    with contextlib.suppress(VisionError):
        time_sec = parse_time(value, assume_utc=True)
        assert 1e8 <= time_sec < 1e10
        iso_time(time_sec)
