"""Results as text, JSON and CSV."""

import csv
import datetime
import decimal
import io
import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.search import render

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.dates()
    | st.timedeltas(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.integers(), inner, max_size=4),
    max_leaves=8,
)


@given(st.lists(st.dictionaries(st.text(max_size=4), VALUES, max_size=4), max_size=4))
def test_json_is_always_valid(objects):
    def refuse(constant):
        raise AssertionError(constant)

    text = "".join(render.json_array(objects))
    assert len(json.loads(text, parse_constant=refuse)) == len(objects)
    assert len(text.splitlines()) >= len(objects)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        (float("-inf"), None),
        (decimal.Decimal("1.5"), 1.5),
        ((1, 2.5, None), [1, 2.5, None]),
        ({"a": float("nan"), 2: b"\x00\xff"}, {"a": None, "2": "AP8="}),
        (datetime.date(2024, 2, 29), "2024-02-29"),
        (datetime.datetime(2024, 2, 29, 12, 30), "2024-02-29T12:30:00"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (2**100, 2**100),
    ],
)
def test_json_values(value, expected):
    assert render.json_value(value) == expected


@given(st.lists(st.tuples(VALUES, VALUES), max_size=4))
def test_a_table_is_aligned_whatever_it_holds(rows):
    lines = render.text_table(["one", "другой"], rows).split("\n")
    assert len(lines) == len(rows) + 2
    rule = lines[1]
    assert set(rule) <= {"─", " "}
    for line in (lines[0], *lines[2:]):
        assert render.width(line) <= render.width(rule)


def test_a_table_as_it_is_printed():
    text = render.text_table(
        ["key", "n", "embedding", "map"],
        [
            ["写真.jpg", 12, [0.125] * 512, {"camera": "a"}],
            ["a\nb", None, None, {}],
            ["é", 3.5, [1, None], None],
        ],
    )
    assert text.split("\n") == [
        "key          n  embedding                            map",
        "────────  ────  ───────────────────────────────────  ───────────",
        "写真.jpg    12  [0.125, 0.125, 0.125, 0.125, … 512]  {camera: a}",
        "a\\nb      NULL  NULL                                 {}",
        "é          3.5  [1, NULL]                            NULL",
    ]


def test_no_rows_leave_the_head():
    assert render.text_table(["a", "bc"], []) == "a  bc\n─  ──"


@given(st.text(), st.integers(4, 80))
def test_shortened_text_fits_and_keeps_both_ends(text, widest):
    short = render.shortened(text, widest)
    assert render.width(short) <= widest
    if short != text:
        head, _, tail = short.partition("…")
        assert text.startswith(head)
        assert text.endswith(tail)


def test_csv_reads_back():
    rows = [
        ["key", "n"],
        ['a "quoted", one', 1],
        ["two\nlines", None],
        [[1, 2], {"a": None}],
        [float("nan"), True],
    ]
    read = list(csv.reader(io.StringIO("".join(render.csv_lines(rows)))))
    assert read == [
        ["key", "n"],
        ['a "quoted", one', "1"],
        ["two\nlines", ""],
        ["[1, 2]", '{"a": null}'],
        ["nan", "true"],
    ]
