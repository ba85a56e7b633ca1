import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.sources.coco import check_coco, load, read_coco
from beam_vision.types import Box, BoxFrame, Failure, ImageRef

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": "x", "name": "cat"}]


def image(key, name="", **members):
    return {"id": key, "file_name": name or f"{key}.jpg", **members}


def annotation(key, image_id=1, bbox=(1, 2, 3, 4), category_id=18, **members):
    bbox = list(bbox) if isinstance(bbox, tuple) else bbox
    return {"id": key, "image_id": image_id, "bbox": bbox, "category_id": category_id, **members}


def write(folder, images=None, annotations=None, categories=CATEGORIES, **members):
    content = {"images": [image(1)] if images is None else images, "categories": categories, **members}
    if annotations is not None:
        content["annotations"] = annotations
    path = folder / "instances.json"
    path.write_text(json.dumps(content))
    return str(path)


def read(*args, **options):
    return list(read_coco(*args, **options))


def test_images_with_their_boxes(tmp_path):
    path = write(
        tmp_path,
        [image(7, "a/7.jpg", width=640, height=480), image("s", "/abs/s.png"), image(9, "../9.jpg", width=5)],
        [
            annotation(3, 7, (1.5, 2, 10, 20.25), area=77.5),
            annotation(1, "s", (0, 0, 1, 1), "x", iscrowd=1),
            annotation(2, 7, (-5, 0, 700, 1), iscrowd=0),
        ],
    )
    seven, s, nine = read(path, root="/lake/x")
    assert seven == ImageRef(
        key="/lake/x/a/7.jpg",
        uri="/lake/x/a/7.jpg",
        boxes=(Box(1.5, 2, 11.5, 22.25, "dog", area_px=77.5), Box(-5, 0, 695, 1, "dog")),
        attributes={"image_id": "7"},
        frame=BoxFrame("auto", False, 640, 480),
    )
    assert (s.uri, s.boxes) == ("/abs/s.png", (Box(0, 0, 1, 1, "cat", crowd=True),))
    assert (nine.uri, nine.boxes, nine.frame) == ("/lake/9.jpg", (), BoxFrame("auto"))
    assert read(path, boxes_on="upright")[0].frame == BoxFrame("upright", False, 640, 480)
    assert read(path)[0].uri == f"{tmp_path}/a/7.jpg"


def test_a_test_set_has_images_without_boxes(tmp_path):
    assert [ref.boxes for ref in read(write(tmp_path, [image(1), image(2)]))] == [(), ()]


BAD = [
    ({"bbox": (1, 2, 0, 4)}, "bad_box", "holds no area"),
    ({"bbox": (1, 2, 3, -4)}, "bad_box", "[1, 2, 3, -4]"),
    ({"bbox": (1, 2, 3)}, "bad_box", "[x, y, width, height]"),
    ({"bbox": None}, "bad_box", "its bbox is None"),
    ({"bbox": {"x": 1}}, "bad_box", "[x, y, width, height]"),
    ({"bbox": ("a", 2, 3, 4)}, "bad_box", "its x is 'a', not a finite number"),
    ({"bbox": ("1", 2, 3, 4)}, "bad_box", "its x is '1'"),
    ({"bbox": (1, 2, float("nan"), 4)}, "bad_box", "its width is nan"),
    ({"bbox": (1, float("inf"), 3, 4)}, "bad_box", "its y is inf"),
    ({"bbox": (1, 2, 10**400, 4)}, "bad_box", "its width is 1000"),
    ({"bbox": (1e20, 2, 3, 4)}, "bad_box", "corners"),
    ({"bbox": (True, 2, 3, 4)}, "bad_box", "its x is True"),
    ({"iscrowd": 7}, "bad_box", "iscrowd is 7"),
    (
        {"category_id": 19},
        "unknown_category",
        "category_id 19 is none of the file's; known are 18 'dog', 'x' 'cat'",
    ),
    ({"category_id": None}, "unknown_category", "category_id None"),
    ({"category_id": [18]}, "unknown_category", "category_id [18]"),
]


@pytest.mark.parametrize(("members", "reason", "detail"), BAD, ids=[f"{m}"[:40] for m, _, _ in BAD])
def test_a_bad_annotation_is_a_fault_with_its_id(tmp_path, members, reason, detail):
    path = write(tmp_path, annotations=[annotation(4), annotation(17, **members), annotation(5)])
    (ref,) = read(path)
    assert len(ref.boxes) == 2
    (fault,) = ref.faults
    assert (fault.place, fault.reason) == ("instances.json: annotation 17", reason)
    assert detail in fault.detail.replace("x 'cat'", "'x' 'cat'")


