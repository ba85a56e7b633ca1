"""Indexes of tables in BigQuery: the same bundle as from Parquet, brought up to date, and joined again."""

import datetime
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.cloud import bigquery

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.pipelines import build_index
from beam_vision.search.bundle import open_bundle, read_manifest
from beam_vision.search.index import build, open_index, open_table, update
from beam_vision.search.joined import joined
from beam_vision.testing.tables import clustered, write_embeddings
from beam_vision.warehouse import schema

DAY = datetime.timedelta(days=1)
FIRST = datetime.datetime(2026, 5, 1, 12, tzinfo=datetime.timezone.utc)
ROWS, DIMENSION = 300, 8


def load(warehouse, table, rows, written_at):
    """Puts rows into a table, as the sink stores them."""
    stored = schema.to_warehouse(schema.stamped(rows, written_at))
    file = io.BytesIO()
    pq.write_table(stored, file)
    file.seek(0)
    options = bigquery.ParquetOptions()
    options.enable_list_inference = True
    config = bigquery.LoadJobConfig(
        source_format="PARQUET",
        parquet_options=options,
        schema=schema.fields(schema.batch_schema(rows.schema)),
    )
    warehouse.client.load_table_from_file(file, warehouse.name(table).path, job_config=config).result()


def rows_of(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))])


def sql(warehouse, text, **parameters):
    made = [bigquery.ScalarQueryParameter(name, "STRING", value) for name, value in parameters.items()]
    config = bigquery.QueryJobConfig(query_parameters=made)
    warehouse.client.query(text, job_config=config).result()


@pytest.fixture
def lake(warehouse, tmp_path):
    """The same embeddings as Parquet in ``t`` and, in two halves and backwards, in BigQuery."""
    write_embeddings(str(tmp_path / "t"), clustered(ROWS, DIMENSION), parts=2)
    rows = rows_of(tmp_path / "t").take(pa.array(np.arange(ROWS)[::-1]))
    load(warehouse, "lake", rows.slice(0, 100), FIRST)
    load(warehouse, "lake", rows.slice(100), FIRST + DAY)
    return warehouse.uri("lake")


def facts(folder):
    """What of an index doesn't depend on where its table is and when it was built."""
    opened = open_bundle(str(folder))
    manifest = opened.manifest.to_json()
    for name in ("table", "table_run_id", "read_to", "data", "query_ms_median", "query_ms_p95"):
        del manifest[name]
    return manifest, opened.index.store.keys, opened.index.store.vectors.tobytes(), opened.rows


@pytest.mark.parametrize("backend", ["exact", "scann_ah"])
def test_the_same_bundle_as_from_parquet(lake, tmp_path, backend):
    built = build(lake, str(tmp_path / "a"), backend=backend)
    build(str(tmp_path / "t"), str(tmp_path / "b"), backend=backend)
    assert built.added == ROWS
    (manifest, *index, rows), (other, *expected, expected_rows) = facts(tmp_path / "a"), facts(tmp_path / "b")
    assert manifest == other
    assert index == expected
    assert rows.schema.equals(expected_rows.schema)
    assert rows.equals(expected_rows)
    assert open_table(lake).search_key("lake/00007.jpg", 5).neighbors == (
        open_table(str(tmp_path / "t")).search_key("lake/00007.jpg", 5).neighbors
    )


def test_a_view_of_a_table_is_indexed_too(lake, warehouse, tmp_path):
    text = f"CREATE VIEW {warehouse.name('odd').sql} AS SELECT * FROM {warehouse.name('lake').sql}"
    sql(warehouse, f"{text} WHERE label = 'odd'")
    built = build(warehouse.uri("odd"), str(tmp_path / "a"), backend="exact")
    assert built.added == ROWS / 2
    assert set(open_index(str(tmp_path / "a")).rows.column("label").to_pylist()) == {"odd"}


def change(warehouse, folder):
    """Two rows go, one gets another vector, one another label, and one is new, two days later."""
    name = warehouse.name("lake").sql
    gone = [f"lake/0000{i}.jpg" for i in range(4)]
    sql(warehouse, f"DELETE FROM {name} WHERE key IN ({', '.join(map(repr, gone))})")
    rows = rows_of(folder / "t").slice(2, 3)
    fresh = clustered(3, DIMENSION, seed=9)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(fresh.ravel()), DIMENSION)
    rows = rows.set_column(rows.schema.names.index("embedding"), rows.schema.field("embedding"), vectors)
    keys = pa.array(["lake/00002.jpg", "lake/new's.jpg", "lake/other.jpg"])
    rows = rows.set_column(0, rows.schema.field("key"), keys)
    load(warehouse, "lake", rows, FIRST + 3 * DAY)
    sql(
        warehouse,
        f"UPDATE {name} SET label = @label, written_at = TIMESTAMP '2026-05-04 12:00:00+00:00' "
        "WHERE key = 'lake/00010.jpg'",
        label="it's",
    )


