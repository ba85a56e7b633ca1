"""Another model's embeddings beside a table's own, compared and switched to; on the emulator."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.pipelines import cli
from beam_vision.sinks.rows import RowSettings
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table
from beam_vision.warehouse import forms, migrate, migrate_overlap, migrate_view, tables

ROWS, K = 40, 5
FEW = ("--sample", "4", "--k", "3")
KEYS = [f"lake/it's {number}.jpg" for number in range(ROWS)]
OLD = clustered(ROWS, 8, clusters=4)
NEW = clustered(ROWS, 6, clusters=4, seed=1)


@pytest.fixture
def put(warehouse, tmp_path):
    """Makes a table of embeddings in BigQuery."""

    def make(name, vectors, *, model, keys=KEYS):
        folder = str(tmp_path / name)
        write_embeddings(folder, vectors, keys=keys, model_digest=model)
        settings = RowSettings(
            task="embed",
            embedding_dim=vectors.shape[1],
            model_digest=model,
            preprocessing_digest="prep-a",
        )
        return copy_table(folder, warehouse, name, facts=tables.batch_form(settings).facts)

    return make


@pytest.fixture
def pair(put):
    """A table of model a, and one of model b that lacks its last image and has one more."""
    return put("rows", OLD, model="model-a"), put(
        "rows_b", NEW, model="model-b", keys=[*KEYS[:-1], "lake/more.jpg"]
    )


def run(capsys, *argv):
    code = cli.main(["migrate-embeddings", *argv])
    said = capsys.readouterr()
    return code, said.out, said.err


def expected_overlap(k=K, rows=ROWS - 1):
    """By NumPy, over the images that both have; every image a query."""
    sets = []
    for vectors in (OLD[:rows], NEW[:rows]):
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -9)
        sets.append([set(row) for row in np.argsort(-similar, axis=1)[:, :k]])
    return [len(a & b) / k for a, b in zip(*sets, strict=True)]


def test_from_report_to_switch_and_back(warehouse, pair, capsys):
    table, other = pair
    again = ["--table", table, "--from", other, "--k", str(K), "--sample", "100", "--output_format", "json"]
    code, out, _ = run(capsys, *again)
    assert code == 0
    report = json.loads(out)
    assert report["changed"] == ROWS - 1
    assert report["coverage"] == {
        "rows": ROWS,
        "covered": ROWS - 1,
        "example": KEYS[-1],
        "share": (ROWS - 1) / ROWS,
    }
    shares = expected_overlap()
    assert report["overlap"]["queries"] == ROWS - 1
    assert report["overlap"]["mean"] == pytest.approx(np.mean(shares))
    assert report["overlap"]["worst"] == pytest.approx(min(shares))
    assert 0 < report["overlap"]["mean"] < 1
    assert "rows_current" not in warehouse.tables()

    code, out, err = run(capsys, *again, "--switch")
    assert code == 1
    assert json.loads(out)["changed"] == 0  # nothing is written twice
    assert f"not switched: 1 of {ROWS} images (such as {KEYS[-1]})" in err
    assert "rows_current" not in warehouse.tables()

    code, out, _ = run(capsys, *again, "--switch", "--min_coverage", "0.9")
    assert code == 0
    column = json.loads(out)["column"]
    rows = warehouse.rows(f"SELECT * FROM {warehouse.name('rows_current').sql}")
    assert {row["key"] for row in rows} == set(KEYS[:-1])
    for row in rows:
        assert row["embedding"] == pytest.approx(NEW[KEYS.index(row["key"])].tolist())
        assert (row["model_digest"], row["preprocessing_digest"]) == ("model-b", "prep-a")
        assert column not in row
        assert "row_digest" not in row
    facts = tables.look(warehouse.client, warehouse.name("rows_current")).facts
    assert (facts["model_digest"], facts["embedding_dim"], facts["column"]) == ("model-b", 6, column)
    assert facts["table"] == warehouse.name("rows").path

    code, out, _ = run(capsys, "--table", table, "--back")
    assert code == 0
    assert "rows_current gives embedding" in out
    rows = warehouse.rows(f"SELECT * FROM {warehouse.name('rows_current').sql} ORDER BY key")
    assert len(rows) == ROWS
    assert {row["model_digest"] for row in rows} == {"model-a"}
    assert rows[0]["embedding"] == pytest.approx(OLD[KEYS.index(rows[0]["key"])].tolist())


def test_the_table_itself_stays_what_it_was_to_its_own_job(warehouse, pair, capsys):
    table, other = pair
    assert run(capsys, "--table", table, "--from", other, *FEW)[0] == 0
    name = warehouse.name("rows")
    settings = RowSettings(
        task="embed", embedding_dim=8, model_digest="model-a", preprocessing_digest="prep-a"
    )
    form = tables.batch_form(settings)
    found = tables.check(warehouse.client, name, form, add_columns=True)
    assert {**form.facts, **found.facts} == found.facts
    (own, new) = migrate.spaces_of(warehouse.client, name)
    assert (own.column, own.model_digest) == ("embedding", "model-a")
    assert (new.model_digest, new.embedding_dim) == ("model-b", 6)
    embedding = {each.name: each for each in found.schema}[new.column]
    assert (embedding.field_type, embedding.mode) == ("FLOAT", "REPEATED")
    assert "model-b" in embedding.description
    rows = warehouse.rows(f"SELECT key, embedding FROM {name.sql}")
    assert len(rows) == ROWS
    for row in rows:
        assert row["embedding"] == pytest.approx(OLD[KEYS.index(row["key"])].tolist())


def test_a_third_model_gets_a_column_of_its_own(warehouse, pair, put, capsys):
    table, other = pair
    third = put("rows_c", OLD[:, ::-1].copy(), model="model-c")
    assert run(capsys, "--table", table, "--from", other, *FEW)[0] == 0
    code, out, _ = run(capsys, "--table", table, "--from", third, "--switch", *FEW, "--output_format", "json")
    assert code == 0
    assert json.loads(out)["overlap"]["mean"] == 1.0  # the same cosines
    spaces = migrate.spaces_of(warehouse.client, warehouse.name("rows"))
    assert {each.model_digest for each in spaces} == {"model-a", "model-b", "model-c"}
    names = warehouse.rows(f"SELECT * FROM {warehouse.name('rows_current').sql} LIMIT 1")[0].keys()
    assert [name for name in names if name.startswith("embedding")] == ["embedding"]


def test_a_preflight_changes_nothing(warehouse, pair, capsys):
    table, other = pair
    code, out, _ = run(capsys, "--table", table, "--from", other, "--switch", "--preflight_only")
    assert code == 0
    plan = json.loads(out)
    assert plan["old"]["model_digest"] == "model-a"
    assert plan["new"]["column"].startswith("embedding_")
    assert plan["view"].endswith("rows_current")
    assert warehouse.tables() == ["rows", "rows_b"]
    assert len(migrate.spaces_of(warehouse.client, warehouse.name("rows"))) == 1


def test_an_overlap_that_is_too_small_holds_the_switch(warehouse, pair, capsys):
    table, other = pair
    limits = [*FEW, "--min_coverage", "0.5", "--min_overlap", "1"]
    code, out, err = run(capsys, "--table", table, "--from", other, "--switch", *limits)
    assert code == 1
    assert "nearest are the same" in out
    assert "--min_overlap is 1" in err
    assert "rows_current" not in warehouse.tables()


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--from", "{other}", "--back"], "either --from TABLE, of the other model, or --back"),
        ([], "either --from TABLE"),
        (["--switch", "--back"], "--switch goes to the other model"),
        (["--from", "{table}"], "are both of model model-a"),
        (["--from", "{table}_none"], "there is no such table"),
        (["--from", "folder/"], "is not a table of BigQuery"),
        (["--from", "{other}", "--k", "0"], "--k is 1 to 10,000"),
        (["--from", "{other}", "--min_coverage", "2"], "--min_coverage is a share"),
        (["--from", "{other}_view"], "is a view; name the table that it reads"),
        (["--from", "{other}_plain"], "is not a table of embeddings with a row an image"),
        (["--from", "{other}_bad"], 'has the model digest "a\' OR 1", which is none'),
    ],
)
def test_what_cant_be_done_is_refused_with_the_reason(warehouse, pair, capsys, argv, what):
    table, other = pair
    name = warehouse.name("rows_b")
    warehouse.client.query(f"CREATE VIEW {name.sibling('view').sql} AS SELECT key FROM {name.sql}").result()
    warehouse.client.query(f"CREATE TABLE {name.sibling('plain').sql} AS SELECT 'a' AS key").result()
    warehouse.client.query(f"CREATE TABLE {name.sibling('bad').sql} AS SELECT 'a' AS key").result()
    bad = warehouse.client.get_table(name.sibling("bad").path)
    own = forms.facts_in(warehouse.client.get_table(name.path).description)
    bad.description = forms.described("", {**own, "model_digest": "a' OR 1"})
    warehouse.client.update_table(bad, ["description"])
    given = [each.format(table=table, other=other) for each in argv]
    code, _, err = run(capsys, "--table", table, *given)
    assert code == 2
    assert what in err


def test_a_table_that_stands_where_the_view_would_is_kept(warehouse, pair, capsys):
    table, _ = pair
    warehouse.client.query(f"CREATE TABLE {warehouse.name('rows_current').sql} AS SELECT 'a' AS key").result()
    code, _, err = run(capsys, "--table", table, "--back")
    assert code == 2
    assert "is a table, not a view of ours" in err
    assert warehouse.count("rows_current") == 1


def test_overlap_of_pairs():
    old = [("q", "a"), ("q", "b"), ("r", "a"), ("r", "c")]
    new = [("q", "b"), ("q", "a"), ("r", "d"), ("r", "e")]
    found = migrate_overlap.overlap_of(old, new, k=2)
    assert found == migrate_overlap.Overlap(queries=2, k=2, mean=0.5, worst=0.0, worst_key="r")
    assert migrate_overlap.overlap_of([], new, k=2) is None


@given(st.text())
def test_a_literal_is_one_text_in_googlesql(text):
    from beam_vision.search.literals import decoded

    if "\0" in text or any(0xD800 <= ord(char) <= 0xDFFF for char in text):
        return
    made = migrate_view.literal(text)
    assert made.isascii()
    assert made[0] == made[-1] == '"'
    assert decoded(made[1:-1]) == text
