import json

import pytest

from beam_vision.errors import UsageError
from beam_vision.sources.listing import list_patterns
from beam_vision.sources.spec import SourceSpec, resolve


@pytest.fixture
def lake(tmp_path, make_files):
    make_files(
        tmp_path,
        {
            "lake/cat/1.jpg": b"",
            "lake/top.jpg": b"",
            "[odd] *?,x/cat/1.jpg": b"",
            "m.csv": b"uri\n1.jpg\n",
            "M.JSONL": b'{"uri": "1.jpg"}\n',
            "m.ndjson": b'{"uri": "1.jpg"}\n',
            "bad.csv": b"url\n",
            "foreign/train.tfrecord-00000-of-00002": b"",
            "foreign/readme.txt": b"",
            "ours/train-00000-of-00001.tfrecord": b"",
            "ours/manifest.json": json.dumps({"kind": "beam-vision tfrecords"}).encode(),
            "mixed/a.tfrecord": b"",
            "mixed/a.jpg": b"",
            "table/manifest.json": b'{"kind": "else"}',
            "broken/manifest.json": b"{",
            "one,two.jpg": b"",
            "[1].jpg": b"",
        },
    )
    return str(tmp_path)


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("lake", ("folder", "lake")),
        ("lake/", ("folder", "lake")),
        ("[odd] *?,x", ("folder", "[odd] *?,x")),
        ("mixed", ("folder", "mixed")),
        ("table", ("folder", "table")),
        ("broken", ("folder", "broken")),
        ("m.csv", ("csv", "m.csv")),
        ("M.JSONL", ("jsonl", "M.JSONL")),
        ("m.ndjson", ("jsonl", "m.ndjson")),
        ("foreign", ("tfrecord", "foreign/")),
        ("ours", ("tfrecord", "ours/")),
        ("ours/*.tfrecord", ("tfrecord", "ours/*.tfrecord")),
        ("foreign/train.tfrecord-?????-of-00002", ("tfrecord", "foreign/train.tfrecord-?????-of-00002")),
        ("ours/train-00000-of-00001.tfrecord", ("tfrecord", "ours/train-00000-of-00001.tfrecord")),
        ("lake/**/*.jpg", ("glob", "lake/**/*.jpg")),
        ("lake/*.jpg, lake/cat/1.jpg", ("glob", "lake/*.jpg", "lake/cat/1.jpg")),
        ("lake/top.jpg", ("glob", "lake/top.jpg")),
        ("one,two.jpg", ("glob", "one,two.jpg")),
        ("[1].jpg", ("glob", "[[]1].jpg")),
    ],
)
def test_auto(lake, monkeypatch, images, expected):
    format, *paths = expected
    wanted = SourceSpec(format, tuple(f"{lake}/{path}" for path in paths))
    monkeypatch.chdir(lake)
    assert resolve(images) == wanted
    if len(paths) == 1:
        assert resolve(f"{lake}/{images}") == wanted


def test_a_single_file_with_brackets_is_found(lake):
    (ref,) = list_patterns(resolve(f"{lake}/[1].jpg").paths)
    assert ref.uri == f"{lake}/[1].jpg"


def test_home_and_file_uris(lake, monkeypatch):
    monkeypatch.setenv("HOME", lake)
    assert resolve("~/lake").path == f"{lake}/lake"
    assert resolve(f"file://{lake}/lake").path == f"{lake}/lake"
    assert resolve(f"file://{lake}/%5B1%5D.jpg").paths == (f"{lake}/[[]1].jpg",)


def test_image_root(lake):
    spec = resolve(f"{lake}/m.csv", image_root=f"{lake}/lake/")
    assert spec.image_root == f"{lake}/lake"
    with pytest.raises(UsageError, match="image_root"):
        resolve(f"{lake}/m.csv", image_root=f"{lake}/none")


@pytest.mark.parametrize(
    ("images", "format", "message"),
    [
        ("none", "auto", "does not exist"),
        ("none.csv", "auto", "not an existing file"),
        ("lake/none.jpg", "auto", "does not exist"),
        ("lake/*.jpg,lake/none.jpg", "auto", "none.jpg does not exist"),
        ("lake/*.jpg,lake", "auto", r"lake is a folder among patterns; write .*lake/\*\*"),
        ("*.csv", "auto", "one manifest at a time"),
        ("bad.csv", "auto", "found are 'url'"),
        ("lake/[z-a].jpg", "auto", "not a pattern"),
        ("none.tfrecord", "auto", "does not exist"),
        ("m.csv", "folder", "is not a folder"),
        ("none", "folder", "does not exist"),
        ("lake", "csv", "needs one manifest"),
        ("m.csv", "parquet", "not a Parquet file"),
        ("lake", "glob", "folder among patterns"),
        ("lake", "imagenet", "none of auto, folder"),
        ("lake", "coco", "needs one JSON file"),
        ("m.csv", "coco", "not JSON"),
        ("m.csv", "voc", "needs the folder of XML files"),
        ("lake", "voc", "holds no .xml file"),
        ("lake", "yolo", "holds no .txt file"),
        ("none", "yolo", "needs one folder or data.yaml"),
    ],
)
def test_mistakes_are_told_before_anything_runs(lake, monkeypatch, images, format, message):
    monkeypatch.chdir(lake)
    with pytest.raises(UsageError, match=message):
        resolve(images, format)


@pytest.mark.parametrize("images", ["", "  ", ",", " , "])
def test_nothing_is_a_usage_error(images):
    with pytest.raises(UsageError, match="empty"):
        resolve(images)


def test_a_filesystem_that_nobody_serves_is_a_usage_error():
    with pytest.raises(UsageError, match="nosuchscheme://b/x"):
        resolve("nosuchscheme://b/x")


def test_a_bucket_is_no_pattern(bucket):
    with pytest.raises(UsageError, match="bucket"):
        resolve("gs://la*/x.jpg")


def test_remote_formats(bucket):
    from apache_beam.io.filesystems import FileSystems

    contents = {
        "lake/[c] d/1.jpg": b"",
        "shards/a.tfrecord": b"",
        "ours/manifest.json": b'{"kind": "beam-vision tfrecords"}',
        "m.csv": b"uri\n1.jpg",
    }
    for name, data in contents.items():
        with FileSystems.create(f"{bucket}/{name}") as file:
            file.write(data)
    assert resolve(f"{bucket}/lake/") == SourceSpec("folder", (f"{bucket}/lake",))
    assert resolve(f"{bucket}/shards").format == "tfrecord"
    assert resolve(f"{bucket}/ours").format == "tfrecord"
    assert resolve(f"{bucket}/m.csv") == SourceSpec("csv", (f"{bucket}/m.csv",))
    assert resolve(f"{bucket}/lake/**") == SourceSpec("glob", (f"{bucket}/lake/**",))
    for missing in (f"{bucket}/none", "gs://nobucket/x", "gs://nobucket/x.csv"):
        with pytest.raises(UsageError):
            resolve(missing)
