"""Tables that others made, a migrated view, and what a search says of its cost: on BigQuery's emulator."""

import numpy as np
import pytest
from sqlglot import exp

from beam_vision.errors import UsageError
from beam_vision.pipelines.cli import main
from beam_vision.search import joined, nearest_plan, ready
from beam_vision.search.googlesql import parse
from beam_vision.search.index import open_table
from beam_vision.search.nearest import TableSearch, facts_of
from beam_vision.testing.bigquery_indexes import IndexServer
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table
from beam_vision.warehouse import clients, cost, forms

ROWS, DIMENSION = 60, 4
VECTORS = clustered(ROWS, DIMENSION)
FACTS = {"embedding_dim": DIMENSION, "model_digest": "model-a", "preprocessing_digest": "prep-a"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("elsewhere") / "table")
    write_embeddings(place, VECTORS)
    return place


@pytest.fixture
def lake(folder, warehouse):
    return copy_table(folder, warehouse, "lake", facts=FACTS)


def keys_of(found):
    return [[each.key for each in near] for near in found.neighbors]


def test_no_ready_query_has_a_column_of_a_table_s_name():
    """In GoogleSQL the table's name wins, and is a whole row; the emulator takes it for the column."""
    for name in ready.ready_queries():
        for select in parse(ready.ready_query(name).sql).find_all(exp.Select):
            sources = [select.args.get("from_"), *select.args.get("joins", ())]
            tables = {each.this.alias_or_name for each in sources if each is not None}
            own = (each for each in select.find_all(exp.Column) if each.parent_select is select)
            assert not tables & {each.name for each in own if not each.table}, name


def test_rows_without_a_vector_and_zero_vectors_are_left_out(lake, warehouse):
    name = warehouse.name("made")
    warehouse.client.query(
        f"CREATE TABLE {name.sql} AS SELECT key, CASE WHEN label = 'odd' THEN [] "
        f"WHEN key = 'lake/00000.jpg' THEN [0.0, 0.0, 0.0, 0.0] ELSE embedding END AS embedding "
        f"FROM {warehouse.name('lake').sql}"
    ).result()
    opened = TableSearch(facts_of(name.uri))
    whole = list(range(2, ROWS, 2))
    for queries in (VECTORS[:1], VECTORS[:3]):
        found = opened.search(queries, 5)
        for query, near in zip(queries, found.neighbors, strict=True):
            scores = VECTORS[whole] @ query
            np.testing.assert_allclose([each.score for each in near], np.sort(scores)[::-1][:5], atol=1e-6)
    assert opened.search(np.empty((0, DIMENSION))).neighbors == []
    warehouse.client.query(
        f"CREATE TABLE {warehouse.name('text').sql} AS SELECT key, label AS embedding "
        f"FROM {warehouse.name('lake').sql}"
    ).result()
    with pytest.raises(UsageError, match=r"'embedding' of bigquery://.* is STRING, and ARRAY<FLOAT64>"):
        facts_of(warehouse.uri("text"))


@pytest.fixture
def migrated(lake, warehouse, bigquery_server, monkeypatch):
    """A view as migrate-embeddings makes it, and a server on which the table behind it has an index."""
    table, view = warehouse.name("lake"), warehouse.name("lake_current")
    for sql in (
        f"CREATE OR REPLACE TABLE {table.sql} AS "
        f"SELECT *, ARRAY(SELECT -x FROM UNNEST(embedding) AS x) AS embedding_b FROM {table.sql}",
        f"CREATE VIEW {view.sql} AS SELECT * EXCEPT (embedding_b) REPLACE (embedding_b AS embedding, "
        f"'model-b' AS model_digest) FROM {table.sql}",
    ):
        warehouse.client.query(sql).result()
    made = warehouse.client.get_table(view.path)
    facts = {**FACTS, "model_digest": "model-b", "table": table.path, "column": "embedding_b"}
    made.description = forms.described("A view.", facts)
    warehouse.client.update_table(made, ["description"])
    monkeypatch.setattr(nearest_plan, "LEAST_INDEXED_BYTES", 0)
    with IndexServer(bigquery_server.rest) as server:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", server.rest)
        monkeypatch.setattr(clients, "emulated", lambda: False)
        yield server, table, view


