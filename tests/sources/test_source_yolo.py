import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.sources.listing import Skipped
from beam_vision.sources.pairs import Pair, split_name
from beam_vision.sources.yolo import Classes, check_yolo, is_yolo_root, list_pairs, read_classes, read_pair
from beam_vision.types import Box, BoxFrame, Failure, ImageRef

LINE = b"0 0.5 0.5 0.25 0.5\n"
YAML = b"path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"


def pairs(path, root=""):
    return [item for item in list_pairs(path, root) if not isinstance(item, Skipped)]


def refs(path, root="", **options):
    classes = read_classes(path)
    found = (
        read_pair(item, classes, **options) if isinstance(item, Pair) else item for item in pairs(path, root)
    )
    return {item.key: item for item in found}


LAYOUTS = {
    "plain": (
        {"images/a.jpg": b"", "labels/a.txt": LINE, "images/b.jpg": b""},
        {"images/a.jpg": None, "images/b.jpg": None},
    ),
    "splits below": (
        {
            "images/train2017/s/a.jpg": b"",
            "labels/train2017/s/a.txt": LINE,
            "images/val/b.jpg": b"",
            "labels/a.cache": b"",
        },
        {"images/train2017/s/a.jpg": "train", "images/val/b.jpg": "validation"},
    ),
    "splits above": (
        {
            "train/images/a.jpg": b"",
            "train/labels/a.txt": LINE,
            "valid/images/b.x.png": b"",
            "test/images/c.jpg": b"",
        },
        {"train/images/a.jpg": "train", "valid/images/b.x.png": "validation", "test/images/c.jpg": "test"},
    ),
    "side by side": (
        {"a.jpg": b"", "a.txt": LINE, "s/b.jpg": b"", "obj.names": b""},
        {"a.jpg": None, "s/b.jpg": None},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, make_files, layout):
    files, expected = LAYOUTS[layout]
    root = make_files(tmp_path / "images" / "lake", files)
    check_yolo(root)
    found = refs(root)
    assert {key.removeprefix(f"{root}/"): ref.split for key, ref in found.items()} == expected
    boxes = {key.rpartition("/")[2]: ref.boxes for key, ref in found.items()}
    assert boxes.pop("a.jpg") == (Box(0.375, 0.25, 0.625, 0.75, "0"),)
    assert not any(boxes.values())


def test_a_ref_has_all_that_is_known(tmp_path, make_files):
    root = make_files(tmp_path, {"images/val/a.jpg": b"", "labels/val/a.txt": LINE, "data.yaml": YAML})
    assert refs(root)[f"{root}/images/val/a.jpg"] == ImageRef(
        key=f"{root}/images/val/a.jpg",
        uri=f"{root}/images/val/a.jpg",
        split="validation",
        boxes=(Box(0.375, 0.25, 0.625, 0.75, "cat"),),
        frame=BoxFrame("auto", relative=True),
    )
    (ref,) = refs(root, boxes_on="upright").values()
    assert ref.frame == BoxFrame("upright", relative=True)


def test_by_its_yaml(tmp_path, make_files):
    files = {
        "d/images/train/a.jpg": b"",
        "d/labels/train/a.txt": LINE,
        "d/images/val/b.jpg": b"",
        "d/images/unused/c.jpg": b"",
        "cfg/data.yaml": YAML.replace(b"path: .", b"path: ../d"),
    }
    root = make_files(tmp_path, files)
    check_yolo(f"{root}/cfg/data.yaml")
    found = refs(f"{root}/cfg/data.yaml")
    assert {
        key.removeprefix(f"{root}/d/images/"): (ref.split, len(ref.boxes)) for key, ref in found.items()
    } == {
        "train/a.jpg": ("train", 1),
        "val/b.jpg": ("validation", 0),
    }
    make_files(tmp_path, {"cfg/data.yaml": YAML})
    with pytest.raises(UsageError, match=f"{root}/cfg/images/train.*--image_root"):
        check_yolo(f"{root}/cfg/data.yaml")
    assert refs(f"{root}/cfg/data.yaml", f"{root}/d") == found


def test_a_yaml_with_lists_with_a_folder_twice_and_one_that_is_gone(tmp_path, make_files):
    yaml = "train: [../train/images, list.txt, gone]\nval: train/images\nnames: [cat]\n"
    root = make_files(
        tmp_path,
        {
            "data.yaml": yaml.encode(),
            "train/images/a.jpg": b"",
            "train/labels/a.txt": LINE,
            "x/images/b.jpg": b"",
            "x/labels/b.txt": LINE,
            "list.txt": b"./x/images/b.jpg\r\n\nx/images/c.jpg\n",
        },
    )
    found = refs(f"{root}/data.yaml")
    gone = found.pop(f"{root}/gone")
    assert (gone.reason, gone.uri) == ("not_found", f"{root}/gone")
    assert {key.removeprefix(root): (ref.split, len(ref.boxes)) for key, ref in found.items()} == {
        "/train/images/a.jpg": ("validation", 1),  # what is held out stays so
        "/x/images/b.jpg": ("train", 1),
        "/x/images/c.jpg": ("train", 0),
    }


NAMES = [
    (b"names: [cat, dog]", {0: "cat", 1: "dog"}),
    (b"names: {3: cat, '07': yes, 1: 5}", {3: "cat", 7: "yes", 1: "5"}),
    (b"names:\n- off\n- null", {0: "off", 1: "null"}),
    (b"nc: 2", None),
    (b"names: []", None),
]


@pytest.mark.parametrize(("yaml", "names"), NAMES)
def test_names_of_classes(tmp_path, make_files, yaml, names):
    root = make_files(tmp_path, {"data.yaml": yaml})
    assert read_classes(root) == read_classes(f"{root}/data.yaml") == Classes(names)


@pytest.mark.parametrize("name", ["classes.txt", "labels/classes.txt"])
def test_names_of_classes_in_a_text(tmp_path, make_files, name):
    root = make_files(tmp_path, {name: "\ufeffcat\r\ngroßer hund\n\n".encode()})
    assert read_classes(root).names == {0: "cat", 1: "großer hund"}


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        (b"names: [cat\nval: x", r"data.yaml:2:4: not YAML"),
        (b"names: \xff", "not YAML"),
        (b"- a", "no data.yaml"),
        (b"names: cats.txt", "neither a list nor a mapping"),
        (b"names: {cat: 0}", "neither a list nor a mapping"),
        (b"names: [[a], b]", "name of class 0 is no text"),
        (b"names: &a [*a]", "data.yaml:1:8: not YAML"),
        (b"x: !!python/object/apply:os.system ['true']\nnames: 5", "neither"),
        (b"[" * 1_000, "not YAML"),
        (b"#" * 2**21, "bytes"),
    ],
)
def test_a_broken_yaml_is_refused(tmp_path, make_files, yaml, message):
    root = make_files(tmp_path, {"data.yaml": yaml})
    for path in (root, f"{root}/data.yaml"):
        with pytest.raises(UsageError, match=message):
            read_classes(path)


