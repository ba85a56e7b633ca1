import collections
import csv
import inspect
import json
import os
import pickle

import apache_beam as beam
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.internal import pickler
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import metrics
from beam_vision.errors import UsageError
from beam_vision.sources import select, transforms
from beam_vision.sources.select import SelectDoFn, canonical
from beam_vision.sources.transforms import ListImages, OpenImages, ReadImages
from beam_vision.tfrecord_io import Example, write_record
from beam_vision.types import ImageRef


def opened(images, **options):
    """``build`` for a pipeline that opens images; ``only`` and ``without`` are lists of keys."""
    only, without = options.pop("only", None), options.pop("without", None)

    def build(pipeline):
        keys = {
            name: None if values is None else pipeline | name >> beam.Create(values, reshuffle=False)
            for name, values in (("only_keys", only), ("without_keys", without))
        }
        return (pipeline | OpenImages(str(images), **keys, **options))._asdict()

    return build


def accounts(out):
    """Checks in = out + failed + already done, and gives failures by key and reason."""
    (inputs,), (done,) = out["inputs"], out["already_done"]
    assert inputs == len(out["images"]) + len(out["failed"]) + done
    return sorted((failure.key, failure.reason) for failure in out["failed"])


def data_of(out):
    return {image.ref.key: image.data for image in out["images"]}


FILES = {
    "cat/1.jpg": b"one",
    "cat/2.jpg": b"",
    "dog/3.png": b"three" * 1000,
    "dog/deep/4": b"4",
    "top.jpg": b"top",
}


@pytest.fixture
def lake(tmp_path, make_files):
    return make_files(tmp_path / "lake", FILES)


def keyed(root, files):
    return {f"{root}/{name}": data for name, data in files.items()}


def test_a_folder_like_plain_python(run, lake):
    out = run(opened(lake))
    assert accounts(out) == []
    assert data_of(out) == keyed(lake, FILES)
    assert {image.ref.key: image.ref.label for image in out["images"]} == {
        f"{lake}/{name}": name.split("/")[0] if "/" in name else None for name in FILES
    }
    counts = metrics.TALLY.counts()
    assert counts[metrics.LISTED] == counts[metrics.READ] == 5
    assert counts[metrics.READ_BYTES] == sum(map(len, FILES.values()))
    assert metrics.TALLY.spreads()[metrics.READ_MS].count >= 1


def test_a_glob_like_plain_python(run, lake):
    out = run(opened(f"{lake}/**/*.jpg,{lake}/dog/**,{lake}/cat/1.*"))
    assert accounts(out) == []
    assert data_of(out) == keyed(lake, FILES)
    assert {image.ref.label for image in out["images"]} == {None}


ROWS = [
    {"uri": "cat/1.jpg", "label": "cat", "split": "train", "note": "a,b"},
    {"uri": "dog/3.png", "label": "dog", "split": "test", "note": 'x"y'},
    {"uri": "cat/none.jpg", "label": "cat", "split": "train", "note": ""},
]


def write_rows(path, rows):
    if path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize(("name", "beside"), [("m.csv", True), ("m.jsonl", False), ("m.parquet", True)])
def test_a_manifest_like_plain_python(run, tmp_path, lake, name, beside):
    path = write_rows((tmp_path / "lake" if beside else tmp_path) / name, ROWS)
    out = run(opened(path, image_root="" if beside else lake))
    assert accounts(out) == [(f"{lake}/cat/none.jpg", "not_found")]
    assert data_of(out) == {f"{lake}/{name}": FILES[name] for name in ("cat/1.jpg", "dog/3.png")}
    refs = {image.ref.uri: image.ref for image in out["images"]}
    for row in ROWS[:2]:
        ref = refs[f"{lake}/{row['uri']}"]
        assert (ref.label, ref.split, ref.attributes) == (row["label"], row["split"], {"note": row["note"]})


def test_odd_names_come_through_a_pipeline(run, tmp_path, make_files):
    names = [
        "a b.jpg",
        "new\nline.jpg",
        "q'\".jpg",
        "[1]*?.jpg",
        "猫.jpg",
        b"latin-\xe9.jpg",
        "%41.jpg",
        "a,b.jpg",
    ]
    files = {os.fsdecode(name): f"{i}".encode() for i, name in enumerate(names)}
    root = make_files(tmp_path / "l,k [x]", {f"cat/{name}": data for name, data in files.items()})
    out = run(opened(root))
    assert accounts(out) == []
    assert sorted(image.data for image in out["images"]) == sorted(files.values())
    again = run(opened(root, only=[image.ref.key for image in out["images"]]))
    assert data_of(again) == data_of(out)