def test_a_migrated_view_is_searched_by_the_index_of_its_table(migrated, warehouse, folder):
    server, table, view = migrated
    truth = keys_of(open_table(folder).search(-VECTORS[0], 3))
    found = TableSearch(facts_of(view.uri)).search(VECTORS[0], 3)
    assert keys_of(found) == truth
    assert found.notes == ["searched: every row compared (VECTOR_SEARCH takes no view)"]
    warehouse.client.close()
    with clients.client(table.project) as client:
        client.query(
            f"CREATE VECTOR INDEX `by_b` ON {table.sql}(embedding_b) OPTIONS(index_type = 'IVF')"
        ).result()
    opened = TableSearch(facts_of(view.uri))
    found = opened.search(VECTORS[0], 3)
    assert keys_of(found) == truth
    assert found.notes[0] == "searched: index (IVF)"
    assert f"FROM {table.sql} AS `images`),\n  'embedding_b'," in server.statements[-1]
    server.missed = f"key = '{truth[0][1]}'"
    found = opened.search(VECTORS[0], 3)
    assert keys_of(found) == truth
    assert found.notes[-1] == "searched: every row compared (the index gave too few)"
    found = opened.search(VECTORS[0], 3, where="model_digest = 'model-b'")  # in the table it is model-a
    assert keys_of(found) == truth
    assert found.notes == ["searched: every row compared (VECTOR_SEARCH takes no view)"]


def test_the_cost_of_a_search_is_said_in_one_line(lake, monkeypatch):
    """Before the search runs, with its look-ups; a look-up that costs more than the least has its own."""
    sizes = iter([1, 2, 3, 11 * cost.MIB, 5])
    monkeypatch.setattr(
        cost, "dry_run", lambda *_: cost.Cost(bytes_processed=next(sizes), accuracy="UPPER_BOUND")
    )
    told = []
    opened = TableSearch(facts_of(lake), tell=told.append)
    opened.search_key("lake/00003.jpg", 2)
    assert len(told) == 1
    assert "BigQuery: 3 queries read at most 6 B (billed as 30.0 MiB): less than 0.001 USD" in told[0]
    opened.search(VECTORS[0], 2, where="label = 'odd'")
    assert ["4 queries read" in told[1], "5 queries read at most 11.0 MiB" in told[2]] == [True, True]


def test_what_costs_differ_in_is_not_claimed_of_their_sum():
    one, other = cost.Cost(cost.MIB, accuracy="UPPER_BOUND"), cost.Cost(cost.MIB, accuracy="LOWER_BOUND")
    assert cost.text_of([one, other]).startswith("2 queries read 2.0 MiB (billed as 20.0 MiB)")
    assert cost.text_of([one, cost.Cost(0)]).startswith("2 queries read at most 1.0 MiB (billed as 10.0 MiB)")
    assert cost.text_of([one]) == one.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--query", "nearest_to_key", "--param", "key=lake/3.jpg"], "has no image of the key 'lake/3.jpg'"),
        (["--query", "like_and_unlike", "--param", "like=lake/00001.jpg,' OR 1=1"], 'the key "\' OR 1=1"'),
        (["--query", "nearest_to_key", "--param", "key=a", "--param", "k=0"], "@k is 0, and at least 1"),
        (["SELECT 1", "--dialect", "duckdb", "--cost_only"], "BigQuery takes GoogleSQL alone"),
        (["SELECT 1", "--join", "a=bigquery://p.d.t", "--join", "A=bigquery://p.d.t"], "A is given twice"),
        (["--query", "nearest_to_vector", "--vector", "ZERO"], "all zeros"),
    ],
)
def test_what_would_give_nothing_is_refused(lake, tmp_path, capsys, arguments, message):
    np.save(tmp_path / "zero.npy", np.zeros(DIMENSION))
    given = [str(tmp_path / "zero.npy") if each == "ZERO" else each for each in arguments]
    assert main(["sql", *given, "--table", lake]) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.out == ""


def test_a_table_that_is_not_there_is_named(lake, capsys):
    assert main(["sql", "SELECT key FROM `nobody-at-all.lake.images`", "--table", lake]) == 2
    shown = capsys.readouterr().err
    assert "nobody-at-all:lake" in shown
    assert "bq mk" not in shown


def test_the_keys_of_one_request_are_bounded_in_number_and_in_bytes():
    short, long = [f"k{number}" for number in range(25_000)], ["ü" * 1000] * 5000
    found = list(joined.pieces([*short, *long]))
    assert [key for some in found for key in some] == [*short, *long]
    assert max(map(len, found)) == joined.KEYS_AT_ONCE
    assert 3.9e6 < max(sum(len(key.encode()) + 20 for key in some) for some in found) <= joined.BYTES_AT_ONCE
    assert list(joined.pieces([])) == []
