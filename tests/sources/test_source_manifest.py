import csv
import datetime
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import Reason, UsageError, VisionError
from beam_vision.sources.files import normalise_uri
from beam_vision.sources.labels import check_labels
from beam_vision.sources.manifest import check_header, read_manifest
from beam_vision.types import Box, BoxFrame, Failure, ImageRef


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def read(path, **options):
    return list(read_manifest(path, path.rpartition(".")[2].replace("ndjson", "jsonl"), **options))


def failures(found):
    return {f.key: f.detail for f in found if isinstance(f, Failure)}


def test_csv_with_all_columns(tmp_path):
    path = write(
        tmp_path,
        "m.csv",
        'URI,labels,split,boxes,"a,b",note\r\n'
        'cat/1.jpg,cat|pet,train,"[{""xmin"":1,""ymin"":2,""xmax"":3,""ymax"":4.5,""label"":""cat""}]",x,\r\n'
        '"with, comma.jpg",,,,"two\r\nlines","says ""hi"""\r\n'
        "\r\n"
        "gs://b/3.jpg, dog ,test,,,\r\n",
    )
    assert read(path) == [
        ImageRef(
            key=f"{tmp_path}/cat/1.jpg",
            uri=f"{tmp_path}/cat/1.jpg",
            labels=("cat", "pet"),
            split="train",
            boxes=(Box(1.0, 2.0, 3.0, 4.5, "cat"),),
            attributes={"a,b": "x", "note": ""},
        ),
        ImageRef(
            key=f"{tmp_path}/with, comma.jpg",
            uri=f"{tmp_path}/with, comma.jpg",
            attributes={"a,b": "two\r\nlines", "note": 'says "hi"'},
        ),
        ImageRef("gs://b/3.jpg", "gs://b/3.jpg", ("dog",), "test", (), {"a,b": "", "note": ""}),
    ]


@pytest.mark.parametrize(
    "column", ["uri", "image", "path", "image_path", "filename", "file_name", "File_Name"]
)
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_csv_names_for_the_uri_with_and_without_a_byte_order_mark(tmp_path, column, mark):
    path = write(tmp_path, "m.csv", mark + f" {column} ,label\n1.jpg,é".encode())
    assert read(path) == [ImageRef(f"{tmp_path}/1.jpg", f"{tmp_path}/1.jpg", ("é",))]


def test_a_bad_row_of_csv_is_one_failure_with_its_place(tmp_path):
    path = write(
        tmp_path,
        "m.csv",
        b"uri,label\n1.jpg,a\n\n2.jpg,b,c\nonly\n,d\n  ,e\n\xff.jpg,f\n"
        b'"x"y,g\n"two\nlines.jpg",h\nlast.jpg,i\n"never closed,j\nswallowed.jpg,k\n',
    )
    found = read(path)
    assert [f.uri.rpartition("/")[2] for f in found if isinstance(f, ImageRef)] == [
        "1.jpg",
        "two\nlines.jpg",
        "last.jpg",
    ]
    bad = failures(found)
    assert list(bad) == [f"m.csv#{line}" for line in (4, 5, 6, 7, 8, 9, 13)]
    assert bad["m.csv#4"] == f"{path}:4: 3 columns, but the header has 2"
    assert "its uri is empty" in bad["m.csv#6"]
    assert "UTF-8" in bad["m.csv#8"]
    assert "line 14" in bad["m.csv#13"]
    assert {f.reason for f in found if isinstance(f, Failure)} == {"bad_manifest_row"}
    assert {f.stage for f in found if isinstance(f, Failure)} == {"source"}


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)


@given(st.lists(st.tuples(CELL, CELL, CELL), max_size=8))
def test_any_cells_survive_csv(tmp_path_factory, rows):
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["uri", "label", "note"])
    writer.writerows(rows)
    path = write(tmp_path_factory.mktemp("m"), "m.csv", text.getvalue())
    found = read(path, root="gs://b/x")
    expected = [row for row in rows if row[0].strip()]
    assert len(found) == len(rows)
    good = [f for f in found if isinstance(f, ImageRef)]
    assert [f.attributes["note"] for f in good] == [note for _, _, note in expected]
    for ref, (uri, label, _) in zip(good, expected, strict=True):
        assert ref.uri == normalise_uri(uri, "gs://b/x")
        assert set(ref.labels) == {part.strip() for part in label.split("|")} - {""}


