"""The ordered, bounded map over threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from beam_vision.records.ahead import cores, map_ahead


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as executor:
        yield executor


def size_one(item):
    return 1


def test_order_is_kept(pool):
    def slow_first(number):
        time.sleep(0.02 if number % 4 == 0 else 0)
        return number * number

    found = map_ahead(pool, slow_first, range(40), most=8, most_bytes=100, size_bytes=size_one)
    assert list(found) == [number * number for number in range(40)]


@pytest.mark.parametrize(("most", "most_bytes", "ahead"), [(5, 10**9, 5), (100, 30, 3), (100, 1, 1)])
def test_it_runs_no_further_ahead_than_told(pool, most, most_bytes, ahead):
    taken, given, furthest, lock = 0, 0, 0, threading.Lock()

    def items():
        nonlocal taken, furthest
        for number in range(30):
            with lock:
                taken += 1
                furthest = max(furthest, taken - given)
            yield number

    for _ in map_ahead(pool, str, items(), most=most, most_bytes=most_bytes, size_bytes=lambda item: 10):
        with lock:
            given += 1
    assert given == 30
    assert furthest == ahead + 1  # the one that is next in line, before it is begun


def test_an_error_comes_through_and_the_rest_is_not_begun(pool):
    begun = []

    def fail(number):
        begun.append(number)
        if number == 3:
            raise ValueError("third")
        return number

    found = map_ahead(pool, fail, range(1000), most=4, most_bytes=100, size_bytes=size_one)
    with pytest.raises(ValueError, match="third"):
        list(found)
    assert len(begun) < 20


def test_cores():
    assert cores() >= 1
