"""Images named in BigQuery: tables, views and queries."""

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.sources import warehouse as rows_of_bigquery
from beam_vision.sources.annotations import read_truth
from beam_vision.sources.spec import resolve
from beam_vision.testing.pipelines import collect
from beam_vision.types import Failure
from beam_vision.warehouse import cost

HOSTILE = "/lake/'`--; DROP TABLE lake\\ 猫.png"
ODD_LABEL = "na'ïve -- 猫"


def sql_text(value):
    return "NULL" if value is None else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def write(warehouse, table, columns, *rows):
    warehouse.client.query(f"CREATE TABLE {warehouse.name(table).sql} ({columns})").result()
    if rows:
        listed = ", ".join(f"({row})" for row in rows)
        warehouse.client.query(f"INSERT INTO {warehouse.name(table).sql} VALUES {listed}").result()
    return warehouse.uri(table)


@pytest.fixture
def lake(warehouse):
    """Three good rows and three bad ones."""
    return write(
        warehouse,
        "lake",
        "uri STRING, label STRING, split STRING, taken DATE, weight FLOAT64, vector ARRAY<FLOAT64>, "
        "attributes ARRAY<STRUCT<key STRING, value STRING>>",
        "'/lake/a.png', 'cat|pet', 'train', DATE '2026-05-01', 0.5, [1.0], "
        "[STRUCT('camera' AS key, 'x' AS value)]",
        "'gs://lake/b.png', 'dog', NULL, NULL, NULL, [], []",
        f"{sql_text(HOSTILE)}, {sql_text(ODD_LABEL)}, NULL, NULL, NULL, [], []",
        "NULL, 'cat', NULL, NULL, NULL, [], []",
        "'', 'dog', NULL, NULL, NULL, [], []",
        "'relative.png', 'dog', NULL, NULL, NULL, [], []",
    )


def by_key(found):
    good = {each.key: each for each in found if not isinstance(each, Failure)}
    return good, sorted((each for each in found if isinstance(each, Failure)), key=lambda each: each.detail)


def test_columns_mean_what_they_mean_in_a_manifest(lake, tmp_path):
    good, _ = by_key(list(read_truth(lake)))
    first = good["/lake/a.png"]
    assert (first.labels, first.split) == (("cat", "pet"), "train")
    assert first.attributes == {"taken": "2026-05-01", "weight": "0.5", "camera": "x"}
    assert good["gs://lake/b.png"].attributes == {}
    assert good[HOSTILE].labels == (ODD_LABEL,)
    manifest = tmp_path / "m.jsonl"
    row = {"uri": "/lake/a.png", "label": "cat|pet", "split": "train", "taken": "2026-05-01", "weight": 0.5}
    manifest.write_text(json.dumps(row | {"attributes": {"camera": "x"}}))
    assert list(read_truth(str(manifest))) == [first]


def test_a_bad_row_is_a_failure_that_says_what_the_row_says(lake):
    good, bad = by_key(list(read_truth(lake)))
    place = lake.removeprefix("bigquery://")
    assert len(good) == 3
    assert [each.reason for each in bad] == ["bad_manifest_row"] * 3
    assert all(each.key.startswith(f"{place}#") and each.uri == lake for each in bad)
    assert len({each.key for each in bad}) == 3
    assert any(f'{place}: the row {{"uri": null, "label": "cat"' in each.detail for each in bad)
    assert any(
        "'relative.png' is relative; say where it starts by --image_root" in each.detail for each in bad
    )
    assert by_key(list(read_truth(lake)))[1] == bad  # the same keys whenever it is read


def test_a_relative_uri_starts_at_the_root(lake, tmp_path):
    good, bad = by_key(list(read_truth(lake, image_root=str(tmp_path))))
    assert str(tmp_path / "relative.png") in good
    assert len(bad) == 2


