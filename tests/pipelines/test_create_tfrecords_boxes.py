"""``create-tfrecords`` with boxes from end to end: what is written is what was annotated, turned upright."""

import hashlib
import io
import json

import numpy as np
import pytest
from PIL import Image

from beam_vision.pipelines import cli
from beam_vision.records.example import from_example
from beam_vision.records.manifest import read_manifest
from beam_vision.records.schema import build, from_text
from beam_vision.sinks.failures import read_failures
from beam_vision.testing.images import ORIENTATIONS, encode, photo, stored_for, turned
from beam_vision.tfrecord_io import Example, read_records

RED, BACKGROUND = (255, 0, 0), (20, 90, 160)
UPRIGHT = (48, 64)  # height, width
PATCH = (12, 8, 28, 36)  # xmin, ymin, xmax, ymax, all even: half the size has whole pixels too


@pytest.fixture
def create(tmp_path):
    """``create(images, *options)``: runs the job into ``out`` and gives its exit code."""

    def run(images, *options, output=tmp_path / "out"):
        argv = ["--images", images, "--output", output, "--summary", tmp_path / "summary.json", *options]
        return cli.main(["create-tfrecords", *map(str, argv)])

    return run


def summary_of(tmp_path):
    return json.loads((tmp_path / "summary.json").read_text())


def examples_in(folder):
    """Every example of a dataset, by the name of its image's file."""
    found = {}
    for shard in read_manifest(str(folder)).shards:
        with open(folder / shard, "rb") as file:
            for data in read_records(file):
                example = Example.FromString(data)
                found[from_example(example).uri.rpartition("/")[2]] = example
    return found


def values(example, name):
    feature = example.features.feature[name]
    return list(getattr(feature, feature.WhichOneof("kind")).value)


