"""The board: rates, percentiles, states and totals by camera, whoever tells it."""

import threading

import pytest

from beam_vision import stream_table
from beam_vision.stream_types import Observation, StreamRow
from beam_vision.streaming.board import NO_CAMERA, Board


class Clock:
    """Seconds that stand still until they are moved."""

    def __init__(self):
        self.now = 1000.2

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def board(clock):
    return Board(clock)


def seen(kind, camera="one", **values):
    return Observation(camera, 5.0, kind, **values)


def rollout(outcome, digest, previous="", version="v1"):
    values = {"outcome": outcome, "model_digest": digest, "previous_digest": previous, "version": version}
    return StreamRow(stream_table.ROLLOUTS, "r", "", 1.0, values)


def alert(camera, state):
    return StreamRow(stream_table.ALERTS, "a", camera, 1.0, {"state": state})


def only(board):
    (camera,) = board.snapshot().cameras
    return camera


def test_messages_are_counted_by_what_they_became_and_frames_are_not_counted_twice(board):
    for kind in ("frame", "row", "frame", "row", "gated", "failed", "duplicate", "duplicate"):
        board.observe(seen(kind))
    found = only(board)
    assert (found.rows, found.gated, found.failed, found.duplicates) == (2, 1, 1, 2)


def test_the_rate_is_of_the_last_seconds_without_the_one_going_on(board, clock):
    for _ in range(10):
        for _ in range(4):
            board.observe(seen("row"))
        clock.now += 1
    assert only(board).rate_per_sec == 4
    board.observe(seen("row"))
    assert only(board).rate_per_sec == 4
    clock.now += 3
    assert only(board).rate_per_sec == pytest.approx((4 + 4 + 1) / 5)
    clock.now += 60
    assert only(board).rate_per_sec == 0


def test_the_rate_of_a_run_that_just_began_is_over_the_time_there_was(board, clock):
    for _ in range(6):
        board.observe(seen("gated"))
    clock.now += 2
    assert only(board).rate_per_sec == 3


def test_p95_is_of_the_last_seconds(board, clock):
    assert not board.snapshot().cameras
    for ms in range(1, 101):
        board.observe(seen("row", stage_ms={"total": float(ms)}))
    assert only(board).p95_ms == 95
    clock.now += 4
    board.observe(seen("row", stage_ms={"total": 500.0}))
    clock.now += 4
    assert only(board).p95_ms == 500
    clock.now += 4
    assert only(board).p95_ms is None


def test_state_and_label_are_the_last_told(board):
    board.observe(seen("frame", state="ok"))
    board.observe(seen("row", labels=("cat", "dog")))
    assert (only(board).state, only(board).label) == ("ok", "cat")
    board.tell(alert("one", "frozen"))
    assert only(board).state == "frozen"
    board.observe(seen("row", labels=()))
    assert (only(board).state, only(board).label) == ("frozen", "")


def test_word_of_a_silence_is_no_sign_of_life(board, clock):
    board.observe(seen("frame"))
    clock.now += 7
    board.observe(seen("silent", state="silent"))
    board.tell(alert("one", "silent"))
    assert only(board).idle_sec == 7
    assert only(board).state == "silent"


def test_failures_of_no_known_camera_are_counted_once(board):
    board.tell(StreamRow(stream_table.FAILURES, "f", "", 1.0, {}))
    board.tell(StreamRow(stream_table.FAILURES, "f", "one", 1.0, {}))
    found = only(board)
    assert (found.camera, found.failed) == (NO_CAMERA, 1)


def test_rollouts_tell_who_serves(board):
    assert board.snapshot().model_digest == ""
    board.tell(rollout("serving", "aaa"))
    board.tell(rollout("refused", "bbb", "aaa", "v2"))
    found = board.snapshot()
    assert (found.model_digest, found.version, found.swaps, found.refused) == ("aaa", "v1", 0, 1)
    board.tell(rollout("serving", "ccc", "aaa", "v3"))
    found = board.snapshot()
    assert (found.model_digest, found.version, found.swaps, found.refused) == ("ccc", "v3", 1, 1)


def test_a_new_run_begins_with_nothing(board):
    board.observe(seen("row"))
    board.tell(rollout("serving", "aaa"))
    board.clear()
    assert board.snapshot() == Board().snapshot()


def test_many_threads_lose_no_count(board):
    def tell():
        for i in range(500):
            board.observe(seen("row", camera=f"c{i % 3}"))
            board.snapshot()

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = board.snapshot().cameras
    assert [camera.camera for camera in found] == ["c0", "c1", "c2"]
    assert sum(camera.rows for camera in found) == 2000
