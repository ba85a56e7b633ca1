"""``--where`` in GoogleSQL: what Python says, exactly k results, and nothing but one expression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.search import scann_index
from beam_vision.search.filtering import matching_rows
from beam_vision.search.index import build, open_index, open_table
from beam_vision.testing.tables import clustered, write_embeddings

ROWS, DIMENSION = 2000, 16


@pytest.fixture(scope="module")
def table_folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("where") / "table")
    labels = [None if i % 7 == 0 else f"c{i % 5}" for i in range(ROWS)]
    attributes = [{} if i % 11 == 0 else {"camera": "abc"[i % 3], "day": str(i % 4)} for i in range(ROWS)]
    write_embeddings(folder, clustered(ROWS, DIMENSION), labels=labels, attributes=attributes)
    return folder


@pytest.fixture(scope="module")
def opened_table(table_folder):
    return open_table(table_folder)


@pytest.fixture(scope="module")
def rows(opened_table):
    return opened_table.rows


CONDITIONS = {
    "label = 'c3'": lambda i: i % 7 != 0 and i % 5 == 3,
    "label IS NULL": lambda i: i % 7 == 0,
    "NOT (label = 'c3')": lambda i: i % 7 != 0 and i % 5 != 3,
    "attributes['camera'] = 'a'": lambda i: i % 11 != 0 and i % 3 == 0,
    "attributes['camera'] = 'a' AND label IN ('c1', 'c2')": lambda i: (
        i % 11 != 0 and i % 3 == 0 and i % 7 != 0 and i % 5 in (1, 2)
    ),
    "CAST(attributes['day'] AS INT64) >= 2": lambda i: i % 11 != 0 and i % 4 >= 2,
    "key LIKE '%7.jpg' -- a comment": lambda i: i % 10 == 7,
    "width * height > 1000": lambda i: False,
    "true": lambda i: True,
    "STARTS_WITH(key, 'lake/0199') # a comment": lambda i: i >= 1990,
    r"key = 'lake\x2f00007.jpg'": lambda i: i == 7,
}


@pytest.mark.parametrize("where", CONDITIONS)
def test_matches_what_python_says(rows, where):
    expected = [i for i in range(ROWS) if CONDITIONS[where](i)]
    np.testing.assert_array_equal(matching_rows(rows, where), expected)


@pytest.mark.parametrize(
    "where",
    [
        "label = 'c1'; DROP TABLE rows",
        "true) UNION SELECT 1 FROM rows WHERE (true",
        "true) OR (true",
        "true) --",
        "label = 'c1' FROM rows",
        "label = 'c1' LIMIT 1",
        "true, false",
        "label = ",
        "label = 'c1",
        "SELECT true",
        "count(*) > 1",
        "label",
        "key IN (SELECT * FROM read_text('/etc/hostname'))",
        "key IN (SELECT key FROM numbered)",
        "key IN (SELECT max(key) FROM rows)",
        "EXISTS(SELECT 1)",
        "label = @label",
        "label = ?",
        "somebody.own(label)",
        "images.label = 'c1'",
        "label = 'c1' UNION ALL SELECT true",
        "row_number() OVER () = 1",
        "*",
        "(" * 5000,
    ],
)
def test_anything_but_one_expression_over_the_columns_is_refused(rows, where):
    with pytest.raises(UsageError, match="--where"):
        matching_rows(rows, where)


def test_an_unknown_column_names_those_there_are(rows):
    with pytest.raises(UsageError) as caught:
        matching_rows(rows, "lable = 'cat'")
    assert '"lable" not found' in str(caught.value)
    assert "columns: key, uri, label, width, height, " in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=25)
@given(st.integers(1, 60), st.sampled_from(sorted(CONDITIONS)), st.integers(0, ROWS - 1))
def test_exactly_k_when_k_match(opened_table, k, where, row):
    opened = opened_table
    matches = {f"lake/{i:05d}.jpg" for i in range(ROWS) if CONDITIONS[where](i)}
    found = opened.search(opened.index.store.vectors[row], k, where=where).neighbors[0]
    assert len(found) == min(k, len(matches))
    assert {each.key for each in found} <= matches
    own = f"lake/{row:05d}.jpg"
    without = opened.search_key(own, k, where=where).neighbors[0]
    assert len(without) == min(k, len(matches - {own}))
    assert {each.key for each in without} <= matches - {own}


@pytest.mark.skipif(not deps.have("scann"), reason="there is no ScaNN for this platform")
@pytest.mark.parametrize("backend", ["scann_ah", "scann_tree"])
def test_exactly_k_from_scann_whichever_way_it_goes(
    table_folder, opened_table, tmp_path, monkeypatch, backend
):
    build(table_folder, str(tmp_path / "i"), backend=backend, recall_target=0.9)
    opened, exact = open_index(str(tmp_path / "i")), opened_table
    assert opened.index.backend == backend
    queries = clustered(ROWS, DIMENSION)[::100]
    ways = set()
    for least in (0, 20_000):
        monkeypatch.setattr(scann_index, "EXACT_MATCHES", least)
        for where in CONDITIONS:
            matches = sum(map(CONDITIONS[where], range(ROWS)))
            for k in (1, 40):
                found = opened.search(queries, k, where=where)
                truth = exact.search(queries, k, where=where)
                assert [len(each) for each in found.neighbors] == [min(k, matches)] * len(queries)
                right = [
                    len({n.key for n in a} & {n.key for n in b})
                    for a, b in zip(found.neighbors, truth.neighbors, strict=True)
                ]
                assert sum(right) >= 0.85 * min(k, matches) * len(queries)
                ways.update(note.split(",")[0] for note in found.notes)
    assert f"searched: {backend}" in ways
    assert any(way.startswith("searched: exact over the") for way in ways)
