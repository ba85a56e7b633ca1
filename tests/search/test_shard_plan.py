"""How an index is parted into shards: numbers, hashes, facts that merge."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import digest
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import tune
from beam_vision.search.shard_plan import (
    Facts,
    ShardSettings,
    checked,
    choose_shards,
    group_rows,
    key_hashes,
    makers_of,
    merge_facts,
    sample_of,
    shards_of,
)

SETTINGS = ShardSettings(table="t", output="/i", run_id="r", shards=4, dimension=2)


@pytest.mark.parametrize(
    ("asked", "rows", "shard_rows", "shards"),
    [("8", None, 10, 8), ("auto", 10, 10, 1), ("auto", 11, 10, 2), ("auto", 1, 10, 1), ("1", 5, 1, 1)],
)
def test_the_number_of_shards(asked, rows, shard_rows, shards):
    assert choose_shards(asked, rows, shard_rows) == shards


@pytest.mark.parametrize(
    ("asked", "rows", "shard_rows", "message"),
    [
        ("0", 5, 10, "--shards is a number in 1..10,000 or auto, not '0'"),
        ("-2", 5, 10, "not '-2'"),
        ("many", 5, 10, "not 'many'"),
        ("10001", 5, 10, "not '10001'"),
        ("auto", None, 10, "doesn't say how many rows"),
        ("auto", 0, 10, "doesn't say how many rows"),
        ("auto", 10**9, 10, "raise --shard_rows"),
        ("2", 5, 0, "--shard_rows is at least 1, not 0"),
    ],
)
def test_numbers_that_will_not_do(asked, rows, shard_rows, message):
    with pytest.raises(UsageError, match=message):
        choose_shards(asked, rows, shard_rows)


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(1, 60))
def test_row_groups_are_each_read_once_in_order_and_no_more_than_asked_for(sizes, most):
    groups = list(group_rows(sizes, most))
    assert [number for some in groups for number in some] == list(range(len(sizes)))
    for some in groups:
        assert len(some) == 1 or sum(sizes[number] for number in some) <= most
    for some, following in itertools.pairwise(groups):
        assert sum(sizes[number] for number in some) + sizes[following[0]] > most


@given(st.lists(st.text(max_size=8), max_size=20), st.integers(1, 9))
def test_a_key_has_one_shard_everywhere_and_always(keys, shards):
    assert shards_of(key_hashes(keys), shards).tolist() == [digest.bucket(key, shards) for key in keys]


def test_shards_are_about_as_large_as_each_other():
    sizes = np.bincount(shards_of(key_hashes([f"lake/{i}.jpg" for i in range(8000)]), 8))
    assert len(sizes) == 8
    assert sizes.min() > 850
    assert sizes.max() < 1150


def facts_of(keys, **others):
    hashes = key_hashes(keys)
    vectors = np.stack([np.array([hashed % 7, 1.0], np.float32) for hashed in hashes.tolist()])
    return Facts(rows=len(keys), sample=sample_of(hashes, keys, vectors), **others)


def as_values(facts):
    sample = (facts.sample.keys, facts.sample.vectors.tolist(), facts.sample.hashes.tolist())
    return facts.rows, facts.bad, facts.bad_keys, facts.models, sample, facts.schema


@given(st.permutations(range(6)), st.integers(0, 6))
def test_facts_merge_in_any_order_and_grouping(order, cut):
    columns = pa.schema([("key", pa.string()), ("label", pa.null())]).serialize().to_pybytes()
    others = pa.schema([("key", pa.string()), ("label", pa.string())]).serialize().to_pybytes()
    parts = [
        facts_of(
            [f"{part}/{i}" for i in range(80)],
            bad={"zero": part} if part else {},
            bad_keys={"zero": [f"bad{part}"]} if part else {},
            models=frozenset({"m"}),
            schema=columns if part % 2 else others,
        )
        for part in range(6)
    ]
    mixed = [parts[number] for number in order]
    found = merge_facts([merge_facts(mixed[:cut]), merge_facts(mixed[cut:]), merge_facts([])])
    assert as_values(found) == as_values(merge_facts(parts))
    assert (found.rows, found.bad) == (480, {"zero": 15})
    every = sorted(
        digest.hashlib.sha256(f"{p}/{i}".encode()).digest()[:8] for p in range(6) for i in range(80)
    )
    assert [hashed.to_bytes(8, "big") for hashed in found.sample.hashes.tolist()] == every[: tune.QUERIES]
    assert pa.ipc.read_schema(pa.py_buffer(found.schema)).field("label").type == pa.string()


def test_no_facts_at_all_are_refused():
    with pytest.raises(UsageError, match="the table at t has no row with a vector"):
        checked(merge_facts([]), SETTINGS)


def test_bad_vectors_are_named_unless_they_may_be_left_out():
    bad = Facts(rows=1, bad={"zero": 9}, bad_keys={"zero": list("abcde")}, models=frozenset({"m"}))
    bad = merge_facts([bad, Facts(preprocessings=frozenset({"p"}))])
    with pytest.raises(UsageError, match=r"9 vectors .* 9 zero \(a, b, c, d, e, \.\.\.\); leave them out"):
        checked(bad, SETTINGS)
    allowed = ShardSettings(**{**vars(SETTINGS), "skip_bad_vectors": True})
    assert checked(bad, allowed) is bad


def test_rows_of_two_models_or_of_another_one_are_refused():
    one = Facts(rows=1, models=frozenset({"m"}), preprocessings=frozenset({"p"}))
    assert makers_of(checked(one, SETTINGS)) == {"model": "m", "preprocessing": "p"}
    with pytest.raises(DigestMismatch, match="preprocessing digests differ: expected p, found q"):
        checked(merge_facts([one, Facts(preprocessings=frozenset({"q"}))]), SETTINGS)
    other = ShardSettings(**{**vars(SETTINGS), "makers": ("m2", "p")})
    with pytest.raises(DigestMismatch, match=r"model digests differ: expected m2, found m; .*--incremental"):
        checked(one, other)


def test_what_makes_another_shard_of_the_same_rows():
    changed = [{"backend": "exact"}, {"recall_target": 0.9}]
    digests = [ShardSettings(**{**vars(SETTINGS), **one}).digest("1.4") for one in changed]
    kept = [{"run_id": "s"}, {"reuse": True}, {"skip_bad_vectors": True}]
    same = {ShardSettings(**{**vars(SETTINGS), **one}).digest("1.4") for one in kept}
    assert same == {SETTINGS.digest("1.4")}
    assert len({*digests, *same, SETTINGS.digest("1.5")}) == 4
