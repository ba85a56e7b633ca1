"""Every kind of damage to a dataset is found, and its place named."""

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from records_builder import make_dataset, refs_of

from beam_vision.errors import UsageError
from beam_vision.images.codec import encode_png
from beam_vision.records import schema, verify
from beam_vision.records.check import Checked, Place, Problem, ShardChecker
from beam_vision.records.encode import check_settings
from beam_vision.records.example import from_example, to_example
from beam_vision.records.manifest import Shard, read_manifest
from beam_vision.testing.images import photo
from beam_vision.tfrecord_io import Example, read_records, write_record
from beam_vision.types import Box


@pytest.fixture
def dataset(lake, tmp_path):
    make_dataset(tmp_path / "out", refs_of(lake))
    return tmp_path / "out"


@pytest.fixture
def check(dataset):
    """``check(shard)``: what :class:`ShardChecker` gives, by type."""
    manifest = read_manifest(str(dataset))
    with ThreadPoolExecutor(2) as pool:

        def run(shard, decode=True):
            checker = ShardChecker(
                str(dataset),
                manifest,
                kinds=verify.kinds_of(schema.build(manifest.classes, box_classes=manifest.box_classes)),
                decode=check_settings(10**8) if decode else None,
                pool=pool,
            )
            found = list(checker.check(shard))
            return {
                kind: [one for one in found if type(one) is kind] for kind in (bytes, Place, Problem, Checked)
            }

        yield run


@pytest.fixture
def shard(dataset):
    """The shard with the most images."""
    return max(read_manifest(str(dataset)).shards.values(), key=lambda shard: shard.images)


def records_of(path):
    with open(path, "rb") as file:
        return [from_example(Example.FromString(data)) for data in read_records(file)]


def rewrite(path, records):
    """Writes a shard of these records (or bytes); gives its entry in the manifest as it now would be."""
    with open(path, "wb") as file:
        for record in records:
            write_record(file, record if isinstance(record, bytes) else to_example(record))
    data = Path(path).read_bytes()
    return Shard(Path(path).name, len(records), len(data), hashlib.sha256(data).hexdigest())


def test_the_builder_makes_more_than_one_shard(dataset):
    manifest = read_manifest(str(dataset))
    assert len(manifest.splits["train"].shards) > 1
    assert manifest.images == 24


def test_a_sound_shard(check, dataset, shard):
    found = check(shard)
    assert found[Problem] == []
    assert [from_example(Example.FromString(data)) for data in found[bytes]] == records_of(
        dataset / shard.name
    )
    assert len(found[Place]) == shard.images
    assert found[Checked][0].images == shard.images
    assert sum(found[Checked][0].classes.values()) == shard.images


def test_damage_within_a_record(check, dataset, shard):
    path = dataset / shard.name
    data = bytearray(path.read_bytes())
    first = len(to_example(records_of(path)[0])) + 16
    data[first + 20] ^= 1
    path.write_bytes(data)
    found = check(shard)
    assert [str(problem) for problem in found[Problem]] == [
        f"{shard.name}: record 1 at byte {first}: the checksum of its data is wrong",
        f"{shard.name}: {found[Problem][1].what}",
    ]
    assert found[Problem][1].what.startswith("its sha256 is ")
    assert found[Checked][0].images == 1


def test_a_shard_cut_short(check, dataset, shard):
    path = dataset / shard.name
    path.write_bytes(path.read_bytes()[:-5])
    whats = [problem.what for problem in check(shard)[Problem]]
    assert whats[0] == "the file ends within the data"
    assert whats[1] == f"it has {shard.bytes - 5} bytes, by the manifest {shard.bytes}"


def test_a_record_lost_at_its_edge(check, dataset, shard):
    """The frames are whole, so only the counts can tell."""
    rewrite(dataset / shard.name, records_of(dataset / shard.name)[:-1])
    whats = [problem.what for problem in check(shard)[Problem]]
    assert whats[0] == f"it has {shard.images - 1} records, by the manifest {shard.images}"