def test_a_pipeline_lists_a_table_a_view_and_a_query_alike(lake, warehouse):
    from beam_vision.sources.transforms import ListImages

    name = warehouse.name("lake")
    warehouse.client.query(f"CREATE VIEW {warehouse.name('seen').sql} AS SELECT * FROM {name.sql}").result()
    query = resolve("", query=f"SELECT * FROM {name.sql} WHERE label != 'dog'")
    expected, expected_bad = by_key(list(read_truth(lake)))
    for source, keys in (
        (lake, set(expected)),
        (warehouse.uri("seen"), set(expected)),
        (query, {"/lake/a.png", HOSTILE}),
    ):
        good, bad = collect(lambda pipeline, source=source: pipeline | ListImages(source, run_id="r"))
        assert {ref.key for ref in good} == keys
        assert all(ref == expected[ref.key] for ref in good)
        assert len(bad) == (1 if source is query else len(expected_bad))
    assert {each.run_id for each in bad} == {"r"}


def test_the_scheme_may_be_left_out_where_the_format_is_said(lake):
    found = resolve(lake.removeprefix("bigquery://"), "bigquery")
    assert (found.format, found.path) == ("bigquery", lake)
    assert "vector" not in found.rows.columns  # vectors are no attribute, and cost most of the bytes


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=4),
    st.datetimes(timezones=st.just(datetime.timezone.utc)),
    st.dates(),
    st.decimals(places=3),
)
PAIRS = st.lists(st.fixed_dictionaries({"key": st.text(max_size=3), "value": SCALARS}), max_size=3)
NAMES = ("uri", "labels", "split", "boxes", "attributes", "other")


VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), PAIRS)
URIS = st.one_of(SCALARS, st.text(max_size=8).map("/{}".format))


@given(st.fixed_dictionaries({name: URIS if name == "uri" else VALUES for name in NAMES}))
def test_any_row_is_a_ref_or_a_failure_with_a_key_of_its_own(row):
    rows = rows_of_bigquery.Rows(about="p.d.t", project="p", columns=NAMES)
    found = rows_of_bigquery.found_in(row, rows)
    if isinstance(found, Failure):
        assert found.key.startswith("p.d.t#")
        assert found.reason == "bad_manifest_row"
        found.detail.encode()
    else:
        assert found.key == found.uri
        assert all(isinstance(text, str) for text in found.attributes.values())
        json.dumps([found.key, *found.labels, *found.attributes.values()], ensure_ascii=False).encode()


def test_a_query_is_checked_and_priced_before_it_runs(warehouse, lake):
    name = warehouse.name("lake").sql
    found = resolve("", query=f"SELECT label, uri FROM {name}")
    assert found.format == "bigquery"
    assert found.rows.columns == ("label", "uri")
    assert found.rows.project == warehouse.project
    assert "USD" in found.rows.cost
    for query, words in (
        (f"SELECT label FROM {name}", "--query: no column 'uri' .* the columns found are 'label'"),
        (f"SELECT 1 AS uri FROM {name}", "its column 'uri' is INTEGER, not STRING"),
        (f"DELETE FROM {name} WHERE true", "--query is DELETE; it must be one SELECT"),
    ):
        with pytest.raises(UsageError, match=words):
            resolve("", query=query)
    assert warehouse.count("lake") == 6


def test_a_query_that_costs_too_much_is_refused():
    price = cost.Cost(3 * cost.GIB)
    rows_of_bigquery.refuse_dear(price, 0)
    rows_of_bigquery.refuse_dear(price, 3 * cost.GIB)
    with pytest.raises(
        UsageError, match=r"reads 3\.0 GiB: 0\.018 USD .*more than --max_bytes_billed 1000000"
    ):
        rows_of_bigquery.refuse_dear(price, 1_000_000)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": "lake/", "query": "SELECT 1"}, "--query stands in place of --images"),
        ({"images": "", "query": "SELECT 1", "format": "csv"}, "--query stands in place of"),
        ({"images": "lake/", "query_project": "my-project"}, "go with --query or a table"),
        ({"images": "bigquery://no"}, "--images bigquery://no is not a table of BigQuery"),
        ({"images": ""}, "or --query"),
    ],
)
def test_options_that_do_not_go_together(settings, words):
    with pytest.raises(UsageError, match=words):
        resolve(**settings)


def test_a_query_without_a_project_says_what_to_do(warehouse, monkeypatch):
    monkeypatch.delenv("GOOGLE_CLOUD_PROJECT", raising=False)
    with pytest.raises(UsageError, match="--query_project ID"):
        resolve("", query="SELECT uri FROM lake.t")
    assert (
        rows_of_bigquery.project_of("SELECT uri FROM `a-project.lake.t`, `b-project.lake.t`") == "a-project"
    )
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "from-environment")
    assert rows_of_bigquery.project_of("SELECT uri FROM lake.t") == "from-environment"