@pytest.mark.parametrize("since", ["last", "2026-05-03", "2026-05-04T14:00:00+02:00"])
def test_since_gives_what_a_rebuild_gives(lake, warehouse, tmp_path, since):
    build(lake, str(tmp_path / "a"), backend="exact")
    assert read_manifest(str(tmp_path / "a")).read_to == FIRST.isoformat()  # a day before the newest row
    change(warehouse, tmp_path)
    built = update(lake, str(tmp_path / "a"), since=since)
    assert (built.added, built.replaced, built.deleted) == (2, 1, 3)
    build(lake, str(tmp_path / "b"), backend="exact")
    assert facts(tmp_path / "a")[3].sort_by("key").equals(facts(tmp_path / "b")[3])
    one, other = (open_index(str(tmp_path / name)) for name in "ab")
    for key in ("lake/new's.jpg", "lake/00010.jpg", "lake/00100.jpg"):
        assert one.search_key(key, 5).neighbors == other.search_key(key, 5).neighbors
    assert (
        one.rows.filter(pa.compute.equal(one.rows.column("key"), "lake/00010.jpg")).to_pylist()[0]["label"]
        == "it's"
    )
    assert read_manifest(str(tmp_path / "a")).read_to == (FIRST + 2 * DAY).isoformat()
    assert update(lake, str(tmp_path / "a"), since="last").manifest.data == built.manifest.data


def test_since_misses_no_key_and_reads_no_other_row_that_is_older(lake, warehouse, tmp_path):
    build(lake, str(tmp_path / "a"), backend="exact")
    name = warehouse.name("lake").sql
    sql(warehouse, f"UPDATE {name} SET label = 'older' WHERE key = @key", key="lake/00011.jpg")
    sql(warehouse, f"DELETE FROM {name} WHERE key = @key", key="lake/00012.jpg")
    built = update(lake, str(tmp_path / "a"), since="2026-06-01")
    assert (built.added, built.replaced, built.deleted) == (0, 0, 1)  # gone is gone, at whatever time
    assert "older" not in open_index(str(tmp_path / "a")).rows.column("label").to_pylist()
    change(warehouse, tmp_path)
    told = []
    built = update(lake, str(tmp_path / "a"), since="2026-06-01", progress=told.append)
    assert (built.added, built.replaced, built.deleted) == (2, 1, 3)
    assert "2 keys are new, though their rows are older: reading all rows" in told
    assert "older" in open_index(str(tmp_path / "a")).rows.column("label").to_pylist()


def test_since_takes_out_what_lost_its_vector(lake, warehouse, tmp_path):
    build(lake, str(tmp_path / "a"), backend="exact")
    lost = "written_at = TIMESTAMP '2026-05-04 12:00:00+00:00', embedding = []"
    sql(warehouse, f"UPDATE {warehouse.name('lake').sql} SET {lost} WHERE key = @key", key="lake/00009.jpg")
    with pytest.raises(UsageError, match=r"1 missing \(lake/00009\.jpg\); leave them out with --skip_bad"):
        update(lake, str(tmp_path / "a"), since="last")
    built = update(lake, str(tmp_path / "a"), since="last", skip_bad_vectors=True)
    assert (built.deleted, built.manifest.rows, built.manifest.skipped) == (1, ROWS - 1, {"missing": 1})
    told = []
    built = update(lake, str(tmp_path / "a"), since="2026-06-01", skip_bad_vectors=True, progress=told.append)
    assert not any("reading all" in line for line in told)  # the one that is left out is no new key
    assert built.manifest.rows == ROWS - 1


def test_since_with_rows_of_another_model_is_refused(lake, warehouse, tmp_path):
    build(lake, str(tmp_path / "a"), backend="exact")
    rows = rows_of(tmp_path / "t").slice(0, 1)
    for name, value in (("key", "x"), ("model_digest", "model-b")):
        at = rows.schema.names.index(name)
        rows = rows.set_column(at, rows.schema.field(name), pa.array([value]))
    load(warehouse, "lake", rows, FIRST + 3 * DAY)
    with pytest.raises(DigestMismatch, match=r"model-a.*model-b"):
        update(lake, str(tmp_path / "a"), since="last")


def test_since_works_on_parquet_by_run(tmp_path):
    folder, output = str(tmp_path / "t"), str(tmp_path / "a")
    write_embeddings(folder, clustered(ROWS, DIMENSION))

    def of_run(run_id, start, vectors):
        rows = rows_of(tmp_path / "whole").slice(start, len(vectors))
        made = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMENSION)
        rows = rows.set_column(rows.schema.names.index("embedding"), rows.schema.field("embedding"), made)
        runs = pa.array([run_id] * len(rows))
        rows = rows.set_column(rows.schema.names.index("run_id"), rows.schema.field("run_id"), runs)
        pq.write_table(rows, tmp_path / "t" / f"part-{run_id}.parquet")

    (tmp_path / "t").rename(tmp_path / "whole")
    (tmp_path / "t").mkdir()
    of_run("20260501T120000000000Z", 0, clustered(200, DIMENSION))
    build(folder, output, backend="exact")
    assert read_manifest(output).read_to == "2026-05-01T12:00:00+00:00"
    of_run("20260502T120000000000Z", 200, clustered(100, DIMENSION, seed=3))
    assert update(folder, output, since="last").added == 100
    assert read_manifest(output).read_to == "2026-05-02T12:00:00+00:00"
    # a run that is older than what is asked for is not read, though its vectors differ
    of_run("20260501T120000000000Z", 0, clustered(200, DIMENSION, seed=4))
    assert update(folder, output, since="2026-05-02").replaced == 0
    assert update(folder, output, since="2026-05-01").replaced == 200
    (tmp_path / "t" / "part-20260502T120000000000Z.parquet").unlink()
    assert update(folder, output, since="last").deleted == 100