def dataset_files(folder):
    """Every file of a dataset but the manifest and the failures (which name the run), with its bytes."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.is_file() and path.name != "manifest.json"
    }


def patched():
    """An upright image with a red patch."""
    pixels = np.full((*UPRIGHT, 3), BACKGROUND, np.uint8)
    xmin, ymin, xmax, ymax = PATCH
    pixels[ymin:ymax, xmin:xmax] = RED
    return pixels


def is_red(pixels):
    """Which pixels are more of the patch than of the background."""
    return pixels[:, :, 0] > (RED[0] + BACKGROUND[0]) / 2


def where_red(pixels):
    """The box of the red pixels, as whole numbers."""
    rows, columns = np.where(is_red(pixels))
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


@pytest.fixture
def turned_lake(tmp_path):
    """An image for each EXIF orientation, and its box as it lies on the stored pixels, found by looking."""
    rows = []
    (tmp_path / "images").mkdir()
    for orientation in ORIENTATIONS:
        stored = stored_for(patched(), orientation)
        (tmp_path / "images" / f"{orientation}.png").write_bytes(turned(patched(), orientation, "png"))
        rows.append((f"{orientation}.png", stored.shape[:2], where_red(stored)))
    assert len({box for _, _, box in rows}) == 8, "each orientation has its box elsewhere"
    return rows


def as_jsonl(rows, folder):
    lines = []
    for name, _, (xmin, ymin, xmax, ymax) in rows:
        box = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax, "label": "patch"}
        lines.append(json.dumps({"uri": f"images/{name}", "boxes": [box]}))
    (folder / "images.jsonl").write_text("\n".join(lines))
    return folder / "images.jsonl", "--boxes_on", "stored"


def as_coco(rows, folder):
    images, annotations = [], []
    for number, (name, (height, width), (xmin, ymin, xmax, ymax)) in enumerate(rows, start=1):
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        box = [xmin, ymin, xmax - xmin, ymax - ymin]
        annotation = {"id": number, "image_id": number, "category_id": 7, "bbox": box, "iscrowd": 0}
        annotations.append({**annotation, "area": box[2] * box[3]})
    value = {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 7, "name": "patch"}],
    }
    (folder / "instances.json").write_text(json.dumps(value))
    return folder / "instances.json", "--image_root", folder / "images"


@pytest.mark.parametrize("encoding", [["passthrough"], ["png", "--max_side", "32"]])
@pytest.mark.parametrize("source", [as_jsonl, as_coco])
def test_boxes_on_stored_pixels_turn_with_them(create, turned_lake, tmp_path, source, encoding):
    """In all 8 EXIF orientations the pixels inside the written box are the patch, and no others."""
    assert create(*source(turned_lake, tmp_path), "--encode", *encoding) == 0
    examples = examples_in(tmp_path / "out")
    assert len(examples) == 8
    for name, example in examples.items():
        # a reader that knows of no EXIF
        pixels = np.asarray(Image.open(io.BytesIO(values(example, "image/encoded")[0])))
        height, width = pixels.shape[:2]
        assert (height, width) == ((24, 32) if "--max_side" in encoding else UPRIGHT), name
        corners = [values(example, f"image/object/bbox/{c}")[0] for c in ("xmin", "ymin", "xmax", "ymax")]
        xmin, ymin, xmax, ymax = (corners * np.array([width, height] * 2)).round(4)
        np.testing.assert_array_equal([xmin, ymin, xmax, ymax], where_red(pixels), err_msg=name)
        assert is_red(pixels)[int(ymin) : int(ymax), int(xmin) : int(xmax)].all(), name
        assert values(example, "image/object/area") == [(xmax - xmin) * (ymax - ymin)], name
        assert values(example, "image/object/class/text") == [b"patch"]
        assert values(example, "image/object/class/label") == [1]
    assert summary_of(tmp_path)["annotations"]["boxes"] == 8
    assert cli.main(["verify-tfrecords", str(tmp_path / "out")]) == 0


@pytest.fixture
def rows(tmp_path):
    """Twelve images of which each has its number of boxes, modulo four, some of them bad."""
    (tmp_path / "lake").mkdir()
    found = []
    for number in range(12):
        name = f"{number:02}.jpg"
        (tmp_path / "lake" / name).write_bytes(encode(photo(number, 40, 30), "jpeg"))
        boxes = [
            {"xmin": 4, "ymin": 3, "xmax": 20, "ymax": 15, "label": "dog"},
            {"xmin": -8, "ymin": 3, "xmax": 20, "ymax": 15, "label": "cat", "crowd": True, "area": 50},
            {"xmin": 50, "ymin": 3, "xmax": 60, "ymax": 15, "label": "cat"},
        ][: number % 4]
        found.append({"uri": f"lake/{name}", "label": "pet", "boxes": boxes})
    return found


@pytest.fixture
def manifest(rows, tmp_path):
    def write(rows=rows):
        (tmp_path / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return tmp_path / "images.jsonl"

    return write


def test_the_features_are_those_of_the_object_detection_api(create, manifest, tmp_path):
    """Read by TensorFlow, as ``create_coco_tf_record.py`` names and fills them."""
    import tensorflow as tf

    assert create(manifest(), "--splits", "all=1") == 0
    example = tf.train.Example.FromString(examples_in(tmp_path / "out")["02.jpg"].SerializeToString())
    data = (tmp_path / "lake" / "02.jpg").read_bytes()
    features = example.features.feature
    assert features["image/filename"].bytes_list.value == [b"02.jpg"]
    assert features["image/source_id"].bytes_list.value == [str(tmp_path / "lake" / "02.jpg").encode()]
    assert features["image/key/sha256"].bytes_list.value == [hashlib.sha256(data).hexdigest().encode()]
    assert features["image/encoded"].bytes_list.value == [data]
    assert features["image/format"].bytes_list.value == [b"jpeg"]
    assert (features["image/height"].int64_list.value, features["image/width"].int64_list.value) == (
        [30],
        [40],
    )
    expected = {"xmin": [0.1, 0], "ymin": [0.1, 0.1], "xmax": [0.5, 0.5], "ymax": [0.5, 0.5]}
    for corner, fractions in expected.items():
        assert features[f"image/object/bbox/{corner}"].float_list.value == pytest.approx(fractions)
    assert features["image/object/class/text"].bytes_list.value == [b"dog", b"cat"]
    assert features["image/object/class/label"].int64_list.value == [2, 1]
    assert features["image/object/is_crowd"].int64_list.value == [0, 1]
    assert features["image/object/area"].float_list.value == [16 * 12, 50]
    none = examples_in(tmp_path / "out")["00.jpg"].features.feature
    assert not any(name.startswith("image/object") for name in none)
    assert "image/filename" in none


def test_annotations_are_accounted_for_apart_from_images(create, manifest, tmp_path, capfd):
    assert create(manifest(), "--target_shard_bytes", 3000) == 0
    said = capfd.readouterr().err
    out = tmp_path / "out"
    found = read_manifest(str(out))
    assert len(found.shards) > 3
    assert (found.inputs, found.outputs, found.failed) == (12, 12, 0)
    assert (found.box_classes, found.boxes, found.most_boxes) == (["cat", "dog"], {"cat": 6, "dog": 9}, 2)
    assert (found.boxes_clipped, found.annotations_failed) == (6, 3)
    assert found.annotations_failed_by_reason == {"bad_box": 3}
    for label in ("cat", "dog"):
        assert sum(split.boxes[label] for split in found.splits.values()) == found.boxes[label]
    failures = list(read_failures(str(out / "annotation_failures")))
    assert [failure.key.rpartition("/")[2] for failure in failures] == ["03.jpg", "07.jpg", "11.jpg"]
    for failure in failures:
        assert failure.uri == f"{failure.key}: box 3"
        assert (failure.stage, failure.reason, failure.run_id) == ("annotation", "bad_box", found.run_id)
    assert summary_of(tmp_path)["annotations"] == {
        "boxes": 15,
        "clipped": 6,
        "failed": 3,
        "failed_by_reason": {"bad_box": 3},
    }
    assert "15 boxes of 2 categories; 6 cut at an edge" in said
    assert "3 annotations left out (3 bad_box)" in said
    assert list(read_failures(str(out / "failures"))) == []
    assert from_text((out / "schema.pbtxt").read_text()) == build(["pet"], box_classes=["cat", "dog"])
    assert cli.main(["verify-tfrecords", str(out)]) == 0
    table = capfd.readouterr().out.splitlines()
    assert table[0].split()[-1] == "boxes"
    assert sum(int(line.split()[-1]) for line in table[1:-1]) == 15


@pytest.mark.parametrize("as_file", [False, True])
def test_classes_give_the_ids_and_an_unknown_one_is_a_fault(create, manifest, tmp_path, as_file):
    classes = "pet,dog,bird,cats"
    if as_file:
        (tmp_path / "classes.txt").write_text(classes.replace(",", "\n"))
        classes = tmp_path / "classes.txt"
    assert create(manifest(), "--classes", classes) == 0
    out = tmp_path / "out"
    found = read_manifest(str(out))
    assert found.box_classes == found.classes == ["pet", "dog", "bird", "cats"]
    assert (found.failed, found.boxes["dog"]) == (0, 9)
    assert found.annotations_failed_by_reason == {"unknown_category": 9}
    failures = list(read_failures(str(out / "annotation_failures")))
    assert all("'cat'" in failure.detail and "'cats'" in failure.detail for failure in failures)
    assert values(examples_in(out)["01.jpg"], "image/object/class/label") == [2]
    assert (out / "label_map.pbtxt").read_text().startswith("item {\n  id: 1\n  name: 'pet'\n}\n")


def test_images_without_boxes_make_a_dataset_without(create, manifest, rows, tmp_path):
    assert create(manifest()) == 0
    assert (tmp_path / "out" / "annotation_failures").exists()
    assert create(manifest([{**row, "boxes": []} for row in rows]), "--classes", "pet,dog") == 0
    names = {path.name for path in (tmp_path / "out").iterdir() if "tfrecord" not in path.name}
    assert names == {"manifest.json", "schema.pbtxt", "failures"}
    assert read_manifest(str(tmp_path / "out")).box_classes == []
    assert summary_of(tmp_path)["annotations"] == {}


def test_running_again_gives_the_same_bytes_and_resume_keeps_them(create, manifest, tmp_path):
    small = ("--target_shard_bytes", 3000)
    assert create(manifest(), *small) == 0
    out = tmp_path / "out"
    before, told = dataset_files(out), read_manifest(str(out))
    failures = list(read_failures(str(out / "annotation_failures")))
    assert create(manifest(), *small, "--threads", 1) == 0
    assert dataset_files(out) == before
    max(out.glob("*.tfrecord")).unlink()
    assert create(manifest(), *small, "--resume") == 0
    assert 0 < summary_of(tmp_path)["already_done"] < 12
    assert dataset_files(out) == before
    again = read_manifest(str(out))
    for name in ("box_classes", "boxes", "boxes_clipped", "annotations_failed_by_reason", "dataset_digest"):
        assert getattr(again, name) == getattr(told, name), name

    def less_run(found):
        return [(f.key, f.uri, f.reason, f.detail) for f in found]

    resumed = list(read_failures(str(out / "annotation_failures")))
    assert less_run(resumed) == less_run(failures)
    assert {failure.run_id for failure in resumed} == {again.run_id}


def test_other_boxes_are_written_anew(create, manifest, rows, tmp_path):
    assert create(manifest()) == 0
    assert create(manifest(), "--resume") == 0
    assert summary_of(tmp_path)["already_done"] == 12
    rows[1]["boxes"][0]["xmax"] += 1
    assert create(manifest(), "--resume", "--splits", "train=0.8,validation=0.1,test=0.1") == 0
    assert summary_of(tmp_path)["already_done"] < 12
