"""Runs into a table of BigQuery's, killed before any one of their requests, each in a fork.

``python warehouse_killed.py PROJECT FOLDER MOMENT...`` ends with 0 when another run makes the same table
of each. A moment is a name of :data:`MOMENTS`, or the number of the request that is not sent any more.
"""

import os
import sys

from warehouse_run import RUNS, failure, prediction, run

from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName

KILLED = 9
IMAGES = [prediction(key) for key in "abc"]
FAILED = [failure("x"), failure("x"), failure("y")]
MOMENTS = {
    "before the load": (b"WRITE_APPEND", 2, 0),  # the first is of the failures
    "between load and MERGE": (b"WHEN MATCHED", 1, 0),
    "after the MERGE": (b"WHEN MATCHED", 1, 1),
    "after the failures": (b"ON FALSE", 1, 1),
    "cleaning up": (b"DELETE /", 2, 0),
}
"""What a request says, of how many such it is the last, and how many requests later the process ends."""


def in_child(work, moment=None):
    """Runs ``work()`` in a fork, which ends on the spot at a moment; whether it did."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if moment:
                _kill_at(*moment)
            work()
            code = 0
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == KILLED


def _kill_at(words, number, later):
    left = [number, later]

    def hook(event, arguments):
        if event != "http.client.send":
            return
        left[0] -= words in bytes(arguments[1])
        if left[0] <= 0:
            if left[1] == 0:
                os._exit(KILLED)
            left[1] -= 1

    sys.addaudithook(hook)


def rows(client, name):
    """What rows say; of a failure not into which table's place it was written."""
    found = [dict(row) for row in client.query(f"SELECT * FROM {name.sql} ORDER BY key").result()]
    return [{k: v for k, v in row.items() if k not in ("run_id", "written_at", "output")} for row in found]


def main(project, folder, *moments):
    client = clients.client(project)
    expected = None
    for number, moment in enumerate(["", *moments]):
        name = TableName(project, "lake", f"t{number}")
        at = MOMENTS.get(moment) or (moment and (b"", int(moment), 0))
        killed = in_child(lambda name=name: run(name, folder, RUNS[1], IMAGES, FAILED), at)
        assert killed == bool(moment), moment
        if killed:
            in_child(lambda name=name: run(name, folder, RUNS[2], IMAGES, FAILED))
        found = rows(client, name), rows(client, name.sibling("failures"))
        expected = expected or found
        assert found == expected, moment
    assert [row["key"] for part in expected for row in part] == [*"abc", *"xxy"]
    left = [each.table_id for each in client.list_tables(f"{project}.lake")]
    assert not [table for table in left if "staging" in table], left


if __name__ == "__main__":
    main(*sys.argv[1:])
