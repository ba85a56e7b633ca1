"""Query parameters, and what queries cost."""

import datetime
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest

from beam_vision.errors import UsageError
from beam_vision.warehouse import clients
from beam_vision.warehouse.cost import (
    LEAST_BILLED_BYTES,
    MIB,
    PRICES,
    TIB,
    Cost,
    dry_run,
    embedding_bytes,
    job_config,
    money,
    parameters_of,
    size,
    storage_usd,
)

NOON = datetime.datetime(2026, 11, 22, 12, 0, tzinfo=datetime.timezone.utc)
HOSTILE = "'; DROP TABLE images; -- `\"\\ \n${x} @key 漢字 \U0001f600"


@pytest.mark.parametrize(
    ("value", "kind", "sent"),
    [
        ("cat", "STRING", "cat"),
        (True, "BOOL", True),
        (np.bool_(True), "BOOL", True),
        (7, "INT64", 7),
        (np.int32(7), "INT64", 7),
        (0.5, "FLOAT64", 0.5),
        (np.float32(0.5), "FLOAT64", 0.5),
        (b"\x00", "BYTES", b"\x00"),
        (NOON, "TIMESTAMP", NOON),
        (NOON.date(), "DATE", NOON.date()),
        (["a", "b"], "STRING", ["a", "b"]),
        (("a",), "STRING", ["a"]),
        ([1, 2], "INT64", [1, 2]),
        ([1, 2.5], "FLOAT64", [1.0, 2.5]),
        (np.array([0.5, 1], np.float32), "FLOAT64", [0.5, 1.0]),
        ([np.float32(0.5), np.float32(1)], "FLOAT64", [0.5, 1.0]),
    ],
)
def test_a_value_has_the_type_that_it_would_have_in_sql(value, kind, sent):
    (made,) = parameters_of({"x": value})
    array = isinstance(sent, list)
    assert made.name == "x"
    assert (made.array_type if array else made.type_) == kind
    assert (made.values if array else made.value) == sent
    assert type(made.values[0] if array else made.value) in (str, bool, int, float, bytes, type(sent))


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("x", [], "empty list"),
        ("x", None, "NoneType"),
        ("x", {"a": 1}, "dict"),
        ("x", [["a"]], "list"),
        ("x", ["a", 1], "several types: INT64, STRING"),
        ("x", [True, 1], "several types"),
        ("x", [0.5, None], "NoneType"),
        ("x", np.ones((2, 2)), "list"),
        ("x", float("nan"), "finite"),
        ("x", np.array([1, np.inf]), "finite"),
        ("x", 2**63, "INT64"),
        ("x", NOON.replace(tzinfo=None), "without a zone"),
        ("x y", 1, "query parameter"),
        ("", 1, "query parameter"),
        ("x;--", 1, "query parameter"),
    ],
)
def test_what_no_parameter_can_hold_is_refused_by_name(name, value, said):
    with pytest.raises(UsageError, match=said):
        parameters_of({name: value})


def test_values_come_back_as_they_were_sent(warehouse):
    """But for bytes, which the emulator takes for the text of their base64."""
    values = {
        "text": HOSTILE,
        "texts": [HOSTILE, ""],
        "number": -(2**63),
        "real": 0.1,
        "reals": np.array([0.1, -1e-300], np.float64),
        "flag": False,
        "moment": NOON + datetime.timedelta(microseconds=1),
    }
    selected = ", ".join(f"@{name} AS {name}" for name in values)
    (row,) = warehouse.rows(f"SELECT {selected}", job_config=job_config(values))
    assert row == {**values, "reals": [0.1, -1e-300]}


def test_a_limit_is_sent_only_when_there_is_one():
    assert job_config().maximum_bytes_billed is None
    assert job_config({"x": 1}, max_bytes_billed=5 * MIB).maximum_bytes_billed == 5 * MIB


@pytest.mark.parametrize(
    ("read", "tables", "billed"),
    [
        (0, 1, 0),
        (1, 1, LEAST_BILLED_BYTES),
        (1, 3, 3 * LEAST_BILLED_BYTES),
        (LEAST_BILLED_BYTES, 1, LEAST_BILLED_BYTES),
        (LEAST_BILLED_BYTES + 1, 1, 11 * MIB),
        (100 * MIB, 3, 100 * MIB),
    ],
)
def test_bytes_are_billed_in_whole_mib_and_ten_of_them_at_least_a_table(read, tables, billed):
    assert Cost(read, tables=tables).bytes_billed == billed


