"""``verify-tfrecords`` finds each kind of damage and names the shard and the place."""

import hashlib
import json
import shutil
from dataclasses import replace

import pytest

from beam_vision.pipelines import cli
from beam_vision.records.example import from_example, to_example
from beam_vision.records.manifest import read_manifest
from beam_vision.testing.images import make_lake
from beam_vision.tfrecord_io import Example, read_records, write_record


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset of several shards."""
    folder = tmp_path_factory.mktemp("verify")
    make_lake(folder / "lake", per_class=8)
    options = ["--target_shard_bytes", "6000", "--splits", "train=0.6,test=0.4"]
    argv = ["--images", str(folder / "lake"), "--output", str(folder / "out"), *options]
    assert cli.main(["create-tfrecords", *argv]) == 0
    return folder / "out"


@pytest.fixture
def dataset(whole, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(whole, tmp_path / "dataset")


@pytest.fixture
def verify(dataset, capfd):
    """``verify(*options)``: (exit code, what was printed, what was said on stderr)."""

    def run(*options):
        capfd.readouterr()
        code = cli.main(["verify-tfrecords", str(dataset), *options])
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def shards(dataset):
    """Shards with at least two images, in the order of their names, of both splits."""
    manifest = read_manifest(str(dataset))
    found = [shard for _, shard in sorted(manifest.shards.items()) if shard.images >= 2]
    assert {shard.name.split("-")[0] for shard in found} == {"train", "test"}
    return found


def records_of(path):
    with open(path, "rb") as file:
        return [from_example(Example.FromString(data)) for data in read_records(file)]


def rewrite(dataset, name, records):
    """Writes a shard, and puts its size, sha256 and count into the manifest: a forgery."""
    with open(dataset / name, "wb") as file:
        for record in records:
            write_record(file, to_example(record))
    data = (dataset / name).read_bytes()
    manifest = json.loads((dataset / "manifest.json").read_text())
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            if shard["name"] == name:
                sha256 = hashlib.sha256(data).hexdigest()
                shard.update(bytes=len(data), sha256=sha256, images=len(records))
    (dataset / "manifest.json").write_text(json.dumps(manifest))


def test_a_whole_dataset(verify, dataset):
    code, out, _ = verify()
    manifest = read_manifest(str(dataset))
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["split", "shards", "images", "MB", "classes"]
    for line, name in zip(lines[1:3], sorted(manifest.splits), strict=True):
        split = manifest.splits[name]
        assert line.split()[:3] == [name, str(len(split.shards)), str(split.images)]
    assert "is whole" in lines[3]
    assert manifest.dataset_digest in lines[3]


def test_a_flipped_byte(verify, dataset, shards):
    path = dataset / shards[0].name
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)
    code, out, err = verify()
    assert code == 1
    last = shards[0].images - 1
    assert f"{path.name}: record {last} at byte " in out
    assert "the checksum of its data is wrong" in out
    assert f"{path.name}: its sha256 is {hashlib.sha256(data).hexdigest()}" in out
    assert "2 problems" in err
    assert not any(shard.name in out for shard in shards[1:])


def test_a_shard_cut_short(verify, dataset, shards):
    path = dataset / shards[0].name
    path.write_bytes(path.read_bytes()[:-7])
    code, out, _ = verify()
    assert code == 1
    assert f"{path.name}: record {shards[0].images - 1} at byte " in out
    assert "the file ends within the data" in out


def test_a_missing_and_a_renamed_shard(verify, dataset, shards):
    (dataset / shards[0].name).unlink()
    (dataset / shards[1].name).rename(dataset / "extra-00000-of-00001.tfrecord")
    code, out, _ = verify()
    assert code == 1
    assert out.splitlines() == [
        f"{shards[0].name}: missing; the manifest lists it",
        f"{shards[1].name}: missing; the manifest lists it",
        "extra-00000-of-00001.tfrecord: not in the manifest",
    ]


def test_swapped_shards(verify, dataset, shards):
    one, other = shards[0].name, shards[-1].name
    (dataset / one).rename(dataset / "aside")
    (dataset / other).rename(dataset / one)
    (dataset / "aside").rename(dataset / other)
    code, out, _ = verify()
    assert code == 1
    assert f"these are the bytes of {other}" in out
    assert f"these are the bytes of {one}" in out


def test_the_same_bytes_in_two_splits(verify, dataset, shards):
    """Everything fits but for one image, of which a copy lies in the other split."""
    train = next(shard.name for shard in shards if shard.name.startswith("train"))
    test = next(shard.name for shard in shards if shard.name.startswith("test"))
    taken, records = records_of(dataset / train)[0], records_of(dataset / test)
    copy = replace(records[0], content_sha256=taken.content_sha256)
    rewrite(dataset, test, [copy, *records[1:]])
    code, out, _ = verify()
    assert code == 1
    same = f"the same bytes (sha256 {taken.content_sha256}) are in {train}, key {taken.key}"
    assert out.splitlines() == [f"{test}: key {copy.key}: {same}"]


def test_a_key_in_two_shards(verify, dataset, shards):
    one, other = [shard.name for shard in shards if shard.name.startswith("train")][:2]
    moved = records_of(dataset / one)[0]
    rewrite(dataset, other, sorted([*records_of(dataset / other), moved], key=lambda record: record.key))
    code, out, _ = verify()
    assert code == 1
    assert f"key {moved.key}: stands in {max(one, other)} too" in out


def test_an_image_that_can_not_be_decoded(verify, dataset, shards):
    records = records_of(dataset / shards[0].name)
    rewrite(dataset, shards[0].name, [replace(records[0], data=records[0].data[:150]), *records[1:]])
    code, out, _ = verify()
    assert code == 1
    assert f"{shards[0].name}: record 0 at byte 0, key {records[0].key}: its image can't be decoded" in out
    assert verify("--no-decode")[0] == 0


def test_a_label_that_is_not_in_the_class_list(verify, dataset, shards):
    records = records_of(dataset / shards[0].name)
    rewrite(dataset, shards[0].name, [*records[:-1], replace(records[-1], labels=("horse",))])
    code, out, _ = verify()
    assert code == 1
    assert "label 'horse' is not in the class list" in out


def test_labels_that_were_exchanged(verify, dataset, shards):
    records = records_of(dataset / shards[0].name)
    before = records[0].labels[0]
    after, number = ("red", 2) if before != "red" else ("blue", 0)
    rewrite(
        dataset, shards[0].name, [replace(records[0], labels=(after,), label_ids=(number,)), *records[1:]]
    )
    code, out, _ = verify()
    assert code == 1
    assert f"split {shards[0].name.split('-')[0]}: " in out


def test_a_damaged_schema(verify, dataset):
    path = dataset / "schema.pbtxt"
    path.write_text(path.read_text().replace('name: "image/key"', 'name: "image/kay"'))
    code, out, _ = verify()
    assert code == 1
    assert "feature 'image/key' is not in the schema" in out
    path.unlink()
    assert verify()[1] == "schema.pbtxt: missing\n"


def test_a_required_feature_that_only_the_schema_knows(verify, dataset):
    path = dataset / "schema.pbtxt"
    path.write_text(
        path.read_text()
        + 'feature { name: "extra" type: INT presence { min_fraction: 1 } shape { dim { size: 1 } } }'
    )
    assert verify()[1] == "read through TFXIO: feature 'extra' is missing from all records\n"


def test_the_report_has_it_all(verify, dataset, shards, tmp_path):
    (dataset / shards[0].name).unlink()
    code, out, _ = verify("--report", str(tmp_path / "report.json"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert code == 1
    assert report["problems"] == out.splitlines()
    assert set(report["splits"]) == {"train", "test"}


def test_no_dataset_and_no_manifest(verify, dataset, tmp_path, capfd):
    (dataset / "manifest.json").unlink()
    code, _, err = verify()
    assert code == 2
    assert "has no manifest.json" in err
    assert cli.main(["verify-tfrecords", str(tmp_path / "absent")]) == 2


def test_preflight_only(verify, dataset):
    code, out, _ = verify("--preflight_only")
    manifest = read_manifest(str(dataset))
    assert code == 0
    assert json.loads(out)["images"] == manifest.images == 24
    assert json.loads(out)["shards"] == len(manifest.shards)


def test_a_runner_elsewhere_needs_a_place_for_the_report(verify):
    code, _, err = verify("--runner", "DataflowRunner")
    assert code == 2
    assert "--report is needed" in err
