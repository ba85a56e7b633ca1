"""Tables: what is there, whether a job may write into it, and making it; on the emulator."""

import http.server
import json
import threading

import pytest
import requests
from google.cloud.bigquery import SchemaField
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import stream_table
from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.sinks.rows import RowSettings
from beam_vision.warehouse import clients, columns, forms, tables


def settings(**others):
    made = {"task": "embed", "embedding_dim": 4, "model_digest": "model-a", "preprocessing_digest": "prep-a"}
    return RowSettings(**{**made, **others})


FORM = tables.batch_form(settings())


def shapes(fields):
    return [(each.name, each.field_type, each.mode, shapes(each.fields)) for each in fields]


def test_a_table_is_made_with_partitions_clusters_descriptions_and_facts(warehouse):
    name = warehouse.name("rows")
    assert tables.look(warehouse.client, name) == tables.Found()
    made = tables.ensure(warehouse.client, name, FORM)
    assert made.exists
    assert not made.is_view
    found = warehouse.client.get_table(name.path)
    assert found.time_partitioning.type_ == "DAY"
    assert found.time_partitioning.field == "written_at"
    assert found.clustering_fields == ["key"]
    assert shapes(found.schema) == shapes(FORM.fields)
    assert all(each.description for each in found.schema)
    people, machine = found.description.splitlines()
    assert "embed" in people
    assert machine == (
        'beam-vision: {"embedding_dim": 4, "kind": "beam-vision table", "model_digest": "model-a", '
        '"options_digest": "", "preprocessing_digest": "prep-a", "row_kind": "images", "task": "embed"}'
    )
    again = tables.ensure(warehouse.client, name, FORM)
    assert again.facts == FORM.facts
    assert again.notes == again.missing == ()


def test_rows_are_told(warehouse):
    name = warehouse.name("rows")
    warehouse.client.query(f"CREATE TABLE {name.sql} AS SELECT 'a' AS key UNION ALL SELECT 'b'").result()
    found = tables.look(warehouse.client, name)
    assert found.rows == 2
    assert found.facts == {}
    assert found.partition == ""


@pytest.mark.parametrize("table", stream_table.TABLES)
def test_the_tables_of_a_stream_are_partitioned_by_their_time(warehouse, table):
    name = warehouse.name(table)
    form = tables.stream_form(table, task="detect")
    tables.ensure(warehouse.client, name, form)
    found = tables.check(warehouse.client, name, form)
    times = {"predictions": "capture_time", "alerts": "time", "rollouts": "time", "failures": "time"}
    assert found.partition == times.get(table, "window_start")
    assert found.clustering == (("row_id",) if table == "rollouts" else ("camera", "row_id"))
    assert "model_digest" not in found.facts
    other = tables.stream_form("counts" if table != "counts" else "health")
    with pytest.raises(UsageError, match='its table is "'):
        tables.check(warehouse.client, name, other)


@pytest.mark.parametrize(
    ("others", "what"),
    [
        ({"model_digest": "model-b"}, "model digests differ: expected model-b, found model-a"),
        ({"preprocessing_digest": "prep-b"}, "preprocessing digests differ: expected prep-b, found prep-a"),
        ({"options_digest": "o"}, r"options digests differ: expected o, found \(none\)"),
    ],
)
def test_rows_of_other_digests_are_refused_with_both(warehouse, others, what):
    name = warehouse.name("rows")
    tables.ensure(warehouse.client, name, FORM)
    other = tables.batch_form(settings(**others))
    for refuse in (tables.check, tables.ensure):
        with pytest.raises(DigestMismatch, match=what) as caught:
            refuse(warehouse.client, name, other, add_columns=True)
    assert name.uri in str(caught.value)
    assert "migrate-embeddings" in str(caught.value)


@pytest.mark.parametrize(
    ("form", "what"),
    [
        (tables.batch_form(settings(embedding_dim=8)), "its embedding_dim is 4, this job's is 8"),
        (tables.batch_form(settings(task="detect")), 'its task is "embed", this job\'s is "detect"'),
        (tables.batch_form(settings(rows="tiles")), 'its row_kind is "images"'),
        (tables.failures_form(), 'its kind is "beam-vision table", this job\'s is "beam-vision failures"'),
    ],
)
def test_rows_of_another_kind_are_refused(warehouse, form, what):
    name = warehouse.name("rows")
    tables.ensure(warehouse.client, name, FORM)
    with pytest.raises(UsageError, match=what):
        tables.check(warehouse.client, name, form, add_columns=True)