def test_swapped_shards_are_recognised(check, dataset):
    one, other = [shard for shard in read_manifest(str(dataset)).shards.values() if shard.images][:2]
    (dataset / one.name).rename(dataset / "aside")
    (dataset / other.name).rename(dataset / one.name)
    (dataset / "aside").rename(dataset / other.name)
    assert any(
        problem.what.endswith(f"these are the bytes of {other.name}") for problem in check(one)[Problem]
    )
    assert any(
        problem.what.endswith(f"these are the bytes of {one.name}") for problem in check(other)[Problem]
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: replace(r, data=r.data[:200]), "its image can't be decoded: "),
        (
            lambda r: replace(r, data=encode_png(photo(1, 9, 9))),
            "its image has 9 x 9 pixels, the record says ",
        ),
        (lambda r: replace(r, labels=("horse",)), "label 'horse' is not in the class list"),
        (lambda r: replace(r, label_ids=(7,)), "labels ["),
        (lambda r: replace(r, label_ids=()), "labels ["),
        (lambda r: replace(r, key=""), "it follows key "),
        (lambda r: b"\xff\xff", "not a tf.train.Example"),
        (lambda r: Example().SerializeToString(), "feature 'image/key' has 0 values instead of one"),
    ],
)
def test_a_record_that_is_wrong_in_itself(check, dataset, shard, change, said):
    """Its checksums are right, and so is the manifest."""
    records = records_of(dataset / shard.name)
    now = rewrite(dataset / shard.name, [records[0], change(records[1]), *records[2:]])
    problems = check(now)[Problem]
    assert problems[0].what.startswith(said), problems
    assert problems[0].where.startswith(f"record 1 at byte {len(to_example(records[0])) + 16}")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("image/class/text", {"int64_list": {"value": [1]}}, "is INT, by the schema BYTES"),
        ("image/height", {"float_list": {"value": [1.0]}}, "is FLOAT, by the schema INT"),
        ("extra", {"int64_list": {"value": [1]}}, "is not in the schema"),
        ("image/format", {}, "is None, by the schema BYTES"),
    ],
)
def test_a_feature_that_is_not_as_in_the_schema(check, dataset, shard, name, value, said):
    records = records_of(dataset / shard.name)
    example = Example.FromString(to_example(records[0]))
    feature = example.features.feature[name]
    feature.Clear()
    for kind, values in value.items():
        getattr(feature, kind).value.extend(values["value"])
    found = check(rewrite(dataset / shard.name, [example.SerializeToString(), *records[1:]]))
    assert [problem.what for problem in found[Problem]] == [f"feature {name!r} {said}"]
    assert len(found[bytes]) == len(records) - 1, "TFXIO never sees what it would stumble over"


BOX = Box(0.25, 0.25, 0.5, 1, "dog", area_px=9.0)


