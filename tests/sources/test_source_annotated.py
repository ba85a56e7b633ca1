"""Each annotated format through a pipeline is what plain Python reads, with the keys of a folder source."""

import json
import secrets
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beam_vision.sources.annotations import read_truth
from beam_vision.sources.select import canonical
from beam_vision.sources.spec import resolve
from beam_vision.sources.transforms import ListImages, OpenImages
from beam_vision.tfrecord_io import Example, write_record
from beam_vision.types import Failure, ImageRef

BOXES = {
    "train/a b.jpg": [("cat", 10, 20, 30, 40), ("dog", 0, 0, 50, 60)],
    "val/c.jpg": [("dog", 5, 5, 25, 20), ("dog", 9, 9, 9, 12)],
    "val/d.jpg": [],
}
WIDTH_PX, HEIGHT_PX = 100, 80
NAMES = ("cat", "dog")
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def coco(files):
    images = [
        {"id": i, "file_name": name, "width": WIDTH_PX, "height": HEIGHT_PX} for i, name in enumerate(BOXES)
    ]
    annotations = [
        {"id": 10 * i + j, "image_id": i, "bbox": [x, y, x2 - x, y2 - y], "category_id": NAMES.index(label)}
        for i, boxes in enumerate(BOXES.values())
        for j, (label, x, y, x2, y2) in enumerate(boxes)
    ]
    content = {
        "images": images,
        "annotations": [*annotations, {"id": 99, "image_id": 77, "bbox": [1, 2, 3, 4], "category_id": 0}],
        "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)],
    }
    return {"annotations/instances.json": json.dumps(content).encode()}, "annotations/instances.json"


def voc(files):
    size = f"<size><width>{WIDTH_PX}</width><height>{HEIGHT_PX}</height></size>"
    for name, boxes in BOXES.items():
        objects = ""
        for label, x, y, x2, y2 in boxes:
            corners = zip(CORNERS, (x + 1, y + 1, x2, y2), strict=True)
            inner = "".join(f"<{corner}>{value}</{corner}>" for corner, value in corners)
            objects += f"<object><name>{label}</name><bndbox>{inner}</bndbox></object>"
        xml = f"<annotation>{size}{objects}</annotation>"
        files[f"Annotations/{name.removesuffix('.jpg')}.xml"] = xml.encode()
    files["Annotations/val/broken.xml"] = b"<annotation>"
    files["JPEGImages/val/broken.jpg"] = b""
    return files, ""


def yolo(files):
    for name, boxes in BOXES.items():
        lines = [
            f"{NAMES.index(label)} {(x + x2) / 200} {(y + y2) / 160} {(x2 - x) / 100} {(y2 - y) / 80}\n"
            for label, x, y, x2, y2 in boxes
        ]
        if lines:
            files[f"labels/{name.removesuffix('.jpg')}.txt"] = "".join(lines).encode()
    files["data.yaml"] = b"train: images/train\nval: [images/val, images/gone]\nnames: [cat, dog]\n"
    return files, "data.yaml"


def boxes_csv(files):
    rows = ["uri,label,xmin,ymin,xmax,ymax,width,height"]
    for name, boxes in BOXES.items():
        rows += [f"{name},{','.join(map(str, box))},{WIDTH_PX},{HEIGHT_PX}" for box in boxes or [("",) * 5]]
    return {"boxes.csv": "\n".join([*rows[::-1][-1:], *rows[:0:-1], ",,1,2,3,4,,"]).encode()}, "boxes.csv"


def rows_of_images():
    for name, boxes in BOXES.items():
        members = [dict(zip(("label", *CORNERS), map(as_number, box), strict=True)) for box in boxes]
        yield {"uri": name, "boxes": members}


def as_number(value):
    return value if isinstance(value, str) else float(value)


def jsonl(files):
    return {"m.jsonl": "\n".join(map(json.dumps, [*rows_of_images(), {"uri": ""}])).encode()}, "m.jsonl"


def parquet(files):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(list(rows_of_images())), sink)
    return {"m.parquet": sink.getvalue().to_pybytes()}, "m.parquet"


FORMATS = {f.__name__: f for f in (coco, voc, yolo, boxes_csv, jsonl, parquet)}
IMAGES = {"coco": "photos", "voc": "JPEGImages", "yolo": "images"}


@pytest.fixture
def dataset(tmp_path, make_files):
    """``dataset(format)``: the source, the folder of its images, and ``image_root``."""

    def make(format):
        below = IMAGES.get(format, "photos")
        files = {f"{below}/{name}": name.encode() for name in BOXES}
        more, source = FORMATS[format](dict(files))
        root = make_files(tmp_path / format, {**files, **more})
        folder = f"{root}/{below}"
        return f"{root}/{source}".rstrip("/"), folder, folder if below == "photos" else ""

    return make


def by_key(items):
    return {item.key: canonical(item) for item in items}


