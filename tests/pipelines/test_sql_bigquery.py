"""``beam-vision sql`` over BigQuery's emulator: the same commands and the same text as over a folder."""

import datetime
import json

import numpy as np
import pyarrow as pa
import pytest

from beam_vision.inference.bundle import read_bundle
from beam_vision.pipelines import cli
from beam_vision.search import sql, stream_views
from beam_vision.testing import images, models
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.testing.warehouse_tables import copy_table, load_rows
from beam_vision.warehouse import forms, once
from beam_vision.warehouse.tables import ensure

ROWS, DIMENSION = 30, 4
VECTORS = clustered(ROWS, DIMENSION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("sql-bigquery") / "table")
    write_embeddings(folder, VECTORS, labels=["cat", None, "狗"] * 10)
    return folder


@pytest.fixture
def places(folder, warehouse):
    return [folder, copy_table(folder, warehouse, "lake")]


def run(capsys, *arguments):
    code = cli.main(["sql", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_same_command_prints_the_same(capsys, places, tmp_path):
    np.save(tmp_path / "q.npy", VECTORS[3])
    commands = [
        ["--query", "nearest_to_key", "--param", "key=lake/00003.jpg", "--param", "k=3"],
        ["--query", "nearest_to_vector", "--vector", str(tmp_path / "q.npy")],
        [
            "SELECT label, COUNT(*) AS n FROM images WHERE key < @key GROUP BY label ORDER BY label",
            "--param",
            "key=m",
        ],
        ["SELECT key, attributes FROM images ORDER BY key LIMIT @n", "--param", "n:INT64=2"],
        ["SELECT key FROM images WHERE false"],
    ]
    for command in commands:
        answers = [run(capsys, *command, "--table", place, "--output_format", "csv") for place in places]
        (code, out, err), (other_code, other_out, other_err) = answers
        assert (code, other_code, out) == (0, 0, other_out)
        assert err == ""
        assert other_err.startswith("BigQuery: ")


def test_the_cost_alone(capsys, places, warehouse):
    code, out, _ = run(capsys, "SELECT COUNT(*) FROM images", "--table", places[1], "--cost_only")
    assert code == 0
    assert "USD" in out
    code, _, err = run(capsys, "SELECT nothing FROM images", "--table", places[1], "--cost_only")
    assert code == 2
    assert "nothing" in err


def test_what_is_dearer_than_allowed_is_not_run(places, monkeypatch):
    """The emulator says that every query is free, so the price is ours here; what is refused isn't run."""
    from beam_vision.errors import UsageError
    from beam_vision.warehouse import cost

    monkeypatch.setattr(cost, "dry_run", lambda *_: cost.Cost(bytes_processed=11 * cost.MIB))
    told = []
    with pytest.raises(UsageError, match=r"not run: it reads 11\.0 MiB"):
        with sql.query(places[1], "SELECT 1", max_bytes_billed=10 * cost.MIB, tell=told.append):
            pass
    assert "11.0 MiB" in told[0]
    with sql.query(places[1], "SELECT 1 AS one", max_bytes_billed=11 * cost.MIB) as result:
        assert list(result.batches) == [[(1,)]]


def test_joined_tables_and_relations(capsys, places, warehouse):
    for place in places:
        statement = (
            "SELECT COUNT(*) AS n FROM images JOIN other ON other.key = images.key WHERE other.label = 'cat'"
        )
        code, out, _ = run(
            capsys, statement, "--table", place, "--join", f"other={place}", "--output_format", "csv"
        )
        assert (code, out.split()) == (0, ["n", "10"])
        queries = pa.table(
            {"number": [7, 8], "embedding": pa.array(VECTORS[:2].tolist(), pa.list_(pa.float32()))}
        )
        statement = (
            "SELECT query.number, base.key FROM VECTOR_SEARCH(TABLE images, 'embedding', TABLE queries, "
            "top_k => 1, distance_type => 'COSINE') ORDER BY number"
        )
        with sql.query(place, statement, relations={"queries": queries}) as result:
            rows = [row for batch in result.batches for row in batch]
        assert rows == [(7, "lake/00000.jpg"), (8, "lake/00001.jpg")]
    assert warehouse.tables() == ["lake"]  # the queries' table is gone
    code, _, err = run(capsys, "SELECT 1", "--table", places[1], "--join", f"other={places[0]}")
    assert code == 2
    assert "can be joined with others there alone" in err


def stream_rows(table, **columns):
    """Rows of a stream's table; what isn't given is null."""
    kinds = forms.stream_schema(table, task="embed", embedding_dim=2)
    count = len(next(iter(columns.values())))
    arrays = [pa.array(columns.get(field.name, [None] * count), field.type) for field in kinds]
    return pa.table(arrays, names=kinds.names)


def test_of_a_stream_each_row_counts_once_and_each_window_by_its_last_word(warehouse):
    name = warehouse.name("seen")
    start = datetime.datetime(2026, 11, 22, tzinfo=datetime.timezone.utc)
    later = start + datetime.timedelta(hours=1)
    tables = {
        "predictions": stream_rows(
            "predictions",
            **{"row_id": ["a", "a", "b"], "key": ["ka", "ka", "kb"], "uri": ["u"] * 3},
            **{"embedding": [[1, 0], [1, 0], [0, 1]], "capture_time": [start] * 3},
            **{"written_at": [start, later, start], "model_digest": ["m"] * 3},
        ),
        "counts": stream_rows(
            "counts",
            **{"row_id": ["x", "x2", "x2"], "camera": ["c"] * 3, "window_start": [start] * 3},
            **{"class": ["car"] * 3, "count": [1, 2, 2], "pane": [0, 1, 1], "written_at": [start] * 3},
        ),
    }
    for table, rows in tables.items():
        own = name if table == "predictions" else name.sibling(table)
        ensure(warehouse.client, own, forms.stream_form(table, task="embed", embedding_dim=2))
        load_rows(warehouse, own, rows)
    once.ensure_once(warehouse.client, name, "capture_time")
    told = []
    search = (
        "SELECT base.key FROM VECTOR_SEARCH(TABLE images, 'embedding', query_value => @v, top_k => 5, "
        "distance_type => 'COSINE') ORDER BY distance"
    )
    with sql.query(name.uri, search, {"v": [1.0, 0.1]}, tell=told.append) as result:
        assert list(result.batches) == [[("ka",), ("kb",)]]
    assert "every row is compared instead" in told[1]
    with sql.query(name.uri, "SELECT (SELECT COUNT(*) FROM images), SUM(count) FROM counts") as result:
        assert list(result.batches) == [[(2, 2)]]
    assert set(stream_views.FURTHER) < set(sql.RESERVED)


def test_an_image_is_embedded_by_the_model_that_made_the_table(capsys, tmp_path, warehouse):
    models.save_saved_model(str(tmp_path / "model"))
    bundle = read_bundle(str(tmp_path / "model"), {"task": "embed"})
    (tmp_path / "a.png").write_bytes(images.encode(images.photo(3, 40, 32), "png"))
    vectors = clustered(5, bundle.embedding_dim or 8)
    digests = {"model_digest": bundle.model_digest, "preprocessing_digest": bundle.preprocessing_digest}
    write_embeddings(str(tmp_path / "own"), vectors, **digests)
    write_embeddings(str(tmp_path / "strange"), vectors)
    asked = [
        "--query",
        "nearest_to_vector",
        "--image",
        str(tmp_path / "a.png"),
        "--model",
        str(tmp_path / "model"),
    ]
    for make in (str, lambda place: copy_table(place, warehouse, place.rpartition("/")[2])):
        code, out, err = run(
            capsys, *asked, "--table", make(str(tmp_path / "own")), "--output_format", "json"
        )
        assert code == 0, err
        assert len(json.loads(out)) == 5
        code, _, err = run(capsys, *asked, "--table", make(str(tmp_path / "strange")))
        assert code == 2
        assert "model-a" in err
        assert bundle.model_digest in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["SELECT 1", "--table", "bigquery://x.y"], "not a table of BigQuery"),
        (["SELECT 1"], "--table DEST is needed"),
        (["--table", "FOLDER"], "either a SELECT or --query"),
        (["SELECT 1", "--query", "nearest_to_key", "--table", "FOLDER"], "either a SELECT or --query"),
        (["--query", "nearest_to_key", "--table", "FOLDER"], "needs @key"),
        (
            ["--query", "similar_predictions", "--param", "key=x", "--table", "FOLDER"],
            "--join predictions=DEST",
        ),
        (["--query", "drift_by_day", "--vector", "x.npy", "--table", "FOLDER"], "has no @vector"),
        (["SELECT 1", "--param", "a=1", "--param", "a=2", "--table", "FOLDER"], "given twice"),
        (["SELECT 1", "--image", "x.jpg", "--table", "FOLDER"], "--image FILE and --model DIR"),
        (["SELECT 1", "--cost_only", "--table", "FOLDER"], "costs nothing"),
        (["SELECT 1", "--vector", "nowhere.npy", "--table", "FOLDER"], "no such file"),
    ],
)
def test_options_that_do_not_go_together(capsys, folder, arguments, message):
    code, out, err = run(capsys, *[folder if word == "FOLDER" else word for word in arguments])
    assert (code, out) == (2, "")
    assert message in err