def test_a_messy_lake_is_accounted_for(run, tmp_path, make_files):
    root = make_files(
        tmp_path / "lake",
        {
            "cat/1.jpg": b"1",
            "cat/big.jpg": b"x" * 100,
            "cat/notes.txt": b"",
            "kat/2.jpg": b"2",
            "dog/3.jpg": b"3",
        },
    )
    os.symlink("nowhere", f"{root}/cat/broken.jpg")
    os.symlink(root, f"{root}/dog/loop")
    os.mkfifo(f"{root}/dog/pipe")
    os.symlink("pipe", f"{root}/dog/to-pipe.jpg")
    out = run(opened(root, classes=("cat", "dog"), max_file_bytes=50, threads=2, run_id="r7", attempt=3))
    assert accounts(out) == [
        (f"{root}/cat/big.jpg", "too_many_bytes"),
        (f"{root}/cat/broken.jpg", "not_found"),
        (f"{root}/dog/to-pipe.jpg", "not_an_image"),
        (f"{root}/kat/2.jpg", "unknown_label"),
    ]
    assert data_of(out) == keyed(root, {"cat/1.jpg": b"1", "dog/3.jpg": b"3"})
    assert {(failure.run_id, failure.attempt) for failure in out["failed"]} == {("r7", 3)}
    (unknown,) = (failure for failure in out["failed"] if failure.reason == "unknown_label")
    assert "nearest is 'cat'" in unknown.detail
    counts = metrics.TALLY.counts()
    assert (counts[metrics.LISTED], counts[metrics.FAILED], counts[metrics.SKIPPED_FILES]) == (6, 4, 2)
    assert counts[f"{metrics.FAILED}_not_found"] == 1


def test_a_messy_manifest_is_accounted_for(run, tmp_path, lake):
    rows = [
        "uri,label",
        "cat/1.jpg,cat",
        "cat/1.jpg,dog",
        "cat/1.jpg,cat",
        ",cat",
        "dog/3.png,dig",
        "a,b,c",
        "./cat/2.jpg,",
    ]
    path = tmp_path / "lake" / "m.csv"
    path.write_text("\n".join(rows))
    out = run(opened(path, classes=("cat", "dog")))
    assert accounts(out) == [
        (f"{lake}/cat/1.jpg", "duplicate_key"),
        (f"{lake}/cat/1.jpg", "duplicate_key"),
        (f"{lake}/dog/3.png", "unknown_label"),
        ("m.csv#5", "bad_manifest_row"),
        ("m.csv#7", "bad_manifest_row"),
    ]
    assert out["inputs"] == [7]
    kept = {image.ref.key: image.ref.label for image in out["images"]}
    assert kept == {f"{lake}/cat/1.jpg": "cat", f"{lake}/cat/2.jpg": None}
    path.write_text("\n".join(rows[:1] + rows[:0:-1]))
    again = run(opened(path, classes=("cat", "dog")))
    assert {image.ref.key: image.ref.label for image in again["images"]} == kept


def test_an_empty_source_has_no_inputs(run, tmp_path):
    (tmp_path / "lake").mkdir()
    out = run(opened(tmp_path / "lake"))
    assert (out["inputs"], out["already_done"], out["images"], out["failed"]) == ([0], [0], [], [])


@pytest.mark.parametrize("limit", [3, 9])
def test_limit_takes_the_first_by_key(run, lake, limit):
    out = run(opened(lake, limit=limit))
    assert sorted(data_of(out)) == sorted(keyed(lake, FILES))[:limit]
    assert out["inputs"] == [min(limit, 5)]


def test_limit_counts_failures_of_listing(run, tmp_path, lake):
    path = tmp_path / "lake" / "m.csv"
    path.write_text("uri\n" + "\n".join(["top.jpg", "top.jpg", "cat/1.jpg", ""]) + "bad,row\n")
    out = run(opened(path, limit=3))
    assert out["inputs"] == [3]
    assert accounts(out) == [(f"{lake}/top.jpg", "duplicate_key")]


def test_only_keys_and_without_keys(run, lake):
    keys = sorted(keyed(lake, FILES))
    out = run(opened(lake, without=[*keys[:2], "not there"]))
    assert accounts(out) == []
    assert (out["already_done"], out["inputs"]) == ([2], [5])
    assert sorted(data_of(out)) == keys[2:]
    assert metrics.TALLY.counts()[metrics.RESUMED] == 2

    out = run(opened(lake, only=[keys[0], keys[3], "gone.jpg", keys[3]]))
    assert accounts(out) == [("gone.jpg", "no_longer_listed")]
    assert sorted(data_of(out)) == [keys[0], keys[3]]
    assert out["inputs"] == [3]

    out = run(opened(lake, only=keys[:3], without=keys[2:]))
    assert (sorted(data_of(out)), out["already_done"], out["inputs"]) == (keys[:2], [1], [3])

    out = run(opened(lake, only=[*keys[1:], keys[4]], limit=2))
    assert (sorted(data_of(out)), out["inputs"]) == (keys[1:3], [2])

    out = run(opened(lake, only=[]))
    assert (out["inputs"], out["images"]) == ([0], [])