def test_compact_trains_anew(lake, warehouse, tmp_path):
    output = str(tmp_path / "a")
    build(lake, output, backend="scann_ah")
    change(warehouse, tmp_path)
    assert not update(lake, output, since="last").trained
    assert read_manifest(output).changed_rows == 6
    assert update(lake, output, since="last", compact=True).trained
    assert read_manifest(output).changed_rows == 0
    assert not update(lake, output, since="last", compact=True).trained  # there is nothing left to compact


@pytest.mark.parametrize(
    ("since", "words"),
    [("yesterday", "neither `last` nor a time"), ("last", "the index is of .*/t, not of bigquery://")],
)
def test_a_since_that_means_nothing(lake, tmp_path, since, words):
    build(str(tmp_path / "t"), str(tmp_path / "a"), backend="exact")
    with pytest.raises(UsageError, match=words):
        update(lake, str(tmp_path / "a"), since=since)


def test_bad_tables_are_refused_with_the_remedy(lake, warehouse, tmp_path):
    with pytest.raises(UsageError, match=r"there is no table bigquery://.*nowhere.*predict --output"):
        build(warehouse.uri("nowhere"), str(tmp_path / "a"))
    sql(warehouse, f"CREATE TABLE {warehouse.name('plain').sql} (key STRING)")
    with pytest.raises(UsageError, match="no column 'embedding', only key"):
        build(warehouse.uri("plain"), str(tmp_path / "a"))
    load(warehouse, "lake", rows_of(tmp_path / "t").slice(5, 1), FIRST)
    with pytest.raises(UsageError, match=r"lake/00005\.jpg; of a stream's table .*lake_once"):
        build(lake, str(tmp_path / "a"))


def test_neighbours_are_described_as_the_table_has_them_now(lake, warehouse, tmp_path):
    build(lake, str(tmp_path / "a"), backend="exact")
    index = open_index(str(tmp_path / "a"))
    found = index.search_key("lake/00020.jpg", 3)
    changed, gone, same = found.neighbors[0]
    name = warehouse.name("lake").sql
    sql(
        warehouse,
        f"UPDATE {name} SET label = @label, attributes = [STRUCT('camera' AS key, @label AS value)] "
        "WHERE key = @key",
        label="x' OR '1'='1",
        key=changed.key,
    )
    sql(warehouse, f"DELETE FROM {name} WHERE key = @key", key=gone.key)
    told = []
    now = joined(found, lake, model_digest="model-a", preprocessing_digest="prep-a", tell=told.append)
    assert now.neighbors[0][0].label == "x' OR '1'='1"
    assert now.neighbors[0][0].attributes == {"camera": "x' OR '1'='1"}
    assert (now.neighbors[0][0].score, now.neighbors[0][0].rank) == (changed.score, 1)
    assert now.neighbors[0][1:] == [gone, same]
    assert any(f"1 of 3 are no longer in {lake}" in note for note in now.notes)
    assert any("USD" in line for line in told)
    other = joined(found, lake, model_digest="model-b")
    assert other.neighbors == found.neighbors


def test_neighbours_are_joined_with_a_folder_too(tmp_path):
    folder = str(tmp_path / "t")
    write_embeddings(folder, clustered(50, DIMENSION))
    build(folder, str(tmp_path / "a"))
    found = open_index(str(tmp_path / "a")).search(clustered(20, DIMENSION, seed=2), 4)
    assert joined(found, folder).neighbors == found.neighbors
    write_embeddings(folder, clustered(50, DIMENSION), labels=["it's"] * 50, attributes=[{"a": "ü"}] * 50)
    assert {each.label for near in joined(found, folder).neighbors for each in near} == {"it's"}
    assert {each.attributes["a"] for near in joined(found, folder).neighbors for each in near} == {"ü"}


def test_the_command_builds_and_updates(lake, warehouse, tmp_path, capsys):
    output = str(tmp_path / "a")
    arguments = ["--table", lake, "--output", output]
    assert build_index.run([*arguments, "--preflight_only"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["rows"], plan["does"], plan["backend"]) == (ROWS, "create", "exact")
    assert build_index.run(arguments) == 0
    change(warehouse, tmp_path)
    assert build_index.run([*arguments, "--since", "last"]) == 0
    assert "2 added, 1 replaced, 3 deleted" in capsys.readouterr().out
    with pytest.raises(UsageError, match="--compact goes with"):
        build_index.run([*arguments, "--compact"])
    with pytest.raises(UsageError, match="no index at"):
        build_index.run(["--table", lake, "--output", str(tmp_path / "none"), "--since", "last"])
