"""Names, and what is said and done about BigQuery's errors."""

import pytest
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, TransportError
from hypothesis import given
from hypothesis import strategies as st
from requests.exceptions import ConnectionError as NoConnection

from beam_vision.errors import UsageError
from beam_vision.warehouse import clients
from beam_vision.warehouse.names import TableName, is_bigquery, parse_table, quoted

NAME = TableName("lake-42", "photos", "rows")


@pytest.mark.parametrize("text", ["bigquery://lake-42.photos.rows", "lake-42.photos.rows"])
def test_a_name_in_its_forms(text):
    name = parse_table(text, option="--output")
    assert name == NAME
    assert name.path == "lake-42.photos.rows"
    assert name.uri == "bigquery://lake-42.photos.rows"
    assert name.sql == "`lake-42.photos.rows`"
    assert name.resource == "projects/lake-42/datasets/photos/tables/rows"
    assert name.sibling("failures").path == "lake-42.photos.rows_failures"


def test_a_project_of_a_domain_keeps_its_colon_and_dots():
    assert parse_table("bigquery://example.com:lake-42.photos.rows").project == "example.com:lake-42"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("bigquery://photos.rows", "a project's id"),
        ("bigquery://Lake-42.photos.rows", "a project's id"),
        ("bigquery://lake-42.pho-tos.rows", "a dataset's name"),
        ("bigquery://lake-42.photos.", "a table's name"),
        ("bigquery://lake-42.photos.rows$20260101", "a table's name"),
        ("bigquery://lake-42.photos.rows_*", "a table's name"),
        ("bigquery://lake-42.photos.ro`ws", "a table's name"),
        ("bigquery://lake-42.photos.rows; DROP TABLE x", "a table's name"),
        ("bigquery://lake-42.photos.rows\n", "a table's name"),
        ("bigquery://lake-42.`photos`.rows", "a dataset's name"),
        ("", "a project's id"),
    ],
)
def test_what_is_no_name_is_refused_with_its_part_and_the_form(text, what):
    with pytest.raises(UsageError, match=what) as caught:
        parse_table(text, option="--output")
    assert "--output" in str(caught.value)
    assert "bigquery://PROJECT.DATASET.TABLE" in str(caught.value)


@given(st.text(max_size=30))
def test_no_name_that_passes_can_end_its_backticks(text):
    for part in (f"lake-42.photos.{text}", f"lake-42.{text}.rows", f"{text}.photos.rows", text):
        try:
            name = parse_table(part)
        except UsageError:
            continue
        assert name.sql.count("`") == 2
        assert not set(name.sql) & set("\\\n\r'\"; ")
        assert parse_table(name.uri) == name


@given(st.text(max_size=10))
def test_no_column_that_passes_can_end_its_backticks(text):
    try:
        found = quoted(text)
    except UsageError:
        return
    assert found[1:-1].isascii()
    assert found[1:-1].isidentifier()


def test_a_folder_is_no_table():
    assert is_bigquery("bigquery://a.b.c")
    assert not is_bigquery("gs://bucket/table")
    assert not is_bigquery("table/")


def api_error(kind, reason=""):
    return kind("it said so", errors=[{"reason": reason}] if reason else ())


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (api_error(exceptions.ServiceUnavailable), True),
        (api_error(exceptions.InternalServerError), True),
        (api_error(exceptions.BadGateway), True),
        (api_error(exceptions.GatewayTimeout), True),
        (api_error(exceptions.TooManyRequests), True),
        (api_error(exceptions.Aborted), True),
        (api_error(exceptions.DeadlineExceeded), True),
        (api_error(exceptions.Forbidden, "rateLimitExceeded"), True),
        (api_error(exceptions.BadRequest, "jobRateLimitExceeded"), True),
        (NoConnection("reset"), True),
        (TransportError("reset", retryable=True), True),
        (api_error(exceptions.Forbidden, "quotaExceeded"), False),
        (api_error(exceptions.Forbidden, "accessDenied"), False),
        (api_error(exceptions.NotFound), False),
        (api_error(exceptions.BadRequest, "invalidQuery"), False),
        (api_error(exceptions.Conflict), False),
        (api_error(exceptions.MethodNotImplemented), False),
        (DefaultCredentialsError("none"), False),
        (ValueError("ours"), False),
    ],
)
def test_which_errors_may_pass(error, passes):
    assert clients.is_transient(error) is passes


class Flaky:
    """Fails as told, then gives 7; counts calls."""

    def __init__(self, *errors):
        self.errors, self.calls = list(errors), 0

    def __call__(self):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7


def test_transient_errors_are_tried_again_with_longer_waits():
    waits = []
    flaky = Flaky(*[api_error(exceptions.ServiceUnavailable)] * 4)
    assert clients.retried(flaky, sleep=waits.append) == 7
    assert flaky.calls == 5
    for wait, full in zip(waits, (0.5, 1, 2, 4), strict=True):
        assert full / 2 <= wait <= full


def test_retries_end():
    waits = []
    flaky = Flaky(*[api_error(exceptions.ServiceUnavailable)] * 10)
    with pytest.raises(exceptions.ServiceUnavailable):
        clients.retried(flaky, attempts=9, sleep=waits.append)
    assert flaky.calls == 9
    assert max(waits) <= 30


@pytest.mark.parametrize("error", [api_error(exceptions.NotFound), ValueError("ours")])
def test_permanent_errors_are_not_tried_again(error):
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        clients.retried(flaky, sleep=lambda _: None)
    assert flaky.calls == 1


@pytest.mark.parametrize(
    ("error", "what", "said"),
    [
        (
            api_error(exceptions.NotFound),
            NAME,
            ["table lake-42.photos.rows", "bq ls lake-42:photos"],
        ),
        (
            exceptions.NotFound("GET https://host/v2/projects/x?y=z: Not found: Dataset lake-42:photos"),
            NAME,
            [
                "lake-42.photos.rows: not found (Not found: Dataset lake-42:photos)",
                "bq mk --dataset lake-42:photos",
            ],
        ),
        (api_error(exceptions.Forbidden), NAME, ["roles/bigquery.dataEditor", "roles/bigquery.jobUser"]),
        (DefaultCredentialsError("none"), "lake-42", ["project lake-42", "gcloud auth application-default"]),
        (api_error(exceptions.BadRequest), NAME, ["lake-42.photos.rows: it said so"]),
    ],
)
def test_errors_name_the_place_and_the_remedy(error, what, said):
    found = str(clients.explain(error, what))
    assert all(each in found for each in said), found
