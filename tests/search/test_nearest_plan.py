"""The ways to search a table in BigQuery: which, in what order, and k whatever an index does."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.search.nearest_plan import MOST_FETCHED, NO_INDEX, IndexFacts, ways
from beam_vision.search.nearest_sql import statement
from beam_vision.search.where import NO_CONDITION, parse_where

COLUMNS = ("key", "uri", "label", "width", "attributes", "embedding", "capture_time")
IVF = IndexFacts("IVF", frozenset({"label", "width"}), usable=True)
BIG = {"rows": 1_000_000, "dimension": 128}


def planned(k=10, *, matches=500_000, where="", index=IVF, searchable=True, **more):
    settings = {**BIG, **more}
    condition = parse_where(where, COLUMNS)
    return ways(k, matches=matches, condition=condition, index=index, searchable=searchable, **settings)


@pytest.mark.parametrize(
    ("settings", "names", "why"),
    [
        ({"index": NO_INDEX}, ["brute force"], "there is no vector index"),
        ({"index": IndexFacts("IVF")}, ["brute force"], "IVF index is not usable yet"),
        ({"searchable": False}, ["every row compared"], "takes no view"),
        ({"rows": 1000}, ["brute force"], "less than 10 MiB"),
        ({"where": "label = 'x'", "matches": 10}, ["brute force"], "no more than 10 rows match"),
        ({}, ["index", "brute force"], "IVF"),
        ({"where": "label = 'x' AND width > 3"}, ["index, filtered before", "brute force"], "stores"),
        ({"where": "label = 'x' AND uri = 'y'"}, ["index, filtered after"] * 4 + ["brute force"], "uri"),
        ({"where": "uri = 'y'", "matches": 100}, ["brute force"], "only 100 of 1,000,000 rows match"),
        (
            {"where": "attributes['camera'] = 'a'"},
            ["index, filtered after"] * 4 + ["every row compared"],
            "attributes",
        ),
        ({"where": "ARRAY_LENGTH(embedding) = 3"}, ["every row compared"], "the filter is on the embedding"),
        ({"where": "attributes['a'] = 'b'", "index": NO_INDEX}, ["every row compared"], "no vector index"),
    ],
)
def test_the_way_and_its_reason(settings, names, why):
    found = planned(**settings)
    assert [way.name for way in found] == names
    assert why in found[0].why
    assert [way.is_exact for way in found] == [False] * (len(found) - 1) + [True]


def test_what_is_fetched_grows_with_what_the_filter_leaves_out():
    half, tenth = (planned(where="uri = 'y'", matches=matches)[0] for matches in (500_000, 100_000))
    assert (half.fetch, tenth.fetch) == (40, 200)
    fetched = [way.fetch for way in planned(where="uri = 'y'", matches=100_000)[:-1]]
    assert fetched == [200, 800, 3200]
    assert "200 fetched" in tenth.text


@given(
    st.integers(1, 50),
    st.integers(1, 400),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["", "label = 'x'", "uri = 'x'", "attributes['a'] = 'b'"]),
    st.integers(0, 2**32),
)
def test_exactly_k_come_back_from_an_index_that_forgets(k, rows, share, forgets, where, seed):
    """Row i of the table is the i-th nearest; the index forgets rows, and filters as BigQuery does."""
    rng = random.Random(seed)
    matching = [row for row in range(rows) if not where or rng.random() < share]
    known = [row for row in range(rows) if rng.random() >= forgets]
    found = []
    for way in planned(k, matches=len(matching), where=where, rows=rows, dimension=10**6):
        assert way.is_exact or way.fetch <= MOST_FETCHED
        found = {
            "index": lambda way: known[: way.fetch],
            "index, filtered before": lambda way: [row for row in known if row in matching][: way.fetch],
            "index, filtered after": lambda way: [row for row in known[: way.fetch] if row in matching],
            "brute force": lambda way: matching[: way.fetch],
            "every row compared": lambda way: matching[: way.fetch],
        }[way.name](way)[:k]
        if len(found) >= min(k, len(matching)):
            break
    assert len(found) == min(k, len(matching))
    assert set(found) <= set(matching)


def search_of(sql):
    return " ".join(sql.split())


def test_the_statement_of_each_way():
    stored, other = "label = 'x'", "uri = 'it\\'s'"
    before = search_of(
        statement(planned(where=stored)[0], 10, parse_where(stored, COLUMNS), ["key", "uri"], several=False)
    )
    assert "VECTOR_SEARCH( (SELECT `key`, `uri`, `embedding` FROM images WHERE (label = 'x'))" in before
    assert "top_k => 10, distance_type => 'COSINE', options => '{}'" in before
    after = search_of(
        statement(planned(where=other)[0], 10, parse_where(other, COLUMNS), ["key"], several=True)
    )
    assert "(SELECT `key`, `uri`, `embedding` FROM images), 'embedding', (SELECT number, embedding" in after
    assert ") WHERE (uri = 'it\\'s')" in after
    assert "top_k => 40" in after
    exact = planned(index=NO_INDEX)[0]
    assert '{"use_brute_force": true}' in statement(exact, 10, NO_CONDITION, ["key"], several=False)
    view = planned(searchable=False)[0]
    assert "VECTOR_SEARCH" not in statement(view, 10, NO_CONDITION, ["key"], several=True)


def test_a_name_that_is_no_column_never_reaches_the_statement():
    with pytest.raises(UsageError, match="can't be a column"):
        statement(planned()[0], 10, NO_CONDITION, ["key", "a` FROM x; DROP TABLE y --"], several=False)