def read_lines(tmp_path, make_files, text, **classes):
    root = make_files(tmp_path, {"a.jpg": b"", "a.txt": text})
    return read_pair(Pair(f"{root}/a.jpg", f"{root}/a.txt"), Classes({0: "cat", 1: "dog"}, **classes))


def test_a_polygon_and_key_points_are_their_box(tmp_path, make_files):
    ref = read_lines(tmp_path, make_files, b"\xef\xbb\xbf1 0.1 0.2 0.5 0.1 0.3 0.9\r\n\r\n0.0 0.5 0.5 1 1")
    assert ref.boxes == (Box(0.1, 0.1, 0.5, 0.9, "dog"), Box(0, 0, 1, 1, "cat"))
    ref = read_lines(tmp_path, make_files, b"1 0.5 0.5 1 1 0.1 0.1 2 0.2 0.2 2\n", keypoints=True)
    assert ref.boxes == (Box(0, 0, 1, 1, "dog"),)


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        (b"0 0.5 0.5 0.1", "bad_box", "4 numbers"),
        (b"0 0.5 0.5 0.1 0.1 0.9", "bad_box", "6 numbers are neither"),
        (b"0 0 0 1 1 0 1 0", "bad_box", "8 numbers are neither"),
        (b"0 0.5 0.5 0 0.1", "bad_box", "hold no area"),
        (b"0 0.5 0.5 -1 0.1", "bad_box", "hold no area"),
        (b"0 nan 0.5 1 0.1", "bad_box", "'nan', not a finite number"),
        (b"0 0 0 1 nan 0 1", "bad_box", "'nan'"),
        (b"cat 0.5 0.5 1 0.1", "bad_box", "'cat', not a finite number"),
        (b"0.5 0.5 0.5 1 0.1", "bad_box", "class 0.5"),
        (b"0 \xff 0.5 1 0.1", "bad_box", "not a finite number"),
        (
            b"2 0.5 0.5 1 0.1",
            "unknown_category",
            "class 2 is none of the dataset's; known are 0 'cat', 1 'dog'",
        ),
        (b"-1 0.5 0.5 1 0.1", "unknown_category", "class -1"),
    ],
)
def test_a_bad_line_is_a_fault_with_its_place(tmp_path, make_files, line, reason, detail):
    ref = read_lines(tmp_path, make_files, LINE + b"\n" + line + b"\n" + LINE)
    assert len(ref.boxes) == 2
    (fault,) = ref.faults
    assert (fault.place, fault.reason) == ("a.txt:3", reason)
    assert detail in fault.detail


