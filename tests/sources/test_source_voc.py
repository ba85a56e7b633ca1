import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError, VisionError
from beam_vision.sources.listing import Skipped
from beam_vision.sources.pairs import MAX_ANNOTATION_BYTES, Pair
from beam_vision.sources.voc import find_layout, list_pairs, parse_xml, read_pair
from beam_vision.types import Box, BoxFrame, Failure, ImageRef

OBJECT = """<object>
  <name> {name} </name><difficult>{difficult}</difficult>
  <part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>
  <bndbox><xmin>{xmin}</xmin><ymin>{ymin}</ymin><xmax>{xmax}</xmax><ymax>{ymax}</ymax></bndbox>
</object>
"""


def thing(name="cat", difficult=0, xmin=1, ymin=2, xmax=3, ymax=4):
    return OBJECT.format(name=name, difficult=difficult, xmin=xmin, ymin=ymin, xmax=xmax, ymax=ymax)


def document(*objects, filename="x.jpg", size="<size><width>60</width><height>40</height></size>"):
    return f"<annotation>\n<filename>{filename}</filename>{size}\n{''.join(objects)}</annotation>".encode()


def pairs(root, image_root=""):
    return list(list_pairs(find_layout(root, image_root)))


def refs(root, **options):
    return [read_pair(pair, **options) for pair in pairs(root) if isinstance(pair, Pair)]


def test_corners_from_one_become_continuous_and_difficult_a_crowd(tmp_path, make_files):
    root = make_files(
        tmp_path, {"a.jpg": b"", "a.xml": document(thing(), thing("dog", 1, 1, 1, 60, 40), thing(xmax=1.5))}
    )
    (ref,) = refs(root)
    assert ref == ImageRef(
        key=f"{root}/a.jpg",
        uri=f"{root}/a.jpg",
        boxes=(Box(0, 1, 3, 4, "cat"), Box(0, 0, 60, 40, "dog", crowd=True), Box(0, 1, 1.5, 4, "cat")),
        frame=BoxFrame("auto", False, 60, 40),
    )
    assert refs(root, boxes_on="upright")[0].frame == BoxFrame("upright", False, 60, 40)


def test_a_single_pixel_is_a_box(tmp_path, make_files):
    (ref,) = refs(make_files(tmp_path, {"a.jpg": b"", "a.xml": document(thing("c", 0, 5, 6, 5, 6), size="")}))
    assert (ref.boxes, ref.frame) == ((Box(4, 5, 5, 6, "c"),), BoxFrame("auto"))


def test_a_root_with_sets(tmp_path, make_files):
    names = ["a", "b", "sub/c", "d"]
    root = make_files(
        tmp_path,
        {f"Annotations/{name}.xml": document() for name in names}
        | {f"JPEGImages/{name}.jpg": b"" for name in names}
        | {
            "ImageSets/Main/train.txt": b"a\nb\n\n",
            "ImageSets/Main/val.txt": b"b\r\nsub/c\r\n",
            "ImageSets/Main/trainval.txt": b"a\nb\nsub/c\nd",
            "ImageSets/Main/cat_test.txt": b"a -1\nd  1\n",
            "SegmentationClass/a.png": b"",
        },
    )
    found = {ref.uri.removeprefix(f"{root}/JPEGImages/"): ref.split for ref in refs(root)}
    assert found == {"a.jpg": "train", "b.jpg": "validation", "sub/c.jpg": "validation", "d.jpg": None}
    assert len(pairs(root)) == 4


def test_which_image_a_file_belongs_to(tmp_path, make_files):
    root = make_files(
        tmp_path,
        {
            "x/a.xml": document(filename="other.jpg"),
            "x/a.png": b"",
            "x/renamed.xml": document(filename="C:\\photos\\b.jpg"),
            "x/b.JPG": b"",
            "x/evil.xml": document(filename="../../etc/passwd"),
            "x/none.xml": document(filename=""),
            "x/not-annotated.jpg": b"",
            "x/._a.xml": b"",
            "x/two.gif": b"",
            "x/two.jpg": b"",
            "x/two.xml": document(),
        },
    )
    found = {read_pair(p).uri if isinstance(p, Pair) else p for p in pairs(root)}
    skipped = ("._a.xml", "b.JPG", "not-annotated.jpg", "two.jpg")
    assert found == {f"{root}/x/{name}" for name in ("a.png", "b.jpg", "passwd", "none.xml", "two.gif")} | {
        Skipped(f"{root}/x/{name}") for name in skipped
    }


