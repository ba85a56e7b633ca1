"""GoogleSQL as BigQuery gets it, and as DuckDB does."""

import datetime
import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.search import googlesql, literals, ready, sql
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.warehouse.names import TableName

LAKE = TableName("proj-a", "d", "t")
NAMES = {
    "images": LAKE,
    "failures": LAKE.sibling("failures"),
    "counts": "(SELECT * FROM `proj-a.d.t_counts`)",
}
IMAGES = "`proj-a.d.t`"


def to_bigquery(statement):
    return googlesql.to_bigquery(statement, NAMES)


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT key FROM images", f"SELECT key FROM {IMAGES} AS `images`"),
        ("SELECT i.key FROM images i", f"SELECT i.key FROM {IMAGES} i"),
        ("SELECT images.key FROM `Images`", f"SELECT images.key FROM {IMAGES} AS `Images`"),
        ("FROM images |> WHERE key = 'a'", f"FROM {IMAGES} AS `images` |> WHERE key = 'a'"),
        (
            "select  *\n-- it's images\nfrom failures # images\n",
            "select  *\n-- it's images\nfrom `proj-a.d.t_failures` AS `failures` # images\n",
        ),
        ("SELECT 'FROM images', images FROM t.images", "SELECT 'FROM images', images FROM t.images"),
        ("SELECT * FROM counts c", "SELECT * FROM (SELECT * FROM `proj-a.d.t_counts`) c"),
        ("SELECT * FROM `other-p.d.images`", "SELECT * FROM `other-p.d.images`"),
        (
            "SELECT * FROM images, UNNEST(images.attributes) AS a",
            f"SELECT * FROM {IMAGES} AS `images`, UNNEST(images.attributes) AS a",
        ),
        (
            "WITH images AS (SELECT 1 AS key) SELECT * FROM images",
            "WITH images AS (SELECT 1 AS key) SELECT * FROM images",
        ),
        (
            "WITH a AS (SELECT * FROM images), images AS (SELECT * FROM images) SELECT * FROM images, a",
            f"WITH a AS (SELECT * FROM {IMAGES} AS `images`), images AS (SELECT * FROM {IMAGES} AS `images`) "
            "SELECT * FROM images, a",
        ),
        (
            "SELECT cosine_similarity(embedding, @q) FROM images",
            f"SELECT (1 - COSINE_DISTANCE(embedding, @q)) FROM {IMAGES} AS `images`",
        ),
        (
            "SELECT Embedding_Of( 'a)' )",
            f"SELECT (SELECT ANY_VALUE(row_.embedding) FROM {IMAGES} AS row_ WHERE row_.key = ( 'a)' ))",
        ),
        (
            "SELECT i.attributes['a'] FROM images i",
            "SELECT (SELECT entry_.value FROM UNNEST(i.attributes) AS entry_ WHERE entry_.key = ('a')) "
            f"FROM {IMAGES} i",
        ),
        (
            "SELECT attributes[OFFSET(0)].key FROM images",
            f"SELECT attributes[OFFSET(0)].key FROM {IMAGES} AS `images`",
        ),
        (
            "SELECT base.key FROM VECTOR_SEARCH(TABLE images, 'embedding', (SELECT embedding FROM images), "
            "top_k => @k, distance_type => 'COSINE', options => '{}')",
            f"SELECT base.key FROM VECTOR_SEARCH(TABLE {IMAGES}, 'embedding', (SELECT embedding FROM "
            f"{IMAGES} AS `images`), top_k => @k, distance_type => 'COSINE', options => '{{}}')",
        ),
        (
            "SELECT * FROM VECTOR_SEARCH(TABLE images, 'embedding', query_value => @q)",
            f"SELECT * FROM VECTOR_SEARCH(TABLE {IMAGES}, 'embedding', query_value => @q)",
        ),
    ],
)
def test_bigquery_gets_the_text_with_names_in_place(statement, expected):
    assert to_bigquery(statement) == expected