def test_a_text_that_cannot_be_read_is_a_failure_of_its_image(tmp_path, make_files):
    root = make_files(tmp_path, {"a.jpg": b"", "a.txt/x": b""})
    failure = read_pair(Pair(f"{root}/a.jpg", f"{root}/a.txt"), Classes())
    assert isinstance(failure, Failure)
    assert (failure.key, failure.reason) == (f"{root}/a.jpg", "not_an_image")


def test_what_is_a_yolo_dataset_beyond_doubt(tmp_path, make_files):
    kinds = {
        "yolo": ({"images/a.jpg": b"", "labels/a.txt": b"", "labels/a.cache": b""}, True),
        "yaml": ({"train/images/a.jpg": b"", "data.yaml": YAML}, True),
        "classes": ({"images/a.jpg": b"", "labels/b.jpg": b"", "labels/a.txt": b""}, False),
        "no-texts": ({"images/a.jpg": b"", "labels/x.md": b""}, False),
        "other-yaml": ({"cat/a.jpg": b"", "data.yaml": b"version: 3"}, False),
        "broken-yaml": ({"cat/a.jpg": b"", "data.yaml": b"["}, False),
        "lake": ({"cat/a.jpg": b""}, False),
    }
    for name, (files, expected) in kinds.items():
        assert is_yolo_root(make_files(tmp_path / name, files)) is expected, name


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("Val2017", "validation"),
        ("valid", "validation"),
        ("test", "test"),
        ("training", None),
    ],
)
def test_names_of_splits(name, split):
    assert split_name(name) == split


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["0", "1", "0.5", "nan", "-1", "1e400", "\n", "x"])).map(" ".join)
)
def test_each_line_is_a_box_or_a_fault(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("yolo")
    (folder / "a.txt").write_bytes(text.encode())
    ref = read_pair(Pair("a.jpg", f"{folder}/a.txt"), Classes({0: "cat"}))
    lines = [line for line in text.removeprefix("\ufeff").split("\n") if line.strip()]
    assert len(ref.boxes) + len(ref.faults) == len(lines)
