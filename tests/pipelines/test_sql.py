"""``beam-vision sql``, as it is called."""

import csv
import io
import json

import pytest

from beam_vision.pipelines.cli import main
from beam_vision.testing.tables import clustered, write_embeddings


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("sql") / "table")
    write_embeddings(folder, clustered(300, 16), labels=["cat", None, "狗"] * 100)
    return folder


def sql(capsys, folder, statement, *arguments):
    code = main(["sql", statement, "--table", folder, *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


SIMILAR = (
    "SELECT key, label, cosine_similarity(embedding, embedding_of('lake/00007.jpg')) AS score "
    "FROM images ORDER BY score DESC LIMIT 3"
)


def test_prints_a_table(capsys, folder):
    code, out, _ = sql(capsys, folder, SIMILAR)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["key", "label", "score"]
    assert lines[2].split() == ["lake/00007.jpg", "NULL", "1"]
    assert len(lines) == 5


def test_prints_json(capsys, folder):
    code, out, _ = sql(
        capsys,
        folder,
        "SELECT key, label, attributes, embedding, 'nan'::FLOAT AS lost FROM images ORDER BY key LIMIT 3",
        "--output_format",
        "json",
    )
    rows = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert [row["label"] for row in rows] == ["cat", None, "狗"]
    assert rows[1]["attributes"] == {"camera": "b"}
    assert rows[0]["embedding"] == pytest.approx(clustered(300, 16)[0].tolist())
    assert rows[0]["lost"] is None


def test_prints_csv(capsys, folder):
    code, out, _ = sql(
        capsys, folder, "SELECT key, label, attributes FROM images ORDER BY key", "--output_format", "csv"
    )
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0
    assert len(rows) == 300
    assert rows[1] == {"key": "lake/00001.jpg", "label": "", "attributes": '{"camera": "b"}'}


@pytest.mark.parametrize("output_format", ["json", "csv"])
def test_large_results_come_whole(capsys, folder, output_format):
    statement = "SELECT a.key AS one, b.key AS other FROM images a, images b LIMIT 12345"
    code, out, _ = sql(capsys, folder, statement, "--output_format", output_format)
    assert code == 0
    if output_format == "json":
        assert len(json.loads(out)) == 12345
    else:
        assert len(out.splitlines()) == 12346


def test_an_empty_result_is_an_empty_result(capsys, folder):
    empty = "SELECT key FROM images WHERE false"
    assert json.loads(sql(capsys, folder, empty, "--output_format", "json")[1]) == []
    assert sql(capsys, folder, empty, "--output_format", "csv")[1] == "key\n"
    assert sql(capsys, folder, empty)[1] == "key\n───\n"


def test_a_long_table_is_cut_and_says_so(capsys, folder):
    code, out, err = sql(capsys, folder, "SELECT key FROM images", "--max_rows", "5")
    assert code == 0
    assert len(out.splitlines()) == 7
    assert "only the first 5 rows are shown" in err
    _, out, err = sql(capsys, folder, "SELECT key FROM images LIMIT 5", "--max_rows", "5")
    assert len(out.splitlines()) == 7
    assert err == ""


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("SELECT lable FROM images", "columns: key, uri, label, embedding, width"),
        ("SELEC 1", "syntax error"),
        ("COPY images TO 'x.csv'", "one SELECT is what can be run here; this is COPY"),
    ],
)
def test_wrong_sql_ends_with_exit_code_2(capsys, folder, statement, message):
    code, out, err = sql(capsys, folder, statement)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_an_error_in_the_middle_of_a_result_ends_with_exit_code_2(capsys, folder):
    """The cast fails only at the last row, after others were printed."""
    statement = "SELECT (CASE WHEN i = 99999 THEN 'x' ELSE '1' END)::INT AS n FROM range(100000) AS t(i)"
    code, _, err = sql(capsys, folder, statement, "--output_format", "csv")
    assert code == 2
    assert "Could not convert string 'x'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max_rows", "0"], "at least 1"),
        (["--table", "nowhere"], "no table at nowhere"),
        (["more"], "unexpected"),
    ],
)
def test_wrong_arguments_end_with_exit_code_2(capsys, folder, arguments, message):
    code, _, err = sql(capsys, folder, "SELECT 1", *arguments)
    assert code == 2
    assert message in err
