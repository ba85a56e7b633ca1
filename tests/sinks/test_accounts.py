"""The accounts of a backfill."""

import dataclasses

import apache_beam as beam
import pytest

from beam_vision.errors import JobError
from beam_vision.sinks.accounts import Accounts, accounts_path, read_accounts
from beam_vision.sinks.accounts_transforms import WriteAccounts
from beam_vision.sinks.windows import Committed
from beam_vision.stream_types import DeadLetter, FrameInfo, Observation, StreamRow
from beam_vision.testing.pipelines import collect
from beam_vision.types import Failure, ImageRef

GOOD = Accounts(
    inputs=11, rows=4, new_rows=3, gated=3, duplicates=1, failed_by_reason={"empty": 2, "not_found": 1}
)


def dead(reason):
    return DeadLetter(Failure("k", "u", "read", reason, "d", 1, "r"), FrameInfo("a", 1.0), b"")


def written(folder, **ends):
    """The accounts of eleven inputs with these ends, each in a collection of its own."""
    inputs = [ImageRef(key=str(n), uri=str(n)) for n in range(10)]
    failed = [Failure("k", "u", "source", "bad_manifest_row", "d", 1, "r")]

    def build(p):
        made = [p | name >> beam.Create(elements) for name, elements in ends.items()]
        listed = [p | "Listed" >> beam.Create(inputs), p | "NotListed" >> beam.Create(failed)]
        return p | WriteAccounts(folder, "run-1", inputs=listed, ends=made)

    collect(build)
    return read_accounts(accounts_path(folder, "run-1"))


def test_every_end_is_counted_once(tmp_path):
    found = written(
        str(tmp_path),
        rows=[StreamRow("predictions", str(n), "a", 1.0, {}) for n in range(4)],
        dead=[dead("empty"), dead("not_found")],
        late=[dead("empty")],
        observed=[Observation("a", n, "gated") for n in range(3)]
        + [Observation("a", n, kind) for n, kind in enumerate(("frame", "row", "failed", "silent", "frame"))],
        more=[Observation("a", 1.0, "duplicate")],
        committed=[
            Committed("predictions", "w", 9, 2, "p"),
            Committed("predictions", "v", 1, 1, "p"),
            Committed("health", "w", 5, 5, "p"),
        ],
        none=[],
    )
    assert found == GOOD
    found.check()


@pytest.mark.parametrize("name", ["inputs", "rows", "gated", "duplicates"])
@pytest.mark.parametrize("more", [1, -1])
def test_what_is_unaccounted_for_is_an_error(name, more):
    with pytest.raises(JobError, match="are accounted for"):
        dataclasses.replace(GOOD, **{name: getattr(GOOD, name) + more}).check()


def test_a_run_without_inputs_or_of_failures_alone_is_an_error():
    with pytest.raises(JobError, match="no images came in"):
        Accounts().check()
    with pytest.raises(JobError, match="no image came through: empty 2"):
        Accounts(inputs=2, failed_by_reason={"empty": 2}).check()
    Accounts(inputs=2, gated=1, failed_by_reason={"empty": 1}).check()


def test_a_run_that_ended_without_accounts_is_an_error(tmp_path):
    with pytest.raises(JobError, match="without its accounts"):
        read_accounts(accounts_path(str(tmp_path), "run-1"))