def test_only_keys_keeps_the_failures_of_its_keys(run, tmp_path, lake):
    path = tmp_path / "lake" / "m.csv"
    path.write_text("uri\ntop.jpg\na,b\n\ncat/1.jpg\ncat/1.jpg\nc,d\n")
    out = run(opened(path, only=["m.csv#3", f"{lake}/cat/1.jpg"]))
    assert accounts(out) == [(f"{lake}/cat/1.jpg", "duplicate_key"), ("m.csv#3", "bad_manifest_row")]
    assert sorted(data_of(out)) == [f"{lake}/cat/1.jpg"]


def write_dataset(folder, shards):
    folder.mkdir(parents=True)
    for name, records in shards.items():
        with open(folder / name, "wb") as file:
            for key, label in records:
                example = Example()
                features = example.features.feature
                features["image/encoded"].bytes_list.value.append(f"bytes of {key}".encode())
                features["image/key"].bytes_list.value.append(key.encode())
                features["image/class/text"].bytes_list.value.append(label.encode())
                write_record(file, example.SerializeToString())
    return str(folder)


@pytest.fixture
def dataset(tmp_path):
    train = [(f"k{i}", "cat") for i in range(6)]
    return write_dataset(
        tmp_path / "data",
        {
            "train-00000-of-00001.tfrecord": train,
            "test-00000-of-00001.tfrecord": [("k2", "cat"), ("k9", "dog")],
        },
    )


def test_tfrecords_like_plain_python(run, dataset):
    out = run(opened(dataset))
    assert accounts(out) == [("k2", "duplicate_key")]
    keys = [f"k{i}" for i in (0, 1, 2, 3, 4, 5, 9)]
    assert data_of(out) == {key: f"bytes of {key}".encode() for key in keys}
    splits = {image.ref.key: (image.ref.split, image.ref.label) for image in out["images"]}
    assert splits["k0"] == ("train", "cat")
    assert splits["k9"] == ("test", "dog")
    counts = metrics.TALLY.counts()
    assert (counts[metrics.LISTED], counts[metrics.READ]) == (8, 7)


def test_tfrecords_take_the_same_options(run, dataset):
    out = run(opened(dataset, limit=2))
    assert (sorted(data_of(out)), out["inputs"]) == (["k0", "k1"], [2])
    out = run(opened(dataset, only=["k1", "k9", "gone"], without=["k9"]))
    assert accounts(out) == [("gone", "no_longer_listed")]
    assert (sorted(data_of(out)), out["already_done"], out["inputs"]) == (["k1"], [1], [3])
    out = run(opened(f"{dataset}/t*.tfrecord", classes=("cat",)))
    assert accounts(out) == [("k2", "duplicate_key"), ("k9", "unknown_label")]


def test_whole_records_are_the_examples_themselves(run, lake, dataset):
    out = run(opened(f"{dataset}/train*.tfrecord", whole_records=True, limit=2))
    assert accounts(out) == []
    found = {key: Example.FromString(data).features.feature for key, data in data_of(out).items()}
    assert {key: list(f["image/encoded"].bytes_list.value) for key, f in found.items()} == {
        "k0": [b"bytes of k0"],
        "k1": [b"bytes of k1"],
    }
    with pytest.raises(UsageError, match="TFRecord"):
        run(opened(lake, whole_records=True))


