"""The table of a running stream, on a terminal and in a log."""

import io
import re
import time

from beam_vision.pipelines import live_table
from beam_vision.stream_types import Observation
from beam_vision.streaming.board import Board, BoardNow, CameraNow

ONE = CameraNow(
    camera="gate",
    rate_per_sec=9.96,
    p95_ms=83.4,
    rows=1234,
    gated=56,
    failed=7,
    duplicates=8,
    state="frozen",
    label="cat",
    idle_sec=0.1,
)
QUIET = CameraNow("yard", 0.0, None, 0, 0, 0, 0, "ok", "", 30.0)
NOW = BoardNow((ONE, QUIET), "b3f0" * 16, "v2", swaps=1, refused=2)


def plain(text):
    return re.sub(r"\033\[[0-9;]*[A-Za-z]", "", text)


def test_a_line_for_each_camera_and_one_for_the_model():
    head, gate, yard, model = live_table.table(NOW, 65.9)
    assert head.split() == [
        *("camera", "state", "rate/s", "p95", "ms", "rows", "gated", "failed", "repeated", "sees")
    ]
    assert gate.split() == ["gate", "frozen", "10.0", "83", "1,234", "56", "7", "8", "cat"]
    assert yard.split() == ["yard", "ok", "0.0", "0", "0", "0", "0"]
    assert model == "1:05  model v2 b3f0b3f0b3f0, 1 swapped in, 2 refused"


def test_colours_change_nothing_but_colours():
    coloured = live_table.table(NOW, 65.9, colours=True)
    assert [plain(line) for line in coloured] == live_table.table(NOW, 65.9)
    assert live_table.RED + "frozen" in coloured[1]
    assert live_table.RED not in coloured[2]


def test_long_and_hostile_names_keep_the_columns():
    odd = CameraNow("\033[31mvery long name of a camera\n", 1.0, 2.0, 3, 4, 5, 6, "ok", "x" * 99, 0.0)
    head, line, _ = live_table.table(BoardNow((odd,)), 0)
    assert "\033" not in line
    assert "\n" not in line
    assert head.index("rate/s") + len("rate/s") == line.index("1.0") + 3
    assert len(line) < 100


def test_of_many_cameras_some_are_shown():
    many = tuple(CameraNow(f"c{i:03d}", 1.0, None, 1, 0, 0, 0, "ok", "", 0.0) for i in range(100))
    lines = live_table.table(BoardNow(many), 0)
    assert len(lines) == live_table.MAX_CAMERAS + 3
    assert lines[-2] == "and 80 more"
    assert "no model serves yet" in lines[-1]


def test_one_line_for_a_log():
    assert live_table.line(NOW, 12.3) == (
        "    12 s  gate 10.0/s p95 83 ms 56 gated 7 failed frozen; yard 0.0/s ok; "
        "model v2 b3f0b3f0b3f0, 1 swapped in, 2 refused"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def show(out, sign, times):
    """What was shown once ``sign`` was to be seen so often, and the end."""
    board, until = Board(), time.monotonic() + 30
    board.observe(Observation("gate", 1.0, "row"))
    with live_table.shown(board, every_sec=0.005, stream=out):
        while out.getvalue().count(sign) < times and time.monotonic() < until:
            time.sleep(0.01)
    return out.getvalue()


def test_a_terminal_is_drawn_over_and_keeps_the_last_table():
    text = show(Terminal(), "\033[J", 3)
    draws = text.split("\033[J")[1:]
    assert len(draws) >= 4
    assert all("gate" in draw for draw in draws)
    assert "\033[3A" in text
    assert plain(draws[-1]).count("\n") == 3


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end():
    text = show(io.StringIO(), "\n", 2)
    lines = text.splitlines()
    assert len(lines) >= 3
    assert all(re.match(r" *\d+ s  gate [01]\.\d/s; no model", line) for line in lines), text
    assert "\033" not in text


def test_a_narrow_terminal_cuts_lines_and_not_colours():
    line = live_table.table(NOW, 1, colours=True)[1]
    for width in range(1, 120):
        cut = live_table._cut(line, width)
        assert plain(cut) == plain(line)[:width]
        assert cut.endswith(live_table.PLAIN) or cut == line


def test_a_log_says_how_many_cameras_it_leaves_out():
    board = Board()
    for i in range(live_table.MAX_CAMERAS + 3):
        board.observe(Observation(f"gate{i:03}", 1.0, "row"))
    assert "; and 3 more; " in live_table.line(board.snapshot(), 1.0)