@pytest.mark.parametrize("name", ready.ready_queries())
def test_ready_queries_reach_bigquery_as_they_were_written(name):
    """Only names and shorthands differ, so what is left out of both is the same text."""
    text = ready.ready_query(name).sql
    sent = googlesql.to_bigquery(text, {**NAMES, "predictions": LAKE.sibling("predictions")})
    assert sent.count("VECTOR_SEARCH(") == text.count("VECTOR_SEARCH(")
    ours = ("cosine_similarity", "attributes[", "images", "JOIN predictions")
    same = [line for line in text.splitlines() if not any(each in line for each in ours)]
    assert [line for line in sent.splitlines() if line in same] == same
    assert len(sent.splitlines()) == len(text.splitlines())
    assert "TABLE images" not in sent
    assert "FROM images" not in sent
    googlesql.parse(sent)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT embedding_of(key) FROM images", "embedding_of(t.key)"),
        ("SELECT embedding_of()", "takes 1 argument, not 0"),
        ("SELECT cosine_similarity(embedding) FROM images", "takes 2 arguments, not 1"),
        ("SELECT attributes[label] FROM images", "attributes[t.label]"),
        ("SELECT (key FROM images", "line 1, column"),
        ("(" * 3000 + "SELECT 1" + ")" * 3000, ""),
        ("SELECT 1 " + " " * 1_000_000, "1,000,009 characters"),
    ],
)
def test_what_means_something_else_on_one_of_them_is_refused(statement, message):
    for target in (to_bigquery, googlesql.to_duckdb):
        with pytest.raises(UsageError) as caught:
            target(statement)
        assert message in str(caught.value)


def test_a_bare_table_can_not_be_a_view():
    with pytest.raises(UsageError, match=r"write \(SELECT \* FROM counts\)"):
        to_bigquery("SELECT * FROM VECTOR_SEARCH(TABLE counts, 'x', query_value => @q)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("googlesql"))
    write_embeddings(folder, clustered(20, 4))
    return folder


def ask(folder, statement, **parameters):
    with sql.query(folder, statement, parameters) as result:
        return [row for batch in result.batches for row in batch]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT i FROM UNNEST(['a', 'b']) AS x WITH OFFSET AS i ORDER BY i", [(0,), (1,)]),
        ("SELECT x, offset FROM UNNEST([5, 6]) AS x WITH OFFSET ORDER BY 2 DESC", [(6, 1), (5, 0)]),
        (
            "SELECT a.key, a.value FROM images, UNNEST(attributes) AS a ORDER BY images.key LIMIT 1",
            [("camera", "a")],
        ),
        ("SELECT COUNTIF(label = 'even') / COUNT(*) FROM images", [(0.5,)]),
        (
            "SELECT * EXCEPT (embedding, attributes, uri, run_id, model_digest, preprocessing_digest) "
            "FROM images ORDER BY key LIMIT 1",
            [("lake/00000.jpg", "even", 32, 24)],
        ),
        ("SELECT x FROM UNNEST([2, NULL, 1]) AS x ORDER BY x", [(None,), (1,), (2,)]),
        ("SELECT x FROM UNNEST([2, NULL, 1]) AS x ORDER BY x DESC", [(2,), (1,), (None,)]),
        ("SELECT SAFE_DIVIDE(1, 0), 7 / 2, DIV(7, 2), MOD(7, 4)", [(None, 3.5, 3, 3)]),
        ("SELECT ARRAY_LENGTH(embedding) FROM images LIMIT 1", [(4,)]),
        (
            "SELECT STARTS_WITH(key, 'lake'), FORMAT_DATE('%Y-%m', DATE '2026-11-22') FROM images LIMIT 1",
            [(True, "2026-11")],
        ),
        ("SELECT DATE(TIMESTAMP '2026-11-22 23:30:00+00:00')", [(datetime.date(2026, 11, 22),)]),
        (
            "SELECT ROUND(COSINE_DISTANCE([1.0, 0.0], [0.0, 2.0]), 6), "
            "EUCLIDEAN_DISTANCE([0.0, 3.0], [4.0, 0.0])",
            [(1.0, 5.0)],
        ),
    ],
)
def test_duckdb_answers_as_bigquery_would(folder, statement, expected):
    assert ask(folder, statement) == expected


def test_parameters_of_every_kind(folder):

    moment = datetime.datetime(2026, 11, 22, 12, tzinfo=datetime.timezone.utc)
    values = {
        "a": "it's",
        "b": 3,
        "c": 0.5,
        "d": True,
        "e": b"\x00'",
        "f": ["x", "y"],
        "g": np.arange(4.0),
        "h": moment,
    }
    statement = "SELECT @a, @b, @c, @d, @e, @f, @g, @h = TIMESTAMP '2026-11-22 12:00:00+00:00'"
    ((*found, same),) = ask(folder, statement, **values, unused=1)
    assert found == ["it's", 3, 0.5, True, b"\x00'", ["x", "y"], [0.0, 1.0, 2.0, 3.0]]
    assert same
    with pytest.raises(UsageError, match=r"uses @b, which has no value \(has: a\)"):
        ask(folder, "SELECT @a, @b", a=1)
    with pytest.raises(UsageError, match="empty list"):
        ask(folder, "SELECT @a", a=[])