class TestBoxes:
    @pytest.fixture
    def dataset(self, lake, tmp_path):
        refs = [
            replace(ref, boxes=[Box(0, 0, 9, 9, "cat"), Box(1, 1, 20, 9, "dog", crowd=True)][: n % 3])
            for n, ref in enumerate(refs_of(lake))
        ]
        manifest = make_dataset(tmp_path / "out", refs)
        assert manifest.boxes == {"cat": 16, "dog": 8}
        return tmp_path / "out"

    def test_sound_ones(self, check, shard):
        found = check(shard)
        assert found[Problem] == []
        assert sum(found[Checked][0].boxes.values()) > 0

    @pytest.mark.parametrize(
        ("box", "number", "said"),
        [
            (
                replace(BOX, xmax=1.5),
                2,
                "box 0 (0.25, 0.25, 1.5, 1.0) (xmin, ymin, xmax, ymax) is no box in 0..1",
            ),
            (replace(BOX, ymin=-0.5), 2, "box 0 ("),
            (replace(BOX, xmax=0.25), 2, "box 0 ("),
            (replace(BOX, ymin=math.nan), 2, "box 0 ("),
            (replace(BOX, area_px=-1.0), 2, "box 0 has an area of -1.0 pixels"),
            (replace(BOX, area_px=math.nan), 2, "box 0 has an area of nan pixels"),
            (BOX, 1, "boxes ['dog'] have ids [1], by the label map [2]"),
            (replace(BOX, label="pig"), 2, "category 'pig' is not in the class list"),
        ],
    )
    def test_one_that_is_wrong(self, check, dataset, shard, box, number, said):
        records = records_of(dataset / shard.name)
        bad = replace(records[1], boxes=(box,), box_ids=(number,))
        problems = check(rewrite(dataset / shard.name, [records[0], bad, *records[2:]]))[Problem]
        assert len(problems) == 1, problems
        assert problems[0].what.startswith(said)
        assert problems[0].where.startswith("record 1 at byte ")

    def test_boxes_without_ids(self, check, dataset, shard):
        records = records_of(dataset / shard.name)
        bad = replace(records[1], boxes=(BOX,), box_ids=())
        problems = check(rewrite(dataset / shard.name, [records[0], bad, *records[2:]]))[Problem]
        assert [problem.what for problem in problems] == ["boxes ['dog'] have ids [], by the label map [2]"]

    def test_more_labels_than_corners(self, check, dataset, shard):
        records = records_of(dataset / shard.name)
        example = Example.FromString(to_example(replace(records[0], boxes=(BOX,), box_ids=(2,))))
        example.features.feature["image/object/class/text"].bytes_list.value.append(b"dog")
        found = check(rewrite(dataset / shard.name, [example.SerializeToString(), *records[1:]]))[Problem]
        said = "feature 'image/object/class/text' has 2 values, 'image/object/bbox/xmin' has 1"
        assert [problem.what for problem in found] == [said]

    def test_the_label_map(self, dataset):
        manifest = read_manifest(str(dataset))
        path = dataset / "label_map.pbtxt"
        assert verify.check_label_map(str(dataset), manifest) == []
        path.write_text(path.read_text().replace("dog", "fox"))
        (problem,) = verify.check_label_map(str(dataset), manifest)
        assert problem.what.startswith("its ids are not those")
        path.unlink()
        assert verify.check_label_map(str(dataset), manifest) == [Problem("label_map.pbtxt", "", "missing")]

    def test_counts(self, dataset):
        manifest = read_manifest(str(dataset))
        checked = [
            Checked(split.shards[0].name, name, split.images, 1, split.classes, split.boxes)
            for name, split in manifest.splits.items()
        ]
        assert verify.check_counts(manifest, checked) == []
        fewer = replace(checked[0], boxes={**checked[0].boxes, "dog": 99})
        (problem,) = verify.check_counts(manifest, [fewer, *checked[1:]])
        assert problem.what.startswith("99 boxes are of category 'dog', by the manifest ")

    def test_a_dataset_of_an_earlier_version_is_read(self, check, dataset, shard):
        """It has boxes without ids, and a manifest that says nothing of them."""
        value = json.loads((dataset / "manifest.json").read_text())
        new = ("box_classes", "boxes", "most_boxes", "boxes_clipped", "annotations_failed")
        value = {name: member for name, member in value.items() if not name.startswith(new)}
        for split in value["splits"].values():
            del split["boxes"]
        (dataset / "manifest.json").write_text(json.dumps(value))
        manifest = read_manifest(str(dataset))
        assert (manifest.box_classes, manifest.most_boxes, manifest.annotations_failed) == ([], 0, 0)
        records = [
            replace(record, box_ids=(), boxes=[Box(0, 0, 0.5, 1, b.label) for b in record.boxes])
            for record in records_of(dataset / shard.name)
        ]
        checker = ShardChecker(
            str(dataset),
            manifest,
            kinds=verify.kinds_of(verify.read_schema(str(dataset))[0]),
            decode=None,
            pool=ThreadPoolExecutor(1),
        )
        found = list(checker.check(rewrite(dataset / shard.name, records)))
        assert [one for one in found if isinstance(one, Problem)] == []


