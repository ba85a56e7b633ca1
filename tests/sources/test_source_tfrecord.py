import gzip
import json

import pytest

from beam_vision.errors import UsageError, VisionError
from beam_vision.sources.listing import Skipped
from beam_vision.sources.tfrecord import RecordRef, list_shards, parse_record, read_chunk, scan_shard
from beam_vision.tfrecord_io import OVERHEAD_BYTES, Example, write_record
from beam_vision.types import Box, BoxFrame, Failure, ImageRef


def example(**features):
    """A serialized Example; ``image__key`` stands for ``image/key``."""
    message = Example()
    for name, value in features.items():
        feature = message.features.feature[name.replace("__", "/")]
        values = value if isinstance(value, list) else [value]
        if isinstance(values[0], int):
            feature.int64_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.bytes_list.value.extend(v.encode() if isinstance(v, str) else v for v in values)
    return message.SerializeToString()


def write_shard(path, records, opener=open):
    path.parent.mkdir(parents=True, exist_ok=True)
    with opener(path, "wb") as file:
        for record in records:
            write_record(file, record)
    return str(path)


FULL = example(
    image__encoded=b"bytes",
    image__key="/lake/cat/1.jpg",
    image__source_id="/lake/cat/1.jpg ",
    image__width=200,
    image__height=100,
    image__class__text=["cat", "pet"],
    image__class__label=[0, 1],
    image__attributes='{"weather": "rain", "n": 3}',
    image__object__bbox__xmin=[0.25],
    image__object__bbox__ymin=[0.5],
    image__object__bbox__xmax=[0.5],
    image__object__bbox__ymax=[1.0],
    image__object__class__text=["nose"],
)


def test_a_record_of_ours_becomes_the_image_it_was():
    image = parse_record(FULL, "/data/train-00000-of-00002.tfrecord", 7)
    assert image.data == b"bytes"
    assert image.ref == ImageRef(
        key="/lake/cat/1.jpg",
        uri="/lake/cat/1.jpg ",
        labels=("cat", "pet"),
        split="train",
        boxes=(Box(0.25, 0.5, 0.5, 1.0, "nose"),),
        attributes={"weather": "rain", "n": "3"},
        frame=BoxFrame("auto", relative=True, width_px=200, height_px=100),
    )


CORNERS = {f"image__object__bbox__{corner}": [0.25, 0.5] for corner in ("xmin", "ymin")} | {
    f"image__object__bbox__{corner}": [0.75, 1.0] for corner in ("xmax", "ymax")
}


def boxes_of(**features):
    return parse_record(example(image__encoded=b"x", **CORNERS | features), "/d/x.tfrecord", 3).ref


def test_all_that_the_object_detection_api_says_of_a_box():
    ref = boxes_of(
        image__width=20,
        image__height=10,
        image__object__class__text=["cat", "dog"],
        image__object__is_crowd=[1, 0],
        image__object__area=[50.0, 0.0],
    )
    assert ref.boxes == (
        Box(0.25, 0.25, 0.75, 0.75, "cat", crowd=True, area_px=0.25),  # 50 of 200 pixels
        Box(0.5, 0.5, 1.0, 1.0, "dog"),
    )
    assert ref.frame == BoxFrame("auto", True, 20, 10)
    ref = boxes_of(image__object__class__label=[7, 18], image__object__difficult=[0, 1])
    assert [(box.label, box.crowd) for box in ref.boxes] == [("7", False), ("18", True)]
    assert ref.frame == BoxFrame("auto", True)
    assert [box.area_px for box in boxes_of(image__object__area=[50.0, 9.0]).boxes] == [0.0, 0.0]


def test_a_box_that_is_not_usable_is_a_fault_of_its_record():
    ref = boxes_of(image__object__bbox__xmax=[0.25, 0.75])
    assert [box.xmin for box in ref.boxes] == [0.5]
    assert [(fault.place, fault.reason) for fault in ref.faults] == [("x.tfrecord#3: box 1", "bad_box")]
    assert len(boxes_of(image__object__bbox__ymin=[float("nan"), float("inf")]).faults) == 2


def test_features_of_boxes_that_are_not_of_one_length_are_a_bad_record():
    with pytest.raises(VisionError) as caught:
        boxes_of(image__object__class__text=["cat"])
    assert caught.value.reason == "bad_record"


def test_a_foreign_record_needs_nothing_but_the_image():
    image = parse_record(example(image__encoded=b"bytes"), "/data/x.tfrecord", 7)
    assert image.ref == ImageRef(key="/data/x.tfrecord#7", uri="/data/x.tfrecord#7")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"", "0 values of 'image/encoded'"),
        (b"\xff\xff", "x.tfrecord#0"),
        (example(image__raw=b"x"), "features are .'image/raw'."),
        (example(image__encoded=[b"a", b"b"]), "2 values"),
        (example(image__encoded=b"a", image__key=b"\xff"), "utf-8"),
        (example(image__encoded=b"a", image__attributes="[1]"), "not a JSON object"),
        (example(image__encoded=b"a", image__attributes="{"), "x.tfrecord#0"),
        (
            example(image__encoded=b"a", image__width=1, image__height=1, image__object__bbox__xmin=[0.1]),
            "x.tfrecord#0",
        ),
    ],
)
def test_a_record_that_is_no_image_is_refused(data, detail):
    with pytest.raises(VisionError, match=detail) as caught:
        parse_record(data, "x.tfrecord", 0)
    assert caught.value.reason == "bad_record"


def test_a_whole_record_needs_no_image_but_must_be_an_example():
    data = example(image__key="k", features=[0.5])
    image = parse_record(data, "x.tfrecord", 0, whole=True)
    assert (image.ref.key, image.data) == ("k", data)
    with pytest.raises(VisionError):
        parse_record(b"\xff\xff", "x.tfrecord", 0, whole=True)