def test_a_view_and_a_dataset_that_is_not_there_are_refused_with_the_remedy(warehouse):
    name = warehouse.name("seen")
    warehouse.client.query(f"CREATE VIEW {name.sql} AS SELECT 'a' AS key").result()
    with pytest.raises(UsageError, match="is a view"):
        tables.check(warehouse.client, name, FORM)
    nowhere = name._replace(dataset="nowhere")
    for do in (tables.check, tables.ensure):
        with pytest.raises(UsageError, match=f"bq --location=EU mk --dataset {name.project}:nowhere"):
            do(warehouse.client, nowhere, FORM)


def test_rows_that_nobody_vouches_for_are_refused_until_somebody_does(warehouse):
    name = warehouse.name("rows")
    warehouse.client.query(f"CREATE TABLE {name.sql} AS SELECT 'a' AS key").result()
    with pytest.raises(
        UsageError, match=r"has 1 rows.*add to its description the line beam-vision: "
    ) as caught:
        tables.ensure(warehouse.client, name, FORM, add_columns=True)
    made = warehouse.client.get_table(name.path)
    made.description = "mine\n" + str(caught.value).partition("the line ")[2]
    warehouse.client.update_table(made, ["description"])
    assert tables.ensure(warehouse.client, name, FORM, add_columns=True).facts == FORM.facts


def old_table(warehouse):
    """A table somebody made by hand: empty, fewer columns, no partitions."""
    name = warehouse.name("rows")
    warehouse.client.query(
        f"CREATE TABLE {name.sql} (key STRING NOT NULL, URI STRING, attributes ARRAY<STRUCT<key STRING>>, "
        "mine INT64) OPTIONS (description = 'ours')"
    ).result()
    return name


def test_columns_are_added_only_when_allowed(warehouse):
    name = old_table(warehouse)
    with pytest.raises(UsageError, match=r"lacks the columns label, .*attributes\.value.*--add_columns"):
        tables.ensure(warehouse.client, name, FORM)
    assert len(tables.look(warehouse.client, name).schema) == 4
    told = tables.check(warehouse.client, name, FORM, add_columns=True)
    assert len(tables.look(warehouse.client, name).schema) == 4
    added = tables.ensure(warehouse.client, name, FORM, add_columns=True)
    assert added.missing == told.missing
    assert len(added.notes) == 2
    found = {each.name: each for each in tables.look(warehouse.client, name).schema}
    assert list(found)[:4] == ["key", "URI", "attributes", "mine"]
    assert found["row_digest"].mode == "NULLABLE"  # no REQUIRED column can be added
    assert found["embedding"].mode == "REPEATED"
    assert [each.name for each in found["attributes"].fields] == ["key", "value"]
    description = warehouse.client.get_table(name.path).description
    assert description.startswith("ours\n")
    assert forms.facts_in(description) == FORM.facts
    assert tables.check(warehouse.client, name, FORM).missing == ()


def test_columns_of_another_type_or_mode_are_refused_by_name(warehouse):
    name = warehouse.name("rows")
    warehouse.client.query(
        f"CREATE TABLE {name.sql} (key INT64, uri STRING, label STRING NOT NULL, embedding FLOAT64, "
        "attributes ARRAY<STRUCT<key STRING, value INT64>>, more STRING NOT NULL)"
    ).result()
    with pytest.raises(UsageError, match="has other columns than this job writes: ") as caught:
        tables.ensure(warehouse.client, name, FORM, add_columns=True)
    assert "key is INT64, not STRING; label is REQUIRED, and rows may lack it; embedding is NULLABLE" in str(
        caught.value
    )
    problems, _ = columns.compare(FORM.fields, tables.look(warehouse.client, name).schema)
    assert problems[3:] == [
        "attributes.value is INT64, not STRING",
        "more is REQUIRED, and this job has no values for it",
    ]


def test_legacy_names_of_types_and_nullable_for_required_are_the_same():
    ours = [SchemaField("a", "INTEGER", "REQUIRED"), SchemaField("b", "RECORD", "REPEATED", fields=[])]
    theirs = [SchemaField("A", "INT64", "NULLABLE"), SchemaField("b", "STRUCT", "REPEATED")]
    assert columns.compare(ours, theirs) == ([], [])


NAMES = st.sampled_from(["a", "b", "C", "c2"])
MODES = st.sampled_from(["NULLABLE", "REQUIRED", "REPEATED"])
PLAIN = st.builds(SchemaField, NAMES, st.sampled_from(["STRING", "INTEGER"]), MODES)


def columns_of(inner):
    return st.lists(inner, max_size=3, unique_by=lambda each: each.name.lower())