def test_a_key_may_be_given_as_a_local_path(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    write_embeddings("table", VECTORS[:2], keys=keys)
    asked = ["--query", "nearest_to_key", "--table", "table", "--output_format", "csv", "--param"]
    code, out, _ = run(capsys, *asked, "key=a.jpg")
    assert (code, out.splitlines()[1].split(",")[0]) == (0, keys[1])
    code, _, err = run(capsys, *asked, "key=c.jpg")
    assert code == 2
    assert "no image of the key 'c.jpg'" in err


def test_there_is_no_such_table(capsys, warehouse):
    code, _, err = run(capsys, "SELECT 1", "--table", warehouse.uri("nowhere"))
    assert code == 2
    assert "there is no such table" in err


def test_dialects(capsys, folder, places):
    code, _, err = run(capsys, "SELECT 1", "--dialect", "duckdb", "--table", places[1])
    assert code == 2
    assert "GoogleSQL alone" in err
    assert run(capsys, "FROM images LIMIT 1", "--dialect", "duckdb", "--table", folder)[0] == 0


def test_the_ready_queries_are_listed(capsys):
    code, out, _ = run(capsys, "--list_queries")
    assert code == 0
    assert "nearest_to_key\n  The images most like" in out
    assert "--param k: INT64 = 10: how many to find" in out
    assert "@fetch" not in out