def test_an_annotation_of_no_image_and_an_image_that_is_none_are_failures(tmp_path):
    path = write(
        tmp_path,
        [image(1), image(1, "again.jpg"), {"id": 2}, 5, {"file_name": "a"}, image(3, "\ud800")],
        [annotation(17, 99), annotation(None, {}), "x", annotation(8, 2), annotation(9)],
    )
    found = read(path)
    assert [ref.uri for ref in found if isinstance(ref, ImageRef)] == [f"{tmp_path}/1.jpg"]
    failed = {item.key: item for item in found if isinstance(item, Failure)}
    assert set(failed) == {
        f"instances.json#{place}"
        for place in (
            *("images[1]", "image 2", "images[3]", "images[4]", "image 3"),
            *("annotation 17", "annotations[1]", "annotations[2]"),
        )
    }
    assert len(found) == 9
    assert {(item.reason, item.stage, item.uri) for item in failed.values()} == {
        ("bad_manifest_row", "source", path)
    }
    assert "image_id 99 is not among" in failed["instances.json#annotation 17"].detail


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [],\n "categories": [}', r"instances.json:2:17: not JSON"),
        ("", "1:1: not JSON"),
        (b'{\n"\xff": 1}', r"instances.json:2: not UTF-8"),
        ("[" * 100_000, "not JSON that can be read"),
        ("[1]", "a list; it needs an object"),
        ('{"info": 1, "annotations": []}', "no 'images'; the members found are 'info', 'annotations'"),
        ('{"images": []}', "no 'categories'"),
        ('{"images": {}, "categories": []}', "'images' is an object, not a list"),
        ('{"images": [], "categories": [], "annotations": null}', "'annotations' is null"),
        ('{"images": [], "categories": [{"id": 1}]}', r"categories\[0\].*needs an id and a name"),
        ('{"images": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}', "'a' and for 'b'"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, message):
    path = tmp_path / "instances.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for refuse in (check_coco, read):
        with pytest.raises(UsageError, match=message):
            refuse(str(path))


def test_images_that_are_elsewhere_are_told_with_where_they_seem_to_be(tmp_path):
    for folder in ("annotations", "train2017/sub"):
        (tmp_path / folder).mkdir(parents=True)
    path = write(tmp_path / "annotations", [image(1, "gone.jpg"), image(2, "sub/2.jpg")])
    with pytest.raises(
        UsageError, match=f"none of its first 2.*{tmp_path}/annotations/gone.jpg.*--image_root"
    ):
        check_coco(path)
    (tmp_path / "train2017" / "gone.jpg").touch()
    with pytest.raises(UsageError, match=f"; {tmp_path}/train2017 has the first of them"):
        check_coco(path)
    check_coco(path, need_images=False)
    check_coco(path, f"{tmp_path}/train2017")
    (tmp_path / "annotations" / "sub").mkdir()
    (tmp_path / "annotations" / "sub" / "2.jpg").touch()
    check_coco(path)


def test_a_file_that_changed_is_checked_again(tmp_path):
    path = write(tmp_path, [])
    check_coco(path)
    (tmp_path / "instances.json").write_text("{")
    with pytest.raises(UsageError):
        check_coco(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 30) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = ("id", "image_id", "bbox", "category_id", "iscrowd", "area", "file_name", "width", "height", "name")
ENTRY = JSON | st.dictionaries(
    st.sampled_from(MEMBERS), JSON | st.sampled_from([1, [1, 2, 3, 4]]), max_size=8
)
ENTRIES = JSON | st.lists(ENTRY, max_size=4)


@given(
    JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(("images", "annotations", "categories"), ENTRIES))
)
def test_any_json_is_refused_or_read_and_nothing_is_lost(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("coco") / "c.json"
    path.write_text(json.dumps(content))
    try:
        found = read(str(path))
    except UsageError:
        return
    content = load(str(path))
    refs = [item for item in found if isinstance(item, ImageRef)]
    of_images = [item for item in found if item not in refs and "#image" in item.key]
    assert len(refs) + len(of_images) == len(content["images"])
    kept = sum(len(ref.boxes) + len(ref.faults) for ref in refs)
    assert kept + len(found) - len(refs) - len(of_images) <= len(content.get("annotations", []))