RECORD = st.builds(
    lambda name, mode, of: SchemaField(name, "RECORD", mode, fields=of), NAMES, MODES, columns_of(PLAIN)
)
FIELDS = columns_of(PLAIN | RECORD)


@given(FIELDS, FIELDS)
def test_columns_that_can_be_added_are_then_there(wanted, found):
    problems, missing = columns.compare(wanted, found)
    made = columns.merged(wanted, found)
    assert [each.name for each in made[: len(found)]] == [each.name for each in found]
    again, still = columns.compare(wanted, made)
    assert still == []
    assert bool(again) == bool(problems)
    assert (made == list(found)) or missing
    assert columns.compare(wanted, wanted) == ([], [])


def test_who_comes_second_gets_the_table_of_the_first(warehouse):
    name = warehouse.name("rows")
    found, start = [], threading.Barrier(4)

    def make():
        with clients.client(name.project) as client:
            start.wait()
            found.append(tables.ensure(client, name, FORM))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.facts for each in found] == [FORM.facts] * 4


class Relay(http.server.ThreadingHTTPServer):
    """Stands before the emulator, passes requests on, and answers some itself: what the emulator never says.

    Attributes:
      refusals: ``{method: [status and reason, ...]}``: how the next ones are answered.
      seen: method and ``If-Match`` of each request.
    """

    def __init__(self, target):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.refusals, self.seen = target, {}, []


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.command, self.headers.get("If-Match")))
        refusals = self.server.refusals.get(self.command)
        if refusals:
            status, reason = refusals.pop(0)
            error = {"code": status, "message": reason, "errors": [{"reason": reason}]}
            body = json.dumps({"error": error}).encode()
        else:
            kept = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            passed = requests.request(self.command, self.server.target + self.path, data=data, headers=kept)
            status, body = passed.status_code, passed.content
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PATCH(self):
        self.answer()

    def log_message(self, *_):
        pass


@pytest.fixture
def relay(warehouse, bigquery_server, monkeypatch):
    with Relay(bigquery_server.rest) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(clients.EMULATOR_HOST, f"http://127.0.0.1:{server.server_port}")
        with clients.client(warehouse.project) as server.client:
            yield server
        server.shutdown()


def test_a_change_waits_for_that_of_another(warehouse, relay):
    name = warehouse.name("rows")
    tables.ensure(relay.client, name, FORM)
    etag = warehouse.client.get_table(name.path).etag
    relay.refusals["PATCH"] = [(412, "conditionNotMet")]
    edits = []

    def edit(table):
        edits.append(table.description)
        table.description += "\nours"
        return ["description"]

    tables.change(relay.client, name, edit)
    assert warehouse.client.get_table(name.path).description == f"{FORM.description}\nours"
    assert len(edits) == 2
    assert [match for method, match in relay.seen if method == "PATCH"] == [etag, etag]


def test_a_refusal_is_explained_and_a_passing_error_is_not_the_end(warehouse, relay, monkeypatch):
    monkeypatch.setattr(clients, "_FIRST_WAIT_SEC", 0.01)
    name = warehouse.name("rows")
    relay.refusals = {"GET": [(404, "notFound"), (503, "backendError")], "POST": [(503, "backendError")]}
    assert tables.ensure(relay.client, name, FORM).facts == FORM.facts
    assert relay.refusals == {"GET": [], "POST": []}
    relay.refusals["GET"] = [(403, "accessDenied")]
    with pytest.raises(UsageError, match=r"rows: refused .*accessDenied.*roles/bigquery\.dataEditor"):
        tables.look(relay.client, name)
    relay.refusals["PATCH"] = [(412, "conditionNotMet")] * 9
    with pytest.raises(UsageError, match="conditionNotMet"):
        tables.change(relay.client, name, lambda table: ["description"])


def test_a_staging_table_is_asked_to_expire(warehouse):
    made = tables._table(warehouse.name("rows"), FORM, 3600)
    assert int(made.to_api_repr()["expirationTime"]) > 1.7e12  # the emulator takes it and keeps it to itself


@pytest.mark.parametrize("text", [None, "", "of people", "beam-vision: {", "beam-vision: [1]"])
def test_a_description_without_facts_has_none(text):
    assert forms.facts_in(text) == {}


def test_facts_survive_what_people_write_around_them():
    text = "ours\n" + forms.described("two\nlines", {"kind": "ü\n", "n": 1}) + "\nmore"
    assert forms.facts_in(text) == {"kind": "ü\n", "n": 1}


def test_failures_have_the_columns_of_failures():
    assert [each.name for each in tables.failures_form().fields] == [
        *("key", "uri", "stage", "reason", "detail", "attempt", "run_id", "job", "output", "written_at")
    ]