def test_jsonl(tmp_path):
    rows = [
        {
            "image": "1.jpg",
            "labels": ["a|b", "c", "c"],
            "n": 3,
            "x": 0.5,
            "none": None,
            "yes": True,
            "l": [1, "é"],
        },
        {"uri": "/2.jpg", "label": "a|b", "split": "", "attributes": {"n": 4, "gone": None}, "n": 5},
        {"uri": "3.jpg", "label": 7, "boxes": [{"xmin": 0, "ymin": 0, "xmax": 1, "ymax": 1}, *[]]},
    ]
    text = "\n".join([json.dumps(rows[0]), "", json.dumps(rows[1]), json.dumps(rows[2])])
    path = write(tmp_path, "m.ndjson", "\ufeff" + text)
    one, two, three = read(path, root="/lake")
    assert one.uri == "/lake/1.jpg"
    assert one.labels == ("a|b", "c")
    assert one.attributes == {"n": "3", "x": "0.5", "yes": "true", "l": '[1, "é"]'}
    assert (two.uri, two.labels, two.split, two.attributes) == ("/2.jpg", ("a", "b"), None, {"n": "4"})
    assert (three.labels, three.boxes) == (("7",), (Box(0.0, 0.0, 1.0, 1.0),))


BAD_ROWS = [
    ("{", "not JSON"),
    ("[1]", "list, not a JSON object"),
    ("{}", "no column 'uri'"),
    ('{"uri": null}', "no uri"),
    ('{"uri": " "}', "empty"),
    ('{"uri": 5}', "not a text"),
    ('{"uri": "a", "URI": "b"}', "two columns for the uri"),
    ('{"uri": "a", "label": "x", "labels": ["y"]}', "two columns for the labels"),
    ('{"uri": "\\ud800"}', "UTF-8"),
    ('{"uri": "a", "x": "\\udfff"}', "UTF-8"),
    ('{"uri": "a", "boxes": 5}', "not a list"),
    ('{"uri": "a", "boxes": "["}', "boxes are not JSON"),
    ('{"uri": "a", "attributes": 5}', "not an object"),
    ('{"uri": "a", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", ""),
]


@pytest.mark.parametrize(("row", "detail"), BAD_ROWS, ids=[detail or "deep" for _, detail in BAD_ROWS])
def test_a_bad_row_of_jsonl_is_one_failure(tmp_path, row, detail):
    path = write(tmp_path, "m.jsonl", f'{{"uri": "good.jpg"}}\n{row}\n{{"uri": "also.jpg"}}\n')
    found = read(path)
    assert [type(f) for f in found] == [ImageRef, Failure, ImageRef]
    assert (found[1].key, found[1].reason) == ("m.jsonl#2", "bad_manifest_row")
    assert detail in found[1].detail
    assert found[1].detail.startswith(f"{path}:2: ")


def box(**members):
    return {"xmin": 1, "ymin": 1, "xmax": 3, "ymax": 4, **members}


BAD_BOXES = [
    (5, "5 is not an object"),
    ({"xmin": 1, "ymin": 1, "xmax": 2}, "its ymax is missing"),
    (box(xmax=0.5), "(1, 1, 0.5, 4) are inverted"),
    (box(ymax=1), "hold no area"),
    (box(xmin=float("nan")), "xmin is nan, not a finite number"),
    (box(xmax="wide"), "xmax is 'wide'"),
    (box(xmax=10**400), "not a finite number"),
    (box(xmax=1e30), "corners"),
    (box(xmax=True), "xmax is True"),
    (box(label="\ud800"), "UTF-8"),
    (box(crowd="perhaps"), "crowd is 'perhaps', not 0 or 1"),
]


@pytest.mark.parametrize(("bad", "detail"), BAD_BOXES, ids=[detail for _, detail in BAD_BOXES])
def test_a_bad_box_is_a_fault_and_its_image_goes_on(tmp_path, bad, detail):
    row = {"uri": "a.jpg", "boxes": [box(label="cat"), bad, box(xmax="3.5")]}
    path = write(tmp_path, "m.jsonl", '{"uri": "good.jpg"}\n' + json.dumps(row))
    _, ref = read(path)
    assert ref.boxes == (Box(1.0, 1.0, 3.0, 4.0, "cat"), Box(1.0, 1.0, 3.5, 4.0))
    (fault,) = ref.faults
    assert (fault.place, fault.reason) == ("m.jsonl:2: box 2", "bad_box")
    assert detail in fault.detail


def test_a_crowd_an_area_and_what_boxes_are_on(tmp_path):
    boxes = [box(crowd=True, area=5.5), box(iscrowd=1, area_px=2), box(crowd=0, area="?"), box(iscrowd="0")]
    path = write(tmp_path, "m.jsonl", json.dumps({"uri": "a.jpg", "boxes": boxes}))
    (ref,) = read(path)
    assert [(b.crowd, b.area_px) for b in ref.boxes] == [(True, 5.5), (True, 2.0), (False, 0.0), (False, 0.0)]
    assert (ref.frame, ref.faults) == (BoxFrame("upright"), ())
    assert next(iter(read(path, boxes_on="stored"))).frame == BoxFrame("stored")


def test_jsonl_that_is_not_utf8(tmp_path):
    path = write(tmp_path, "m.jsonl", b'{"uri": "a\xff"}\n{"uri": "b"}')
    assert [type(f) for f in read(path)] == [Failure, ImageRef]


def test_parquet_with_typed_columns(tmp_path):
    box = {"xmin": 1.0, "ymin": 2.0, "xmax": 3.0, "ymax": 4.0, "label": "cat"}
    table = pa.table(
        {
            "uri": ["a.jpg", None, "c.jpg"] * 700,
            "labels": [["cat", "pet"], [], None] * 700,
            "split": pa.array(["train", "", None] * 700).dictionary_encode(),
            "boxes": [[box], [], None] * 700,
            "n": [1, 2, None] * 700,
            "score": pa.array([0.5, 1.0, float("nan")] * 700),
            "day": [datetime.date(2024, 1, 2)] * 2100,
            "attributes": pa.array([[("k", "v")], [], None] * 700, pa.map_(pa.string(), pa.string())),
        }
    )
    path = str(tmp_path / "m.parquet")
    pq.write_table(table, path, row_group_size=512)
    found = read(path)
    assert len(found) == 2100
    assert found[0] == ImageRef(
        key=f"{tmp_path}/a.jpg",
        uri=f"{tmp_path}/a.jpg",
        labels=("cat", "pet"),
        split="train",
        boxes=(Box(1.0, 2.0, 3.0, 4.0, "cat"),),
        attributes={"n": "1", "score": "0.5", "day": "2024-01-02", "k": "v"},
    )
    assert found[-1].attributes == {"score": "NaN", "day": "2024-01-02"}
    assert (found[-1].labels, found[-1].split, found[-1].boxes) == ((), None, ())
    assert list(failures(found)) == [f"m.parquet#{row}" for row in range(2, 2100, 3)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("m.csv", "", "empty"),
        ("m.csv", "url;label\n", "no column 'uri'.*found are 'url;label'"),
        ("m.csv", "uri,label,label\n", "two columns for the labels"),
        ("m.csv", "uri,x,x\n", "'x', 'x'"),
        ("m.csv", "uri,label,labels\n", "labels"),
        ("m.csv", "uri,label\n".encode("utf-16"), "UTF-8"),
        ("m.jsonl", "\n\n", "empty"),
        ("m.jsonl", '{"url": 1}\n' * 30, "found are 'url'.*none of the first 20"),
        ("m.jsonl", "not json", "not JSON"),
        ("m.parquet", "not parquet", "not a Parquet file"),
    ],
)
def test_a_header_that_cannot_be_used(tmp_path, name, content, message):
    path = write(tmp_path, name, content)
    with pytest.raises(UsageError, match=message) as caught:
        check_header(path, name.partition(".")[2])
    assert path in str(caught.value)


