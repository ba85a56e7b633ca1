"""The shared files: errors, digests, storage, the table's manifest, failures."""

import json
import os
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_vision import digest, storage, table
from beam_vision.errors import Reason, Stage, UsageError, VisionError
from beam_vision.failures import MAX_DETAIL_CHARS, Guard, failure, shorten
from beam_vision.types import Failure, ImageRef

REF = ImageRef(key="a.jpg", uri="/lake/a.jpg")


def test_vision_error_pickles_with_its_reason():
    error = pickle.loads(pickle.dumps(VisionError(Reason.TRUNCATED, "ends at byte 7", key="k")))
    assert (error.reason, error.detail, error.key) == (Reason.TRUNCATED, "ends at byte 7", "k")
    assert not error.transient
    assert VisionError(Reason.READ_ERROR, "timeout").transient


@given(st.dictionaries(st.text(), st.one_of(st.integers(), st.text(), st.booleans()), max_size=5))
def test_settings_digest_does_not_depend_on_order(settings):
    turned = dict(reversed(list(settings.items())))
    assert digest.settings_digest(settings) == digest.settings_digest(turned)
    assert len(digest.settings_digest(settings)) == 16


@given(st.text(), st.integers(1, 1000))
def test_bucket_and_fraction_are_in_range(text, buckets):
    assert 0 <= digest.bucket(text, buckets) < buckets
    assert 0.0 <= digest.fraction(text) < 1.0


def test_buckets_are_even():
    counts = [0] * 8
    for number in range(8000):
        counts[digest.bucket(f"image-{number}", 8)] += 1
    assert min(counts) > 850
    assert max(counts) < 1150


def test_a_write_that_fails_leaves_nothing(tmp_path):
    path = str(tmp_path / "deep" / "a.bin")
    with pytest.raises(RuntimeError, match="half way"), storage.open_write(path) as file:
        file.write(b"half")
        raise RuntimeError("half way")
    assert not os.path.exists(path)
    assert storage.list_folder(str(tmp_path / "deep")) == []


def test_a_write_that_fails_keeps_what_was_there(tmp_path):
    path = str(tmp_path / "a.bin")
    storage.write_bytes(path, b"old")
    with pytest.raises(RuntimeError), storage.open_write(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert storage.read_bytes(path) == b"old"


def test_storage_reads_what_it_wrote(tmp_path):
    folder = str(tmp_path / "x")
    storage.write_json(storage.join(folder, "a.json"), {"b": [1, 2], "ü": "é"})
    storage.write_bytes(storage.join(folder, ".hidden", "c.bin"), b"\x00\xff")
    assert storage.read_json(storage.join(folder, "a.json")) == {"b": [1, 2], "ü": "é"}
    assert storage.list_folder(folder) == ["a.json"]
    assert storage.list_tree(folder) == [f"{folder}/.hidden/c.bin", f"{folder}/a.json"]
    storage.rename(storage.join(folder, "a.json"), storage.join(folder, "sub", "b.json"))
    assert storage.exists(storage.join(folder, "sub", "b.json"))
    storage.delete_folder(folder)
    assert not storage.exists(folder)


def test_json_never_holds_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        storage.write_json(str(tmp_path / "a.json"), {"x": float("nan")})


def manifest(**changes):
    parts = [table.Part("part-0.parquet", rows=2, bytes=10)]
    return table.TableManifest(parts=parts, rows=2, run_id="r", task="embed", **changes)


def test_table_manifest_round_trip():
    value = json.loads(json.dumps(manifest(embedding_dim=4, failed_by_reason={"empty": 1}).to_json()))
    assert table.TableManifest.from_json(value) == manifest(embedding_dim=4, failed_by_reason={"empty": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kind": "beam-vision index"}, "not of a table"), ({"format_version": 99}, "newer")],
)
def test_table_manifest_refuses_other_kinds(change, message):
    with pytest.raises(UsageError, match=message):
        table.TableManifest.from_json({**manifest().to_json(), **change})


def test_part_paths_follow_the_manifest_and_name_a_missing_part(tmp_path):
    folder = str(tmp_path)
    with pytest.raises(UsageError, match="no table at"):
        table.part_paths(folder)
    storage.write_bytes(storage.join(folder, "part-0.parquet"), b"x")
    storage.write_bytes(storage.join(folder, "part-old.parquet"), b"x")
    assert len(table.part_paths(folder)) == 2
    storage.write_json(storage.join(folder, table.MANIFEST), manifest().to_json())
    assert table.part_paths(folder) == [storage.join(folder, "part-0.parquet")]
    storage.delete(storage.join(folder, "part-0.parquet"))
    with pytest.raises(UsageError, match=r"lacks .*part-0"):
        table.part_paths(folder)


def test_table_schema_has_the_contract_columns():
    names = table.schema(predictions=True, embedding_dim=8, boxes=True).names
    assert names == [
        *("key", "uri", "label", "prediction", "score", "predictions", "embedding", "boxes"),
        *(
            "exif_orientation",
            "width",
            "height",
            "model_digest",
            "preprocessing_digest",
            "run_id",
            "attributes",
        ),
    ]
    assert "prediction" not in table.schema(predictions=False, embedding_dim=None).names


def test_guard_gives_the_result_or_the_failure():
    def work(kind):
        if kind == "vision":
            raise VisionError(Reason.EMPTY, "no bytes")
        if kind == "memory":
            raise MemoryError
        if kind == "other":
            raise ZeroDivisionError("1/0")
        return kind

    guard = Guard(work, Stage.DECODE, run_id="r", attempt=2)
    assert guard(REF, "fine") == "fine"
    assert guard(REF, "vision") == Failure("a.jpg", "/lake/a.jpg", "decode", "empty", "no bytes", 2, "r")
    assert guard(REF, "memory").reason == "out_of_memory"
    assert guard(REF, "other").detail == "ZeroDivisionError: 1/0"


def test_guard_does_not_hold_back_an_interrupt():
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guard(stop, Stage.READ)(REF)


def test_a_dead_letter_carries_no_payload():
    made = failure(ValueError("x" * 10_000_000), REF, Stage.READ)
    assert len(made.detail) <= MAX_DETAIL_CHARS
    assert shorten("a\n b\x00 \ud800") == "a b\x00 \\ud800"