def test_a_table_of_predictions_gives_no_predictions(warehouse):
    made = "model_digest STRING, preprocessing_digest STRING, run_id STRING"
    columns = "key STRING, uri STRING, label STRING, prediction STRING, embedding ARRAY<FLOAT64>, width INT64"
    predicted = write(
        warehouse, "predicted", f"{columns}, {made}", "'a', '/a.png', 'cat', 'dog', [1.0], 3, 'm', 'p', 'r'"
    )
    (ref,) = read_truth(predicted)
    assert (ref.key, ref.labels, ref.attributes) == ("/a.png", ("cat",), {})
    boxes = write(warehouse, "boxes", f"key STRING, uri STRING, box INT64, {made}")
    with pytest.raises(
        UsageError, match="has rows of boxes, several an image; give --query 'SELECT DISTINCT"
    ):
        resolve(boxes)


def test_a_table_with_boxes_is_truth(warehouse):
    box = "STRUCT(1.0 AS xmin, 2.0 AS ymin, 5.0 AS xmax, 6.0 AS ymax, 'cat' AS label)"
    wrong = "STRUCT(5.0 AS xmin, 2.0 AS ymin, 1.0 AS xmax, 6.0 AS ymax, 'cat' AS label)"
    shape = "ARRAY<STRUCT<xmin FLOAT64, ymin FLOAT64, xmax FLOAT64, ymax FLOAT64, label STRING>>"
    annotated = write(
        warehouse, "truth", f"uri STRING, boxes {shape}", f"'/a.png', [{box}, {wrong}]", "'/b.png', []"
    )
    good, bad = by_key(list(read_truth(annotated)))
    assert not bad
    (only,) = good["/a.png"].boxes
    assert (only.xmin, only.ymax, only.label) == (1.0, 6.0, "cat")
    assert [fault.reason for fault in good["/a.png"].faults] == ["bad_box"]
    assert good["/b.png"].boxes == ()


def test_a_table_that_is_not_there_or_empty(warehouse):
    with pytest.raises(UsageError, match=r"lake\.nowhere: not found"):
        resolve(warehouse.uri("nowhere"))
    assert list(read_truth(write(warehouse, "empty", "uri STRING"))) == []
    with pytest.raises(UsageError, match="no column 'uri'"):
        resolve(write(warehouse, "other", "name STRING"))


def test_a_job_takes_its_images_from_a_query(warehouse, tmp_path, capsys):
    from beam_vision.pipelines import create_tfrecords
    from beam_vision.pipelines.options import find_source
    from beam_vision.sources.transforms import OpenImages
    from beam_vision.testing.images import encode, photo

    rows = []
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(encode(photo(number, 24, 16), "png"))
        rows.append(f"'{tmp_path}/{number}.png', '{('cat', 'dog')[number % 2]}', {number}")
    write(warehouse, "lake", "uri STRING, label STRING, number INT64", *rows, "NULL, 'dog', 9")
    query = f"SELECT uri, label FROM {warehouse.name('lake').sql} WHERE number != 0"
    asked = {"query": query, "output": str(tmp_path / "out")}
    words = [word for name, value in asked.items() for word in (f"--{name}", value)]
    assert create_tfrecords.run([*words, "--preflight_only"]) == 0
    plan = json.loads(capsys.readouterr().out)["images"]
    assert (plan["format"], plan["paths"]) == ("bigquery", [query])
    assert "USD" in plan["query_cost"]

    def opened(pipeline):
        found = pipeline | OpenImages(find_source(create_tfrecords.Options(**asked)))
        return found.images, found.failed, found.inputs

    images, failed, inputs = collect(opened)
    assert sorted((image.ref.labels, len(image.data)) for image in images) == sorted(
        ((("cat", "dog")[number % 2],), (tmp_path / f"{number}.png").stat().st_size) for number in (1, 2, 3)
    )
    assert [each.reason for each in failed] == ["bad_manifest_row"]
    assert inputs == [4]