def test_images_elsewhere(tmp_path, make_files):
    make_files(tmp_path, {"xml/s/a.xml": document(), "photos/s/a.jpg": b"", "photos/s/a.xml": b""})
    (pair,) = [p for p in pairs(f"{tmp_path}/xml", f"{tmp_path}/photos") if isinstance(p, Pair)]
    assert pair == Pair(f"{tmp_path}/photos/s/a.jpg", f"{tmp_path}/xml/s/a.xml")


@pytest.mark.parametrize(
    ("bad", "reason", "detail"),
    [
        (thing(xmin=4, xmax=3), "bad_box", "hold no area"),
        (thing(xmin=9), "bad_box", "inverted"),
        (thing(ymin="two"), "bad_box", "ymin is 'two'"),
        (thing(ymax="nan"), "bad_box", "ymax is 'nan'"),
        (thing(difficult="very"), "bad_box", "difficult is 'very'"),
        (thing(name=""), "unknown_category", "no <name>"),
        ("<object><name>a</name></object>", "bad_box", "no <bndbox>"),
        ("<object><name>a</name><bndbox/></object>", "bad_box", "xmin is missing"),
    ],
)
def test_a_bad_object_is_a_fault_with_its_line(tmp_path, make_files, bad, reason, detail):
    root = make_files(tmp_path, {"a.jpg": b"", "a.xml": document(thing(), bad, thing())})
    (ref,) = refs(root)
    assert len(ref.boxes) == 2
    (fault,) = ref.faults
    assert (fault.place, fault.reason) == ("a.xml:8", reason)
    assert detail in fault.detail


LAUGHS = b'<!DOCTYPE l [<!ENTITY a "ha">' + b"".join(
    f'<!ENTITY {b} "{f"&{a};" * 10}">'.encode() for a, b in zip("abcdefghi", "bcdefghij", strict=True)
)
BROKEN = [
    (b"", "a.xml:1:1: no element found"),
    (b"<annotation>\n  <object></annotation>", "a.xml:2:13: mismatched tag"),
    (b"<annotation/>\n<annotation/>", "a.xml:2:1: junk"),
    (b"<annotation>\xff</annotation>", "a.xml:1:13: not well-formed"),
    (b"<annotation>&other;</annotation>", "a.xml:1:13: undefined entity"),
    (b'<?xml version="1.0" encoding="no-such"?><annotation/>', "a.xml:1:"),
    (b"\n<!DOCTYPE annotation><annotation/>", "a.xml:"),
    (LAUGHS + b"]><annotation>&j;</annotation>", "a.xml:1:13: it has a DOCTYPE: refused"),
    ((LAUGHS + b"]><annotation>&j;</annotation>").decode().encode("utf-16"), "DOCTYPE"),
    (b'<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation>&e;</annotation>', "DOCTYPE"),
    (b"<html/>", "a.xml: its root is <html>, not <annotation>"),
    (b"<a>" * 50_000, "no element found"),
    (b" " * (MAX_ANNOTATION_BYTES + 1), "more than the"),
]


@pytest.mark.parametrize(("data", "detail"), BROKEN, ids=[detail for _, detail in BROKEN])
def test_a_broken_file_is_a_failure_of_its_image(tmp_path, make_files, data, detail):
    root = make_files(tmp_path, {"a.jpg": b"", "a.xml": data})
    (failure,) = refs(root)
    assert isinstance(failure, Failure)
    assert (failure.key, failure.stage) == (f"{root}/a.jpg", "source")
    assert detail in failure.detail
    assert "/etc/passwd" not in failure.detail


def test_a_broken_file_without_an_image_goes_by_its_own_name(tmp_path, make_files):
    root = make_files(tmp_path, {"a.xml": b"<"})
    assert [failure.key for failure in refs(root)] == [f"{root}/a.xml"]


def test_a_folder_without_xml_is_refused(tmp_path, make_files):
    with pytest.raises(UsageError, match=r"holds no .xml file.*JPEGImages"):
        find_layout(make_files(tmp_path, {"a.jpg": b"", ".a.xml": b""}))


@given(
    st.binary(max_size=60)
    | st.lists(st.sampled_from([b"<a>", b"</a>", b"<!DOCTYPE a>", b"&", b"x"])).map(b"".join)
)
def test_any_bytes_are_xml_or_told_with_their_place(data):
    try:
        root, lines = parse_xml(data)
    except VisionError as error:
        told = error.detail
    else:
        told = f":{lines[root]}:1:"
    assert re.match(r":\d+:\d+: ?", told)