def records_of(n, size=10):
    return [example(image__encoded=bytes([i]) * size, image__key=f"k{i}") for i in range(n)]


@pytest.mark.parametrize("opener", [open, gzip.open])
def test_scan_and_read_back(tmp_path, opener):
    path = write_shard(
        tmp_path / ("a.tfrecord" + (".gz" if opener is gzip.open else "")), records_of(9), opener
    )
    refs = list(scan_shard(path))
    assert [(ref.key, ref.index) for ref in refs] == [(f"k{i}", i) for i in range(9)]
    wanted = [refs[2], refs[3], refs[7]]
    assert [image.data for image in read_chunk(path, wanted)] == [bytes([i]) * 10 for i in (2, 3, 7)]
    assert [image.ref.key for image in read_chunk(path, refs)] == [f"k{i}" for i in range(9)]


def test_a_flipped_byte_loses_what_follows_as_one_failure(tmp_path):
    records = records_of(6)
    path = write_shard(tmp_path / "a.tfrecord", records)
    data = bytearray((tmp_path / "a.tfrecord").read_bytes())
    start = sum(len(record) + OVERHEAD_BYTES for record in records[:4])
    data[start + 14] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(data)
    *good, failure = scan_shard(path)
    assert [ref.key for ref in good] == ["k0", "k1", "k2", "k3"]
    assert (failure.key, failure.reason, failure.stage) == (f"{path}#4", "bad_record", "source")
    assert "from record 4 on" in failure.detail


def test_a_gzip_shard_that_is_cut_or_damaged(tmp_path):
    path = write_shard(tmp_path / "a.tfrecord.gz", records_of(50, size=500), gzip.open)
    data = (tmp_path / "a.tfrecord.gz").read_bytes()
    for damaged in (data[: len(data) // 2], b"\x00" * 30, data[:40] + b"\xff" * 30 + data[70:]):
        (tmp_path / "a.tfrecord.gz").write_bytes(damaged)
        *_, failure = scan_shard(path)
        assert isinstance(failure, Failure)
        assert failure.reason == "bad_record"


def test_a_bad_record_among_good_ones_is_just_one_failure(tmp_path):
    path = write_shard(tmp_path / "a.tfrecord", [records_of(1)[0], b"\xff", records_of(3)[2]])
    one, bad, three = scan_shard(path)
    assert (one.key, bad.key, bad.reason, three.key) == ("k0", f"{path}#1", "bad_record", "k2")


def test_a_shard_that_is_not_there(tmp_path):
    (failure,) = scan_shard(str(tmp_path / "none.tfrecord"))
    assert (failure.reason, failure.key) == ("not_found", str(tmp_path / "none.tfrecord"))


def test_a_shard_that_changes_between_listing_and_reading(tmp_path):
    path = write_shard(tmp_path / "a.tfrecord", records_of(4))
    refs = list(scan_shard(path))
    write_shard(
        tmp_path / "a.tfrecord", [records_of(1)[0], *[example(image__encoded=b"0" * 10, image__key="xx")] * 3]
    )
    first, *rest = read_chunk(path, refs)
    assert first.ref.key == "k0"
    assert [(error.reason, error.key) for error in rest] == [("bad_record", f"k{i}") for i in (1, 2, 3)]
    write_shard(tmp_path / "a.tfrecord", records_of(2))
    assert [type(read) for read in read_chunk(path, refs)][2:] == [VisionError] * 2
    (tmp_path / "a.tfrecord").unlink()
    assert [error.reason for error in read_chunk(path, refs)] == ["not_found"] * 4


def test_chunks_share_out_one_large_file():
    refs = [RecordRef("k", "u", "a.tfrecord", offset, 0) for offset in (0, 2**26 - 1, 2**26, 2**28)]
    assert [ref.chunk for ref in refs] == [0, 0, 1, 4]
    assert RecordRef("k", "u", "a.tfrecord.gz", 2**28, 0).chunk == 0


def test_shards_of_a_folder(tmp_path, make_files):
    root = make_files(
        tmp_path / "[x]",
        {
            "a.tfrecord": b"",
            "deep/b.tfrecord-00000-of-00001": b"",
            "a.tfrecord.json": b"",
            "c.tfrec": b"",
            "d.jpg": b"",
        },
    )
    found = list(list_shards([f"{root}/"]))
    assert sorted(f.uri for f in found if not isinstance(f, Skipped)) == [
        f"{root}/a.tfrecord",
        f"{root}/c.tfrec",
        f"{root}/deep/b.tfrecord-00000-of-00001",
    ]
    assert [f.path for f in found if isinstance(f, Skipped)] == [f"{root}/a.tfrecord.json"]


def test_shards_of_a_dataset_are_what_its_manifest_lists(tmp_path, make_files):
    names = ["train-00000-of-00001.tfrecord", "test-00000-of-00001.tfrecord"]
    splits = {name.partition("-")[0]: {"shards": [{"name": name}]} for name in names}
    manifest = {"kind": "beam-vision tfrecords", "splits": splits}
    root = make_files(
        tmp_path,
        {
            **dict.fromkeys([*names, "left-over.tfrecord"], b""),
            "manifest.json": json.dumps(manifest).encode(),
        },
    )
    assert [found.uri for found in list_shards([f"{root}/"])] == [f"{root}/{name}" for name in names]
    make_files(tmp_path, {"manifest.json": b'{"splits": 3}'})
    with pytest.raises(UsageError, match="damaged"):
        list(list_shards([f"{root}/"]))
