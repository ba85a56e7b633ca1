"""`beam-vision vector-index` on the emulator, with vector indexes in front of it."""

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery

from beam_vision.pipelines import cli
from beam_vision.search import vector_index, vector_index_recall
from beam_vision.search.vector_index_use import REASONS
from beam_vision.testing.bigquery_emulator import Warehouse
from beam_vision.testing.bigquery_indexes import IndexServer
from beam_vision.warehouse import clients

ROWS, DIM = 60, 8
SCHEMA = [
    bigquery.SchemaField("key", "STRING"),
    bigquery.SchemaField("label", "STRING"),
    bigquery.SchemaField("written_at", "TIMESTAMP"),
    bigquery.SchemaField("embedding", "FLOAT64", mode="REPEATED"),
]


@pytest.fixture
def server(bigquery_server, monkeypatch):
    """Vector indexes in front of the emulator; tables this small may have one."""
    monkeypatch.setenv(clients.EMULATOR_GRPC, bigquery_server.grpc)
    monkeypatch.setattr(vector_index, "LEAST_ROWS", 50)
    monkeypatch.setattr(vector_index, "LEAST_TABLE_BYTES", 1000)
    with IndexServer(bigquery_server.rest) as indexes:
        monkeypatch.setenv(clients.EMULATOR_HOST, indexes.rest)
        yield indexes


@pytest.fixture
def lake(server):
    """A table of unit vectors, partitioned by day."""
    own = Warehouse()
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIM))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    fill(own, "lake", vectors)
    server.vectors = vectors
    yield own
    own.close()