def test_nested_searches_and_further_columns(folder):
    rows = ask(
        folder,
        "SELECT s.query.key AS one, s.base.key AS other, s.distance FROM VECTOR_SEARCH("
        "(SELECT key, embedding FROM images WHERE label = 'odd'), 'embedding', "
        "(SELECT base.key, base.embedding FROM VECTOR_SEARCH(TABLE images, 'embedding', "
        "query_value => embedding_of('lake/00003.jpg'), top_k => @few, distance_type => 'COSINE')), "
        "top_k => 1, distance_type => 'COSINE') AS s ORDER BY one",
        few=2,
    )
    assert len(rows) == 2
    assert ("lake/00003.jpg", "lake/00003.jpg") in [row[:2] for row in rows]


def test_euclidean_is_the_default_as_on_bigquery(tmp_path):
    write_embeddings(str(tmp_path), [[1, 0], [10, 0.1]] @ np.eye(2), keys=["near", "alike"])
    search = (
        "SELECT base.key FROM VECTOR_SEARCH(TABLE images, 'embedding', query_value => [9.0, 0.0], "
        "top_k => 1{})"
    )
    assert ask(str(tmp_path), search.format("")) == [("alike",)]
    assert ask(str(tmp_path), search.format(", distance_type => 'COSINE'")) == [("near",)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("TABLE images, 'embedding', TABLE images, query_value => @q", "either a query table or query_value"),
        ("TABLE images, 'embedding'", "either a query table or query_value"),
        ("TABLE images, embedding, TABLE images", "column_to_search is a text"),
        ("TABLE images, 'embedding', TABLE images, distance_type => 'HAMMING'", "COSINE or EUCLIDEAN"),
        ("TABLE images, 'embedding', TABLE images, top_k => 1 + 1", "a whole number or a parameter"),
        ("TABLE images, 'embedding', TABLE images, lexical => 'x'", "lexical is not known here"),
        ("TABLE images, 'embe`dding', TABLE images", "can't be a column"),
    ],
)
def test_searches_that_can_not_be_had_on_parquet_say_so(arguments, message):
    with pytest.raises(UsageError) as caught:
        googlesql.to_duckdb(f"SELECT * FROM VECTOR_SEARCH({arguments})")
    assert message in str(caught.value)


def test_the_dialect_of_duckdb_is_still_there(folder):
    with sql.query(folder, "SELECT key::VARCHAR FROM images LIMIT $n", {"n": 1}, dialect="duckdb") as result:
        assert len(next(result.batches)) == 1
    with (
        pytest.raises(UsageError, match="one of googlesql, duckdb"),
        sql.query(folder, "SELECT 1", dialect="x"),
    ):
        pass


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
def test_a_text_keeps_its_characters(text):
    for quote in ("'", '"', "'''"):
        body = json.dumps(text)[1:-1].replace("\\/", "/").replace('\\"', '"')
        if "\\ud" in body.lower():
            body = "".join(f"\\U{ord(char):08x}" for char in text)
        # sqlglot ends a text in three quotes at an escaped quote before two others
        body = body.replace("'", "\\x27" if len(quote) == 3 else "\\'").replace('"', '\\"')
        said = duckdb.execute(
            googlesql.to_duckdb(f"SELECT {quote}{body}{quote} AS a, {literals.quoted(text)} AS b")
        )
        assert said.fetchall() == [(text, text)]


@given(st.binary())
def test_bytes_keep_theirs(data):
    body = "".join(f"\\x{byte:02X}" if byte % 2 else f"\\{byte:03o}" for byte in data)
    assert duckdb.execute(googlesql.to_duckdb(f"SELECT b'{body}'")).fetchall() == [(data,)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (r"'\x41\101\u00e9\U0001F600'", "AAé😀"),
        (r"r'\x41'", r"\x41"),
        (r"'\\x41'", r"\x41"),
        (r"'\?\`'", "?`"),
    ],
)
def test_escapes(text, said):
    assert duckdb.execute(googlesql.to_duckdb(f"SELECT {text}")).fetchall() == [(said,)]


@pytest.mark.parametrize("text", [r"'\q'", r"'\x4'", r"'\uD800'", r"'\9'"])
def test_escapes_that_there_are_not(text):
    with pytest.raises(UsageError, match="no escape in a text"):
        googlesql.to_duckdb(f"SELECT {text}")


def test_the_docs_show_the_ready_queries_by_their_names():
    names = {path.stem for path in (Path(__file__).parents[2] / "templates" / "sql").glob("*.sql")}
    assert names == set(ready.ready_queries())