def test_images_need_not_be_decoded(check, dataset, shard):
    records = records_of(dataset / shard.name)
    now = rewrite(dataset / shard.name, [replace(records[0], data=b"no image"), *records[1:]])
    assert check(now, decode=False)[Problem] == []


def test_files_that_are_missing_or_too_many(dataset):
    manifest = read_manifest(str(dataset))
    shards, problems = verify.check_files(str(dataset), manifest)
    assert (shards, problems) == (sorted(manifest.shards.values(), key=lambda s: s.name), [])
    first, second, *_ = sorted(manifest.shards)
    (dataset / first).unlink()
    (dataset / second).rename(dataset / "other-00000-of-00001.tfrecord")
    (dataset / "other-00000-of-00001.tfrecord.json").touch()
    (dataset / "notes.txt").touch()
    shards, problems = verify.check_files(str(dataset), manifest)
    assert {shard.name for shard in shards} == manifest.shards.keys() - {first, second}
    assert [str(problem) for problem in problems] == [
        f"{first}: missing; the manifest lists it",
        f"{second}: missing; the manifest lists it",
        "other-00000-of-00001.tfrecord: not in the manifest",
        "other-00000-of-00001.tfrecord.json: not in the manifest",
    ]


def test_schema_file(dataset):
    built, problems = verify.read_schema(str(dataset))
    assert built == schema.build(read_manifest(str(dataset)).classes)
    assert problems == []
    (dataset / "schema.pbtxt").write_text("nonsense {")
    assert verify.read_schema(str(dataset))[1][0].what.startswith("not a schema")
    (dataset / "schema.pbtxt").unlink()
    assert verify.read_schema(str(dataset))[1][0].what == "missing"


def test_copies_and_keys():
    places = [Place("a", "s", "train", "t1"), Place("b", "s", "train", "t2")]
    assert verify.check_copies("s", places) == []
    assert verify.check_copies("s", [*places, Place("c", "s", "test", "x")]) == [
        Problem("x", "key c", "the same bytes (sha256 s) are in t1, key a")
    ]
    assert verify.check_key("a", places[:1]) == []
    assert verify.check_key("a", [places[0], replace(places[0], shard="t9")]) == [
        Problem("t1", "key a", "stands in t9 too")
    ]


def test_counts(dataset):
    manifest = read_manifest(str(dataset))
    checked = [
        Checked(split.shards[0].name, name, split.images, 1, {k: v for k, v in split.classes.items() if v})
        for name, split in manifest.splits.items()
    ]
    assert verify.check_counts(manifest, checked) == []
    fewer = replace(checked[0], classes={**checked[0].classes, "blue": 99})
    (problem,) = verify.check_counts(manifest, [fewer, *checked[1:]])
    assert problem.where == f"split {fewer.split}"
    assert problem.what.startswith("99 images have label 'blue'")


class TestManifest:
    def test_round_trip(self, dataset):
        manifest = read_manifest(str(dataset))
        assert type(manifest).from_json(manifest.to_json()) == manifest

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"kind": "beam-vision table"}, "not the manifest of a TFRecord dataset"),
            ({"format_version": 99}, "newer beam-vision"),
            ({"splits": 3}, "damaged"),
            ({"splits": {"a": {}}}, "damaged"),
        ],
    )
    def test_another_or_a_damaged_one(self, dataset, change, said):
        path = dataset / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
        with pytest.raises(UsageError, match=said):
            read_manifest(str(dataset))

    @pytest.mark.parametrize("text", ["", "[]", "{", "null"])
    def test_no_json(self, dataset, text):
        (dataset / "manifest.json").write_text(text)
        with pytest.raises(UsageError, match="manifest"):
            read_manifest(str(dataset))

    def test_none(self, tmp_path):
        with pytest.raises(UsageError, match=r"has no manifest\.json"):
            read_manifest(str(tmp_path))