def test_a_first_row_that_is_bad_does_not_condemn_the_rest(tmp_path):
    path = write(tmp_path, "m.jsonl", 'oops\n{"url": 1}\n{"uri": "a"}\n')
    check_header(path, "jsonl")
    assert [type(f) for f in read(path)] == [Failure, Failure, ImageRef]


def test_a_parquet_file_without_a_uri_is_refused(tmp_path):
    pq.write_table(pa.table({"url": ["a"], "label": ["b"]}), tmp_path / "m.parquet")
    with pytest.raises(UsageError, match="found are 'url', 'label'"):
        check_header(str(tmp_path / "m.parquet"), "parquet")


@pytest.mark.parametrize(
    ("labels", "detail"),
    [
        (["cta"], "label 'cta' is no known class; the nearest is 'cat'"),
        (["Dog"], "nearest is 'dog'"),
        (["cat", "dgo"], "label 'dgo'"),
        (["zzzzz"], "known are 'cat', 'dog'"),
    ],
)
def test_an_unknown_label_is_told_with_the_nearest(labels, detail):
    with pytest.raises(VisionError, match=detail) as caught:
        check_labels(labels, ("cat", "dog"))
    assert caught.value.reason is Reason.UNKNOWN_LABEL


def test_known_labels_pass():
    check_labels(["cat", "dog"], ("cat", "dog"))
    check_labels([], ("cat",))
    check_labels(["anything"], ())