@pytest.mark.parametrize("format", FORMATS)
def test_a_pipeline_gives_what_plain_python_reads(run, dataset, format):
    source, folder, image_root = dataset(format)
    truth = list(read_truth(source, image_root=image_root))
    listed = run(lambda p: (p | ListImages(source, image_root=image_root))._asdict())
    assert by_key(listed["good"]) == by_key(item for item in truth if isinstance(item, ImageRef))
    assert by_key(listed["failed"]) == by_key(item for item in truth if isinstance(item, Failure))
    assert len(listed["failed"]) == (0 if format == "parquet" else 1)

    out = run(lambda p: (p | OpenImages(source, image_root=image_root))._asdict())
    assert out["inputs"] == [len(truth)] == [len(out["images"]) + len(out["failed"])]
    assert {image.ref.key: image.data for image in out["images"]} == {
        f"{folder}/{name}": name.encode() for name in BOXES
    }
    assert by_key(image.ref for image in out["images"]) == by_key(listed["good"])
    keys = {item.key for item in read_truth(folder, "folder")}
    assert {ref.key for ref in listed["good"]} <= keys

    for ref in listed["good"]:
        name = ref.key.removeprefix(f"{folder}/")
        if ref.frame.relative:
            sides = (WIDTH_PX, HEIGHT_PX) * 2
        else:
            sides = (1, 1, 1, 1)
        boxes = [
            (box.label, *(round(getattr(box, c) * side, 6) for c, side in zip(CORNERS, sides, strict=True)))
            for box in ref.boxes
        ]
        assert boxes == [box for box in sorted_as(BOXES[name], boxes) if box[1] < box[3]]
        assert len(ref.faults) == (name == "val/c.jpg")


def sorted_as(expected, found):
    """The CSV of this test has its rows backwards."""
    kept = [box for box in expected if box[1] < box[3]]
    return kept[::-1] if found == kept[::-1] else kept


@pytest.mark.parametrize("format", ["coco", "voc", "yolo"])
def test_options_go_through(run, dataset, format):
    source, folder, image_root = dataset(format)
    out = run(
        lambda p: (
            p
            | ListImages(source, image_root=image_root, boxes_on="upright", classes=("dog", "cats"), limit=9)
        )._asdict()
    )
    refs = {ref.key.removeprefix(f"{folder}/"): ref for ref in out["good"]}
    assert {ref.frame.pixels_of for ref in refs.values()} == {"upright"}
    first = refs["train/a b.jpg"]
    assert [box.label for box in first.boxes] == ["dog"]
    assert [fault.reason for fault in first.faults] == ["unknown_category"]
    assert "nearest is 'cats'" in first.faults[0].detail


def test_annotations_are_never_in_the_graph(dataset):
    source, _, image_root = dataset("coco")

    def graph_bytes():
        pipeline = beam.Pipeline()
        _ = pipeline | ListImages(source, image_root=image_root)
        return len(pipeline.to_runner_api().SerializeToString())

    before = graph_bytes()
    with open(source) as file:
        content = json.load(file)
    content["images"] += [{"id": f"{i}", "file_name": secrets.token_hex()} for i in range(1000)]
    with open(source, "w") as file:
        json.dump(content, file)
    assert abs(graph_bytes() - before) < 1000


def test_auto_finds_each_format(dataset):
    for format in FORMATS:
        source, _, image_root = dataset(format)
        assert resolve(source, image_root=image_root).format == {"boxes_csv": "csv"}.get(format, format)
    assert resolve(source.rpartition("/")[0].replace("parquet", "yolo")).format == "yolo"


def test_truth_needs_no_images(dataset, tmp_path):
    source, _, image_root = dataset("coco")
    before = by_key(read_truth(source, image_root=image_root))
    (tmp_path / "coco" / "photos").rename(tmp_path / "coco" / "elsewhere")
    (tmp_path / "coco" / "photos").mkdir()
    assert by_key(read_truth(source, image_root=image_root)) == before


def test_truth_of_records_is_what_a_pipeline_reads(run, tmp_path):
    with open(tmp_path / "train-00000-of-00001.tfrecord", "wb") as file:
        for name, boxes in BOXES.items():
            example = Example()
            feature = example.features.feature
            feature["image/encoded"].bytes_list.value.append(b"data")
            feature["image/key"].bytes_list.value.append(name.encode())
            feature["image/object/class/text"].bytes_list.value.extend(box[0].encode() for box in boxes)
            for i, corner in enumerate(CORNERS, start=1):
                values = feature[f"image/object/bbox/{corner}"].float_list.value
                values.extend(box[i] / (HEIGHT_PX if i % 2 == 0 else WIDTH_PX) for box in boxes)
            write_record(file, example.SerializeToString())
        write_record(file, b"\xff")
    truth = list(read_truth(str(tmp_path)))
    assert [type(item) for item in truth] == [ImageRef, ImageRef, ImageRef, Failure]
    assert [len(ref.boxes) for ref in truth[:3]] == [2, 1, 0]
    assert [fault.place for fault in truth[1].faults] == ["train-00000-of-00001.tfrecord#1: box 2"]
    out = run(lambda p: (p | OpenImages(str(tmp_path)))._asdict())
    assert by_key([image.ref for image in out["images"]] + out["failed"]) == by_key(truth)


def test_annotations_in_a_bucket(bucket, dataset, tmp_path):
    from apache_beam.io.filesystems import FileSystems

    for format in ("coco", "voc", "yolo"):
        source, _, image_root = dataset(format)
        for path in filter(Path.is_file, (tmp_path / format).rglob("*")):
            with FileSystems.create(f"{bucket}/{path.relative_to(tmp_path)}") as file:
                file.write(path.read_bytes())
        local = [canonical(item) for item in read_truth(source, image_root=image_root)]
        remote_root = image_root.replace(str(tmp_path), bucket)
        remote = read_truth(source.replace(str(tmp_path), bucket), image_root=remote_root)
        assert sorted(map(canonical, remote)) == sorted(text.replace(str(tmp_path), bucket) for text in local)
