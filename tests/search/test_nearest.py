"""The nearest images in SQL, by DuckDB and BigQuery's emulator, against exact NumPy on the same vectors."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.search import nearest_plan
from beam_vision.search.index import open_table
from beam_vision.search.nearest import TableSearch, facts_of
from beam_vision.testing.bigquery_indexes import IndexServer
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table
from beam_vision.warehouse import clients

ROWS, DIMENSION = 300, 8
FACTS = {"embedding_dim": DIMENSION, "model_digest": "model-a", "preprocessing_digest": "prep-a"}
HOSTILE = [
    "it's.jpg",
    'a"b.jpg',
    "a`b; DROP TABLE images --.jpg",
    "a\\'b.jpg",
    "ä/日本/😀.jpg",
    "x' OR '1'='1",
]
KEYS = HOSTILE + [f"lake/{row:05d}.jpg" for row in range(len(HOSTILE), ROWS)]
LABELS = [None if row % 7 == 0 else ("it's", "b", 'c"`')[row % 3] for row in range(ROWS)]
ATTRIBUTES = [
    {} if row % 11 == 0 else {"camera": "abc"[row % 3], "o'clock": str(row % 4)} for row in range(ROWS)
]
CONDITIONS = {
    "": lambda row: True,
    "label = 'it\\'s'": lambda row: LABELS[row] == "it's",
    "attributes['camera'] = 'a' AND label IS NOT NULL": lambda row: (
        ATTRIBUTES[row].get("camera") == "a" and LABELS[row] is not None
    ),
    'CAST(attributes["o\'clock"] AS INT64) >= 3': lambda row: ATTRIBUTES[row].get("o'clock") == "3",
    "STARTS_WITH(key, 'lake/0029')": lambda row: row >= 290,
    "label = 'nobody'": lambda row: False,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("nearest") / "table")
    vectors = clustered(ROWS, DIMENSION)
    vectors[10:13] = vectors[9]  # ties
    write_embeddings(place, vectors, keys=KEYS, labels=LABELS, attributes=ATTRIBUTES)
    return place


@pytest.fixture(scope="module")
def exact(folder):
    return open_table(folder)


@pytest.fixture(params=["duckdb", "bigquery", "view"])
def opened(request, folder):
    """The same rows by each engine, and behind a view."""
    if request.param == "duckdb":
        return TableSearch(facts_of(folder))
    warehouse = request.getfixturevalue("warehouse")
    name = warehouse.name("lake")
    copy_table(folder, warehouse, "lake", facts=FACTS)
    if request.param == "view":
        warehouse.client.query(
            f"CREATE VIEW {warehouse.name('seen').sql} AS SELECT * FROM {name.sql}"
        ).result()
        return TableSearch(facts_of(warehouse.uri("seen")))
    return TableSearch(facts_of(name.uri))


def same(found, truth):
    """Keys and ranks the same, scores to the last decimals that float32 leaves; ties in any order."""
    assert len(found) == len(truth)
    for one, other in zip(found, truth, strict=True):
        assert [each.rank for each in one] == [each.rank for each in other]
        np.testing.assert_allclose(
            [each.score for each in one], [each.score for each in other], atol=1e-6, rtol=0
        )
        last = min((each.score for each in other), default=0) + 1e-6
        sure = [{each.key for each in some if each.score > last} for some in (one, other)]
        assert sure[0] == sure[1]
        known = {each.key: each for each in other}
        for each in one:
            if each.key in known:
                assert (each.uri, each.label) == (known[each.key].uri, known[each.key].label)
                assert each.attributes == known[each.key].attributes


def test_the_nearest_are_those_of_numpy(opened, exact, request):
    """One query and several, with and without filters, by vector and hostile keys; k, or all that match."""
    queries = clustered(4, DIMENSION, seed=1)
    here = request.node.callspec.params["opened"] == "duckdb"
    asked = list(CONDITIONS.items())
    for number, (where, matches) in enumerate(asked if here else asked[:3:2]):
        count = sum(map(matches, range(ROWS)))
        for vectors, k in ((queries[0], 3), (queries, 20))[number % 2 :]:
            found, truth = opened.search(vectors, k, where=where), exact.search(vectors, k, where=where)
            assert {len(each) for each in found.neighbors} == {min(k, count)}
            same(found.neighbors, truth.neighbors)
            if count < k:
                assert f"only {count} rows match: all are given" in found.notes
    for key in HOSTILE[: None if here else 1]:
        same(opened.search_key(key, 5).neighbors, exact.search_key(key, 5).neighbors)
    way = {
        "duckdb": "brute force (there is no vector index",
        "view": "every row compared (VECTOR_SEARCH takes no view",
        "bigquery": "brute force (there is no vector index",
    }[request.node.callspec.params["opened"]]
    assert f"searched: {way}" in "; ".join(opened.search(queries[0], 1).notes)
    assert opened.search_key(KEYS[9], 1, include_self=True).neighbors[0][0].score == 1.0


@pytest.fixture
def indexed(warehouse, folder, bigquery_server, monkeypatch):
    """The table behind a server that has vector indexes, and VECTOR_SEARCH sent as BigQuery would get it."""
    copy_table(folder, warehouse, "lake", facts=FACTS)
    monkeypatch.setattr(nearest_plan, "LEAST_INDEXED_BYTES", 0)
    with IndexServer(bigquery_server.rest) as server:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", server.rest)
        monkeypatch.setattr(clients, "emulated", lambda: False)
        client = clients.client(warehouse.project)
        client.query(
            f"CREATE VECTOR INDEX `lake_embedding` ON {warehouse.name('lake').sql}(embedding) "
            "STORING(label) OPTIONS(index_type = 'IVF', distance_type = 'COSINE')"
        ).result()
        yield server, warehouse.uri("lake")
        client.close()


@pytest.mark.parametrize(
    ("where", "ways"),
    [
        ("", ["index (IVF)", "brute force (the index gave too few)"]),
        (
            "label = 'it\\'s'",
            [
                "index, filtered before (IVF stores the filter's columns)",
                "brute force (the index gave too few)",
            ],
        ),
        (
            "uri LIKE '%1.jpg'",
            [
                "index, filtered after, 104 fetched a query (IVF doesn't store uri)",
                "brute force (the index gave too few)",
            ],
        ),
    ],
)
def test_an_index_that_misses_rows_is_helped_out_by_brute_force(indexed, exact, where, ways):
    server, place = indexed
    opened = TableSearch(facts_of(place))
    query = clustered(1, DIMENSION, seed=4)[0]
    truth = exact.search(query, 5, where=where)
    found = opened.search(query, 5, where=where)
    same(found.neighbors, truth.neighbors)
    assert found.notes == [f"searched: {ways[0]}", "vector index: the whole search went through the index"]
    server.missed = f"key = '{truth.neighbors[0][2].key}'"
    found = opened.search(query, 5, where=where)
    same(found.neighbors, truth.neighbors)
    assert [note for note in found.notes if "searched" in note] == [f"searched: {way}" for way in ways]
    assert "use_brute_force" in found.notes[-1]
    assert '"use_brute_force": true' in server.statements[-1]
    if not where:
        several = opened.search(np.stack([query, -query]), 5).neighbors
        same(several[:1], truth.neighbors)
        assert len(several[1]) == 5


@pytest.mark.parametrize(
    ("k", "where", "message"),
    [
        (0, "", "k is at least 1"),
        (1, "lable = 'x'", "did you mean 'label'"),
        (1, "true) OR (true", "--where"),
        (1, "label", "BOOL"),
    ],
)
def test_what_can_not_be_asked_is_refused(folder, k, where, message):
    opened = TableSearch(facts_of(folder))
    with pytest.raises(UsageError, match=r"(?i)" + message.replace("(", r"\(").replace(")", r"\)")):
        opened.search(np.ones(DIMENSION), k, where=where)


def test_queries_and_keys_that_are_none(opened):
    with pytest.raises(UsageError, match=rf"{DIMENSION + 1} dimensions"):
        opened.search(np.ones(DIMENSION + 1))
    with pytest.raises(UsageError, match="query vectors are zero"):
        opened.search(np.zeros(DIMENSION))
    with pytest.raises(UsageError, match=r"no image with the key 'lake/0100.jpg'; did you mean 'lake/"):
        opened.search_key("lake/0100.jpg")
    with pytest.raises(UsageError, match="no image with the key"):
        opened.search_key("' OR '1'='1")


def test_another_model_is_refused_with_both_digests(opened):
    with pytest.raises(DigestMismatch, match="model digests differ: expected model-a, found model-b"):
        opened.require_made_by(model_digest="model-b", preprocessing_digest="prep-a")
        opened.search(np.ones(DIMENSION), 1)  # what a view is of is seen then
    opened.require_made_by(model_digest="model-a", preprocessing_digest="prep-a")
    assert opened.search(np.ones(DIMENSION), 1).neighbors[0]


def test_a_table_of_two_models_is_refused_unless_the_filter_leaves_one(tmp_path, folder):
    write_embeddings(str(tmp_path / "other"), clustered(9, DIMENSION), model_digest="model-b")
    parts = [pq.read_table(f"{place}/part-run-1-00000.parquet") for place in (folder, tmp_path / "other")]
    (tmp_path / "both").mkdir()
    pq.write_table(pa.concat_tables(parts), tmp_path / "both" / "part.parquet")
    opened = TableSearch(facts_of(str(tmp_path / "both")))
    with pytest.raises(DigestMismatch, match=r"expected model-a, found model-b.*--where"):
        opened.search(np.ones(DIMENSION))
    only = "model_digest = 'model-b'"
    assert len(opened.search(np.ones(DIMENSION), 99, where=only).neighbors[0]) == 9
    opened.require_made_by(model_digest="model-a", preprocessing_digest="prep-a")
    with pytest.raises(DigestMismatch, match="expected model-b, found model-a"):
        opened.search(np.ones(DIMENSION), where=only)


def test_tables_that_can_not_be_searched(warehouse, tmp_path):
    with pytest.raises(UsageError, match="there is no table"):
        facts_of(warehouse.uri("nothing"))
    warehouse.client.query(f"CREATE TABLE {warehouse.name('plain').sql} (key STRING)").result()
    with pytest.raises(UsageError, match="has no column 'embedding', only key"):
        facts_of(warehouse.uri("plain"))
    with pytest.raises(UsageError, match="no table at"):
        facts_of(str(tmp_path))