def test_a_flipped_byte_in_a_shard_is_accounted_for(run, dataset):
    path = f"{dataset}/train-00000-of-00001.tfrecord"
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(size // 2 + 20)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    out = run(opened(f"{dataset}/train*", format="tfrecord", run_id="r"))
    ((key, reason),) = accounts(out)
    index = int(key.removeprefix(f"{path}#"))
    assert reason == "bad_record"
    assert 0 < index < 6
    assert set(data_of(out)) == {f"k{i}" for i in range(index)}
    assert out["failed"][0].run_id == "r"


def test_a_pattern_of_shards_without_a_match_is_a_failure(run, dataset):
    out = run(opened(f"{dataset}/x*.tfrecord", format="tfrecord"))
    assert accounts(out) == [(f"{dataset}/x*.tfrecord", "not_found")]


def test_list_images_refuses_tfrecords_and_gives_refs_once(run, lake, dataset):
    with pytest.raises(UsageError, match="TFRecords"):
        run(lambda pipeline: (pipeline | ListImages(dataset))._asdict())
    out = run(lambda pipeline: (pipeline | ListImages(f"{lake}/*.jpg,{lake}/cat/*", limit=2))._asdict())
    assert sorted(ref.key for ref in out["good"]) == [f"{lake}/cat/1.jpg", f"{lake}/cat/2.jpg"]
    assert out["failed"] == []


def test_read_images_alone(run, lake):
    refs = [ImageRef(key=f"k{i}", uri=f"{lake}/cat/1.jpg" if i % 2 else f"{lake}/none") for i in range(600)]

    def build(pipeline):
        return (pipeline | beam.Create(refs) | ReadImages(threads=3, run_id="r"))._asdict()

    out = run(build)
    assert sorted(image.ref.key for image in out["good"]) == sorted(f"k{i}" for i in range(1, 600, 2))
    assert {image.data for image in out["good"]} == {b"one"}
    assert collections.Counter(failure.reason for failure in out["failed"]) == {"not_found": 300}


def test_everything_from_a_bucket(run, bucket, tmp_path):
    from apache_beam.io.filesystems import FileSystems

    shard = write_dataset(tmp_path / "data", {"train.tfrecord": [("k0", "cat"), ("k1", "dog")]})
    with open(f"{shard}/train.tfrecord", "rb") as file:
        records = file.read()
    contents = {
        "lake/cat/1.jpg": b"1",
        "lake/cat/[2] x.jpg": b"22",
        "lake/cat/.hidden.jpg": b"",
        "lake/dog/deep/3.jpg": b"333",
        "lakeside/4.jpg": b"4",
        "m.csv": b'\xef\xbb\xbfuri,label\nlake/cat/1.jpg,cat\n"lake/none.jpg",dog\ngs://lake/lakeside/4.jpg,cat\n',
        "data/train.tfrecord": records,
    }
    for name, data in contents.items():
        with FileSystems.create(f"{bucket}/{name}") as file:
            file.write(data)
    out = run(opened(f"{bucket}/lake"))
    assert accounts(out) == []
    images = ("lake/cat/1.jpg", "lake/cat/[2] x.jpg", "lake/dog/deep/3.jpg")
    assert data_of(out) == {f"{bucket}/{name}": contents[name] for name in images}
    assert sorted(image.ref.label for image in out["images"]) == ["cat", "cat", "dog"]

    out = run(opened(f"{bucket}/lake/**/[1-3].jpg,{bucket}/lakeside/*", max_file_bytes=2))
    assert accounts(out) == [(f"{bucket}/lake/dog/deep/3.jpg", "too_many_bytes")]
    assert sorted(data_of(out)) == [f"{bucket}/lake/cat/1.jpg", f"{bucket}/lakeside/4.jpg"]

    out = run(opened(f"{bucket}/m.csv"))
    assert accounts(out) == [(f"{bucket}/lake/none.jpg", "not_found")]
    assert sorted(data_of(out)) == [f"{bucket}/lake/cat/1.jpg", f"{bucket}/lakeside/4.jpg"]

    out = run(opened(f"{bucket}/data"))
    assert data_of(out) == {"k0": b"bytes of k0", "k1": b"bytes of k1"}


def dofns():
    found = {}
    for module in (transforms, select):
        for name, value in inspect.getmembers(module, inspect.isclass):
            if issubclass(value, beam.DoFn) and value.__module__ == module.__name__:
                found[name] = value
    return found


def test_every_dofn_pickles():
    assert len(dofns()) >= 6
    for name, dofn in dofns().items():
        copy = pickler.loads(pickler.dumps(dofn()))
        assert type(copy) is dofn, name
        assert type(pickle.loads(pickle.dumps(dofn()))) is dofn, name


REF = st.builds(
    ImageRef,
    key=st.just("k"),
    uri=st.just("u"),
    labels=st.lists(st.sampled_from("abc"), max_size=2).map(tuple),
    split=st.sampled_from(["train", None]),
    attributes=st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2),
)


@given(st.lists(REF, min_size=1, max_size=6), st.randoms())
def test_which_duplicate_is_kept_depends_on_content_alone(refs, random):
    def kept(found):
        out = list(SelectDoFn().process(("k", {"listed": found})))
        good = [item for item in out if isinstance(item, ImageRef)]
        assert (len(good), len(out)) == (1, len(found))
        return canonical(good[0])

    shuffled = list(refs)
    random.shuffle(shuffled)
    assert kept(shuffled) == kept(refs) == min(map(canonical, refs))
