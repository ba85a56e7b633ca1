"""Hostile keys, labels, attributes and parameters: right rows or a clear error, on Parquet and BigQuery."""

import numpy as np
import pytest

from beam_vision.errors import UsageError
from beam_vision.pipelines import cli
from beam_vision.search import literals, ready, sql
from beam_vision.testing.tables import write_embeddings
from beam_vision.testing.warehouse_tables import copy_table

CORPUS = [
    "plain",
    "it's",
    "''",
    '"',
    '"; DROP TABLE images; --',
    "'; DROP TABLE images; --",
    "' OR '1'='1",
    "' OR 1=1 --",
    "') UNION SELECT uri, uri FROM failures --",
    "/* */ comment */ --",
    "-- x\nSELECT 1",
    "# hash",
    "`",
    "`images`",
    "``; DELETE FROM images WHERE true",
    "\\",
    "\\'",
    "\\\\' OR true --",
    "\\u0027 OR true --",
    "\\x27",
    "@key",
    "@@session",
    "$key",
    "{key}",
    "%s",
    "?",
    "a\tb\r\nc",
    "名前の'猫'",
    "ﬀ\u202eevil",
    "e\u0301",
    "\u00e9",
    "'''",
    '"""',
    "r'raw'",
    "(SELECT key FROM images LIMIT 1)",
    "]",
    "[0]",
    "['camera']",
    ") AS x",
    "EXECUTE IMMEDIATE 'DROP TABLE images'",
    "x" * 2000,
]
VECTORS = np.random.default_rng(5).standard_normal((len(CORPUS), 4)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each hostile text as a key, as a label, and as an attribute's name and value."""
    folder = str(tmp_path_factory.mktemp("hostile") / "table")
    write_embeddings(
        folder, VECTORS, keys=CORPUS, labels=CORPUS, attributes=[{text: text} for text in CORPUS]
    )
    return folder


@pytest.fixture(params=["parquet", "bigquery"])
def place(request, folder):
    if request.param == "parquet":
        return folder
    return copy_table(folder, request.getfixturevalue("warehouse"), "hostile")


def some(place):
    """The corpus; of it a third where the emulator takes a second for ten of them."""
    return CORPUS[::3] if place.startswith("bigquery://") else CORPUS


def ask(place, statement, parameters=None, **further):
    with sql.query(place, statement, parameters, **further) as result:
        return [row for batch in result.batches for row in batch]


def one_row_each(said):
    """A SELECT that finds the row of each of these expressions, and says its number."""
    return " UNION ALL ".join(
        f"SELECT {number} AS number, key FROM images WHERE key = {text} AND label = {text} "
        f"AND attributes[{text}] = {text} AND cosine_similarity(embedding, embedding_of({text})) > 0.9999"
        for number, text in enumerate(said)
    )


def test_as_parameters_they_find_their_own_row_alone(place):
    values = {f"text{number}": text for number, text in enumerate(some(place))}
    rows = ask(place, one_row_each([f"@{name}" for name in values]), values)
    assert sorted(rows) == list(enumerate(some(place)))
    found = ask(place, "SELECT key FROM images WHERE key IN UNNEST(@texts)", {"texts": CORPUS[1:]})
    assert sorted(row[0] for row in found) == sorted(CORPUS[1:])


def test_as_literals_they_are_what_they_say(place):
    said = [literals.quoted(text).replace("\n", "\\n").replace("\r", "\\r") for text in some(place)]
    assert sorted(ask(place, one_row_each(said))) == list(enumerate(some(place)))


def test_ready_queries_take_them(place):
    query = ready.ready_query("nearest_to_key")
    for text in some(place)[5::13]:
        rows = ask(place, query.sql, query.values({"key": text, "k": "99"}))
        assert sorted(row[0] for row in rows) == sorted({*CORPUS} - {text})
    query = ready.ready_query("like_and_unlike")
    values = query.values({"like": CORPUS[:4], "unlike": CORPUS[4:], "k": "9"})
    assert ask(place, query.sql, values) == []  # all are named


@pytest.mark.parametrize("place", ["parquet"], indirect=True)
def test_through_the_command_line(place, capsys):
    for text in CORPUS[2::5]:
        statement = "SELECT COUNT(*) AS n FROM images WHERE key = @text"
        code = cli.main(
            ["sql", statement, "--table", place, "--param", f"text={text}", "--output_format", "csv"]
        )
        assert (code, capsys.readouterr().out.splitlines()) == (0, ["n", "1"]), text


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1; DROP TABLE images",
        "SELECT 1 FROM images; SELECT 2",
        "DROP TABLE images",
        "DELETE FROM images WHERE true",
        "INSERT INTO images (key) VALUES ('x')",
        "UPDATE images SET key = 'x' WHERE true",
        "MERGE INTO images USING images AS b ON FALSE WHEN NOT MATCHED THEN INSERT ROW",
        "TRUNCATE TABLE images",
        "CREATE TABLE x AS SELECT 1",
        "CREATE OR REPLACE VIEW images AS SELECT 1",
        "EXPORT DATA OPTIONS(uri='gs://x/*') AS SELECT * FROM images",
        "LOAD DATA INTO x FROM FILES(uris=['gs://x'])",
        "BEGIN SELECT 1; END",
        "DECLARE x INT64 DEFAULT 1; SELECT x",
        "SET x = 1",
        "EXECUTE IMMEDIATE 'DROP TABLE images'",
        "CALL images.x()",
        "GRANT `roles/x` ON TABLE images TO 'user:x'",
        "ASSERT true",
        "WITH x AS (SELECT 1) DELETE FROM images WHERE true",
        "/* SELECT 1 */ DROP TABLE images",
        "SELECT 'unclosed",
        "SELECT (1",
        "",
        ";",
        "-- nothing",
    ],
)
def test_only_one_select_reaches_either(place, statement):
    with pytest.raises(UsageError, match="one SELECT"):
        ask(place, statement)


@pytest.mark.parametrize("name", ["images", "Failures", "counts", "a b", "x;y", "`x`", "x_parts", "1x", ""])
def test_names_of_joined_tables_are_checked(place, name):
    with pytest.raises(UsageError):
        ask(place, "SELECT 1", joins={name: place})


@pytest.mark.parametrize("table", ["p.d.t` WHERE true --", "proj-a.d.t;x", "proj-a.d`.t", "proj-a.d.t.x", ""])
def test_names_of_tables_are_checked(table):
    with pytest.raises(UsageError, match="not a table of BigQuery"):
        ask(f"bigquery://{table}", "SELECT 1")


@pytest.mark.parametrize("param", ["", "=x", "a b=x", "a;b=x", "@a=x", "a:STRUCT=x", "novalue"])
def test_names_of_parameters_are_checked(folder, capsys, param):
    assert cli.main(["sql", "SELECT 1", "--table", folder, "--param", param]) == 2
    assert "write NAME=VALUE" in capsys.readouterr().err