def fill(own, table, vectors):
    made = bigquery.Table(own.name(table).path, schema=SCHEMA)
    made.time_partitioning = bigquery.TimePartitioning(field="written_at")
    own.client.create_table(made)
    time = pa.array([1_700_000_000_000_000] * len(vectors), pa.timestamp("us", "UTC"))
    keys = [f"k{i:03d}" for i in range(len(vectors))]
    rows = pa.table(
        {"key": keys, "label": ["cat"] * len(keys), "written_at": time, "embedding": list(vectors)}
    )
    file = io.BytesIO()
    pq.write_table(rows, file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET")
    config.parquet_options = bigquery.ParquetOptions()
    config.parquet_options.enable_list_inference = True
    own.client.load_table_from_file(file, own.name(table).path, job_config=config).result()


def vector_index_job(own, action, *options, table="lake"):
    return cli.main(["vector-index", action, "--table", own.uri(table), *options])


def ddl_of(server):
    return [sql for sql in server.statements if " VECTOR INDEX " in sql]


def test_advice_prints_the_statement_and_why_and_runs_nothing(lake, server, capsys):
    assert vector_index_job(lake, "advise", "--filters", "label") == 0
    printed = capsys.readouterr().out
    assert f"{ROWS} rows, vectors of {DIM} numbers" in printed
    assert "STORING (`key`, `label`)" in printed
    assert "the vectors have length 1" in printed
    assert server.statements == [f"SELECT COUNT(*) FROM {lake.name('lake').sql}"]
    assert (
        vector_index_job(
            lake, "advise", "--filters", "written_at", "--batch", "500", "--output_format", "json"
        )
        == 0
    )
    told = json.loads(capsys.readouterr().out)
    assert told["needs"]["table_bytes"] >= ROWS * DIM * 8
    assert told["advice"]["kind"] == "TREE_AH"
    assert "PARTITION BY TIMESTAMP_TRUNC(`written_at`, DAY)" in told["ddl"]


def test_vectors_of_other_lengths_are_noticed_in_the_table(lake, server, capsys):
    fill(lake, "long", server.vectors * np.linspace(1, 9, ROWS)[:, None])
    assert vector_index_job(lake, "advise", "--index_type", "tree_ah", table="long") == 0
    assert '"normalization_type": "L2"' in capsys.readouterr().out


def test_an_index_is_made_waited_for_shown_rebuilt_and_dropped(lake, server, capsys):
    server.coverage = [0, 0, 42, 100]
    assert vector_index_job(lake, "create", "--filters", "label") == 0
    printed = capsys.readouterr()
    assert "covers 0 %" in printed.err
    assert "covers 42 %" in printed.err
    assert "100 % of the table" in printed.out
    assert ddl_of(server) == [
        f"CREATE VECTOR INDEX `embedding_index`\nON `{lake.name('lake').path}`(`embedding`)\n"
        "STORING (`key`, `label`)\nOPTIONS (index_type = 'IVF', distance_type = 'COSINE')"
    ]
    assert vector_index_job(lake, "create") == 2
    assert "already" in capsys.readouterr().err
    assert vector_index_job(lake, "create", "--replace", "--num_lists", "9", "--wait_sec", "0") == 0
    assert "CREATE OR REPLACE VECTOR INDEX `embedding_index`" in ddl_of(server)[-1]
    assert '{"num_lists": 9}' in ddl_of(server)[-1]
    capsys.readouterr()
    assert vector_index_job(lake, "status") == 0
    shown = capsys.readouterr().out
    assert "IVF of embedding" in shown
    assert "0.10 of 1" in shown
    assert "not needed" in shown
    assert vector_index_job(lake, "rebuild") == 0
    assert ddl_of(server)[-1].endswith(f"`embedding_index` ON `{lake.name('lake').path}` REBUILD")
    assert vector_index_job(lake, "drop") == 0
    assert ddl_of(server)[-1].startswith("DROP VECTOR INDEX `embedding_index` ON")
    assert server.indexes == {}
    assert vector_index_job(lake, "status") == 2
    assert "vector-index create" in capsys.readouterr().err


def test_recall_is_that_of_the_rows_that_the_index_missed_and_is_kept(lake, server, capsys):
    assert vector_index_job(lake, "create") == 0
    capsys.readouterr()
    asked = ("--sample", "8", "--k", "5", "--output_format", "json")
    assert vector_index_job(lake, "status", *asked) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["measured"]["queries"] == 8
    assert told["measured"]["recall"] == 1
    assert told["measured"]["use"]["mode"] == "FULLY_USED"
    assert told["rebuild"] == ""
    server.missed = "MOD(ABS(FARM_FINGERPRINT(key)), 3) = 0"
    assert vector_index_job(lake, "status", *asked) == 0
    told = json.loads(capsys.readouterr().out)
    expected = true_recall(lake, server, 8, 5)
    assert expected < 0.95
    assert told["measured"]["recall"] == pytest.approx(expected)
    assert [row["recall"] for row in told["history"]] == [pytest.approx(expected), 1.0]
    assert "recall was 1.000" in told["rebuild"]
    (last, _) = lake.rows(f"SELECT * FROM {lake.name('lake_index_history').sql} ORDER BY measured_at DESC")
    assert (last["recall"], last["k"]) == (pytest.approx(expected), 5)
    assert (last["table_rows"], last["drift"]) == (ROWS, 0.1)


def true_recall(lake, server, sample, k):
    """The same in NumPy: of each sampled image's k nearest, the share whose key the index doesn't miss."""
    rows = lake.rows(
        f"SELECT key, {server.missed} AS missed FROM {lake.name('lake').sql} "
        f"ORDER BY FARM_FINGERPRINT(key), key LIMIT {ROWS}"
    )
    missed = {row["key"] for row in rows if row["missed"]}
    shares = []
    for row in rows[:sample]:
        number = int(row["key"][1:])
        order = [i for i in np.argsort(-(server.vectors @ server.vectors[number])) if i != number][:k]
        shares.append(np.mean([f"k{i:03d}" not in missed for i in order]))
    return np.mean(shares)


def test_an_index_that_goes_unused_is_said_with_its_reason(lake, server, capsys):
    assert vector_index_job(lake, "create") == 0
    server.unused = {"code": "BASE_TABLE_TOO_SMALL", "message": "Base table is too small."}
    name = lake.name("lake")
    job = lake.client.query(
        vector_index_recall.sample_sql(name, column="embedding", k=3, sample=2, brute_force=False)
    )
    job.result()
    capsys.readouterr()
    assert vector_index_job(lake, "status", "--sample", "2", "--job", job.job_id) == 0
    printed = capsys.readouterr().out
    assert printed.count(REASONS["BASE_TABLE_TOO_SMALL"]) == 2
    assert "Base table is too small." in printed
    assert f"job {job.job_id}" in printed
    assert vector_index_job(lake, "status", "--job", "no-such-job") == 2
    assert "no-such-job" in capsys.readouterr().err


def test_drift_says_when_to_rebuild(lake, server, capsys):
    assert vector_index_job(lake, "create") == 0
    server.drift = 0.4
    assert vector_index_job(lake, "status") == 0
    assert "drifted by 0.40" in capsys.readouterr().out
    server.drift = None
    assert vector_index_job(lake, "status") == 0
    assert "not known" in capsys.readouterr().out


def test_an_index_that_is_disabled_or_late_ends_the_wait_with_1(lake, server, capsys):
    server.coverage = [0]
    assert vector_index_job(lake, "create", "--wait_sec", "0.5") == 1
    assert "covers 0 %" in capsys.readouterr().err
    assert vector_index_job(lake, "status", "--sample", "2") == 2
    assert "not usable yet" in capsys.readouterr().err
    server.status, server.disable_reason = "TEMPORARILY DISABLED", "the table is under 10 MB"
    assert vector_index_job(lake, "create", "--replace") == 1
    assert "the table is under 10 MB" in capsys.readouterr().err


def test_what_cannot_be_indexed_is_refused_before_anything_is_made(lake, server, capsys):
    lake.client.query(
        f"CREATE VIEW {lake.name('seen').sql} AS SELECT * FROM {lake.name('lake').sql}"
    ).result()
    fill(lake, "mixed", [np.ones(2), np.ones(3)])
    server.statements.clear()
    for options, said in (
        (("--table", lake.uri("nowhere")), "no table"),
        (("--table", lake.uri("seen")), "is a view"),
        (("--table", lake.uri("mixed")), "vectors of 2 and 3 numbers"),
        (("--column", "label"), "no column 'label' of type ARRAY<FLOAT64>; it has embedding"),
        (("--filters", "camera"), "no column 'camera'"),
        (("--storing", "uri"), "no column 'uri'"),
        (("--filters", "a b"), "can't be a column"),
        (("--index_name", "a`b"), "can't be a column"),
        (("--batch", "0"), "--batch is at least 1"),
        (("--table", "lake"), "not a table of BigQuery"),
    ):
        assert vector_index_job(lake, "create", *options) == 2
        assert said in capsys.readouterr().err
    assert server.statements == []


def test_a_small_table_gets_no_index_and_hears_why(lake, server, monkeypatch, capsys):
    monkeypatch.setattr(vector_index, "LEAST_TABLE_BYTES", 10_000_000)
    assert vector_index_job(lake, "advise") == 0
    assert "under 10 MB" in capsys.readouterr().out
    assert vector_index_job(lake, "create", "--index_type", "ivf") == 2
    assert "under 10 MB" in capsys.readouterr().err
    assert ddl_of(server) == []


def test_the_emulator_alone_has_no_indexes(lake, bigquery_server, monkeypatch, capsys):
    monkeypatch.setenv(clients.EMULATOR_HOST, bigquery_server.rest)
    assert vector_index_job(lake, "status") == 2
    assert "has no vector index" in capsys.readouterr().err
    assert vector_index_job(lake, "create") == 2
