"""Rows written by processes that are killed, in a process of its own that is small enough to be forked often.

``python windows_killed.py FUNCTION FOLDER`` ends with 0 when each row is in the table once.
"""

import os
import random
import sys

from windows_rows import T0, alert, ids, row

from beam_vision.sinks import windows
from beam_vision.sinks.windows import Windows

WINDOW = "20251122T082700Z"
KILLED = 9


def in_child(work, *, folder, kill_before=0):
    """Runs ``work(done)`` in a child process; ``done()`` says that a step of it is finished.

    Args:
      folder: operations on files in it count.
      kill_before: the child ends on the spot before its so-many-th such operation; 0: it doesn't.

    Returns:
      whether it was killed, and how many steps it had finished.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if kill_before:
                _kill_before(kill_before, folder)
            work(lambda: os.write(write, b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        steps = len(pipe.read())
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED)
    return code == KILLED, steps


def _kill_before(number, folder):
    left = [number]
    on_paths = ("open", "os.rename", "os.remove", "os.mkdir")

    def hook(event, arguments):
        ours = event in on_paths and str(arguments[0]).startswith(folder)
        if ours or event == "fcntl.flock":
            left[0] -= 1
            if not left[0]:
                os._exit(KILLED)

    sys.addaudithook(hook)


def each_operation(folder):
    """Killed before each single operation: the same table wherever the first run ends.

    Rows come twice, with a commit after each bundle. A bundle that was staged whole is acknowledged, and
    doesn't come again.
    """
    bundles = [[alert(0), alert(1)], [alert(1), alert(2)], [alert(3)]]
    for number in range(1, 100):
        settings = Windows(folder=f"{folder}/{number}")

        def run(done, first=0, settings=settings):
            for rows in bundles[first:]:
                windows.stage(settings, "alerts", WINDOW, rows)
                done()
                windows.commit(settings, "alerts", WINDOW)

        killed, steps = in_child(run, folder=folder, kill_before=number)
        if killed:
            assert len(committed(settings)) <= 4
            in_child(lambda done, run=run, steps=steps: run(done, steps), folder=folder)
            for table, window in windows.staged_windows(settings):
                windows.commit(settings, table, window)
        assert committed(settings) == [alert(n).row_id for n in range(4)]
        assert windows.staged_windows(settings) == []
        if not killed:
            break
    assert number > 25


def committed(settings):
    folder = settings.table_folder("alerts")
    return ids(folder) if windows.files.names(folder, "part-", ".parquet") else []


def again_and_again(folder):
    """Ten thousand rows, each written twice, by a process that is killed at random moments."""
    rng = random.Random(7)
    settings = Windows(folder=f"{folder}/out", fsync=False)
    rows = [row(number, time_sec=T0 + number * 0.03) for number in range(10_000)]  # five minutes
    twice = rows * 2
    rng.shuffle(twice)
    bundles = [twice[at : at + 500] for at in range(0, len(twice), 500)]

    def run(done, first):
        for table, window in windows.staged_windows(settings):  # as a run does when it begins
            windows.commit(settings, table, window)
        for number in range(first, len(bundles)):
            groups = {}
            for each in bundles[number]:
                groups.setdefault(settings.window(each.time_sec), []).append(each)
            for window, some in groups.items():
                windows.stage(settings, "predictions", window, some)
            if number % 3 == 0:
                windows.commit(settings, "predictions", settings.window(bundles[number][0].time_sec))
            done()

    at, kills = 0, 0
    while at < len(bundles):
        kill_before = rng.randrange(1, 60) if kills < 20 else 0
        killed, steps = in_child(lambda done, at=at: run(done, at), folder=folder, kill_before=kill_before)
        kills += killed
        at += max(0, steps - rng.randrange(3)) if killed else steps  # what wasn't acknowledged comes again
    for table, window in windows.staged_windows(settings):
        windows.commit(settings, table, window)
    assert kills > 10
    found = ids(settings.folder)
    assert len(found) == 10_000
    assert found == sorted(each.row_id for each in rows)


if __name__ == "__main__":
    windows.warm_up(Windows(folder=""))  # loads what children would load
    {"each_operation": each_operation, "again_and_again": again_and_again}[sys.argv[1]](sys.argv[2])