def test_a_tib_has_the_price_of_a_tib():
    assert Cost(TIB).usd == PRICES.query_per_tib
    assert Cost(TIB // 2, usd_per_tib=8).usd == 4
    assert f"{PRICES.query_per_tib:g} USD a TiB ({PRICES.as_of})" in Cost(TIB).text


def test_what_is_read_is_said_with_its_bound():
    text = Cost(3 * MIB, tables=2, accuracy="UPPER_BOUND").text
    assert text.startswith("reads at most 3.0 MiB")
    assert "20.0 MiB" in text
    assert "less than 0.001 USD" in text
    assert "at least" in Cost(3 * MIB, accuracy="LOWER_BOUND").text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (MIB - 1, "1.0 MiB"),
        (TIB, "1.0 TiB"),
        (5000 * TIB, "5,000.0 TiB"),
    ],
)
def test_bytes_read_as_people_read_them(count, text):
    assert size(count) == text


def test_a_price_is_never_rounded_to_nothing():
    assert money(0) == "0.000 USD"
    assert money(1e-9) == "less than 0.001 USD"
    assert money(1234.5) == "1,234.500 USD"


def test_a_packed_embedding_has_half_the_bytes_and_two():
    assert embedding_bytes(1280) == 10_240
    assert embedding_bytes(1280, packed=True) == 5_122
    assert storage_usd(2**30) == PRICES.storage_per_gib_month


class Recorded(BaseHTTPRequestHandler):
    """A dry run's answer, in the form of docs/reference/rest/v2/Job."""

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        self.server.bodies.append(json.loads(self.rfile.read(length)))
        body = self.server.bodies[-1]
        answer = {
            "kind": "bigquery#job",
            "jobReference": {"projectId": "my-project", "jobId": "j", "location": "EU"},
            "configuration": body["configuration"],
            "status": {"state": "DONE"},
            "statistics": {
                "totalBytesProcessed": "52428800",
                "query": {
                    "totalBytesProcessed": "52428800",
                    "totalBytesProcessedAccuracy": "UPPER_BOUND",
                    "statementType": "SELECT",
                    "referencedTables": [
                        {"projectId": "my-project", "datasetId": "lake", "tableId": name}
                        for name in ("images", "failures")
                    ],
                },
            },
        }
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def test_a_dry_run_asks_for_nothing_to_be_run_and_reads_what_it_would_cost(monkeypatch):
    server = HTTPServer(("127.0.0.1", 0), Recorded)
    server.bodies = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(clients.EMULATOR_HOST, f"http://127.0.0.1:{server.server_address[1]}")
    client = clients.client("my-project")
    try:
        cost = dry_run(client, "SELECT @x", {"x": 1})
    finally:
        client.close()
        server.shutdown()
        server.server_close()
    assert cost == Cost(52_428_800, tables=2, accuracy="UPPER_BOUND")
    (body,) = server.bodies
    assert body["configuration"]["dryRun"] is True
    assert body["configuration"]["query"]["useQueryCache"] is False
    assert body["configuration"]["query"]["queryParameters"][0]["name"] == "x"


def test_a_dry_run_of_a_wrong_statement_raises_what_the_client_raises(warehouse):
    with pytest.raises(clients.errors()):
        dry_run(warehouse.client, "SELECT FROM nowhere at all")


@pytest.mark.parametrize("dim", [128, 1280])
@pytest.mark.parametrize("packed", [False, True])
def test_the_arithmetic_of_the_guide_is_ours(dim, packed):
    each = embedding_bytes(dim, packed=packed)
    every = 1_000_000 * each
    kind = f"`BYTES` | {dim:,} x 4 + 2 = {each:,}" if packed else f"`ARRAY<FLOAT64>` | {dim:,} x 8 = {each:,}"
    row = f"| {dim:,} | {kind} | {size(every)} | {storage_usd(every):.3f} USD | {Cost(every).usd:.3f} USD |"
    guide = Path(__file__).parents[2] / "docs" / "bigquery.md"
    assert row in guide.read_text(encoding="utf-8")
