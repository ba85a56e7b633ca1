"""Bundles: read from anywhere, written whole, and refused when digests differ."""

import dataclasses
import json
import os
import shutil

import pytest
from apache_beam.io.filesystem import FileMetadata
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.localfilesystem import LocalFileSystem

from beam_vision.errors import DigestMismatch, UsageError
from beam_vision.inference import bundle
from beam_vision.inference.bundle import (
    find_files,
    model_digest,
    read_bundle,
    set_latest,
    write_bundle,
    write_spec,
)
from beam_vision.inference.loader import load
from beam_vision.inference.spec import ModelSpec
from beam_vision.testing import models


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return models.save_saved_model(str(tmp_path_factory.mktemp("model") / "m"))


def test_a_bundle_is_found_in_all_its_forms(saved, tmp_path):
    keras = models.save_keras(str(tmp_path / "any_name.keras"))
    onnx = models.save_onnx(str(tmp_path / "model.onnx"))
    (tmp_path / "folder").mkdir()
    shutil.copy(keras, tmp_path / "folder" / "model.keras")
    assert find_files(saved).path == saved
    assert find_files(saved + "/").model_format == "saved_model"
    assert find_files(keras).path == keras
    assert find_files(onnx).model_format == "onnx"
    assert find_files(str(tmp_path / "folder")).path == str(tmp_path / "folder" / "model.keras")
    assert find_files(str(tmp_path)).path == onnx  # `model.*` goes before any other name


def test_a_root_of_versions_is_followed_through_latest(saved, tmp_path):
    root = tmp_path / "models"
    shutil.copytree(saved, root / "v1")
    shutil.copytree(saved, root / "v2")
    with pytest.raises(UsageError, match=r"no model at .*LATEST"):
        find_files(str(root))
    set_latest(str(root), "v2")
    assert find_files(str(root)).path == str(root / "v2")
    with pytest.raises(UsageError, match=r"no model at .*v3"):
        set_latest(str(root), "v3")
    assert find_files(str(root)).path == str(root / "v2")


@pytest.mark.parametrize("name", ["nothing", "empty", "a.keras"])
def test_no_model_is_said_so(name, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no model at"):
        read_bundle(str(tmp_path / name))


def test_several_models_in_a_folder_must_be_told_apart(tmp_path):
    models.save_onnx(str(tmp_path / "a.onnx"))
    models.save_onnx(str(tmp_path / "b.onnx"))
    with pytest.raises(UsageError, match=r"several models \(a.onnx, b.onnx\)"):
        read_bundle(str(tmp_path))
    assert read_bundle(str(tmp_path / "b.onnx")).classes == 4


def test_write_and_read_give_the_same_spec(tmp_path):
    target = str(tmp_path / "bundle")
    said = {"labels": models.LABELS, "metrics": {"accuracy": 0.5}, "embedding_output": "quadrants"}
    written = write_bundle(target, lambda d: models.save_keras(f"{d}/model.keras"), said)
    assert read_bundle(target) == written
    assert (written.value_range, written.classes, written.embedding_dim) == ("0..255", 4, 12)
    stored = json.loads((tmp_path / "bundle" / "model_spec.json").read_text())
    assert stored["model_digest"] == written.model_digest
    assert stored["preprocessing_digest"] == written.preprocessing_digest
    assert sorted(os.listdir(tmp_path)) == ["bundle"]
    assert load(target, written).spec is written


def test_a_bundle_whose_saving_fails_leaves_nothing(tmp_path):
    def half(folder):
        models.save_keras(f"{folder}/model.keras")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_bundle(str(tmp_path / "bundle"), half, {})
    assert os.listdir(tmp_path) == []


def test_a_bundle_that_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(UsageError, match="3 labels were given but the output 'scores' has 4"):
        write_bundle(
            str(tmp_path / "bundle"),
            lambda d: models.save_keras(f"{d}/model.keras"),
            {"labels": ("a", "b", "c")},
        )
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_unasked(saved, tmp_path):
    target = str(tmp_path / "bundle")
    copy = lambda d: shutil.copytree(saved, d, dirs_exist_ok=True)  # noqa: E731
    write_bundle(target, copy, {"labels": models.LABELS})
    with pytest.raises(UsageError, match="is there already"):
        write_bundle(target, copy, {})
    assert read_bundle(target).labels == models.LABELS
    write_bundle(target, copy, {}, overwrite=True)
    assert read_bundle(target).labels == ()


def test_changed_files_are_refused_with_both_digests(saved, tmp_path):
    target = str(tmp_path / "bundle")
    spec = write_bundle(target, lambda d: shutil.copytree(saved, d, dirs_exist_ok=True), {})
    (tmp_path / "bundle" / "assets").mkdir(exist_ok=True)
    (tmp_path / "bundle" / "assets" / "more.txt").write_text("x")
    with pytest.raises(DigestMismatch) as caught:
        read_bundle(target)
    assert caught.value.expected == spec.model_digest
    assert caught.value.found != spec.model_digest
    with pytest.raises(DigestMismatch, match="changed since the job began"):
        load(target, spec)


def test_changed_settings_are_refused_until_accepted(saved, tmp_path):
    target = tmp_path / "bundle"
    write_bundle(str(target), lambda d: shutil.copytree(saved, d, dirs_exist_ok=True), {})
    path = target / "model_spec.json"
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "resize": "letterbox"}))
    with pytest.raises(DigestMismatch, match="remove preprocessing_digest"):
        read_bundle(str(target))
    del value["preprocessing_digest"]
    path.write_text(json.dumps({**value, "resize": "letterbox"}))
    assert read_bundle(str(target)).resize == "letterbox"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ('{"lables": []}', "unknown keys lables; known are activation"),
        ('{"resize": "squash"}', "resize is 'squash'; it must be one of stretch, letterbox, center_crop"),
        ('{"height_px": "8"}', r"height_px is '8'; it must be of type int \| None"),
        ('{"labels": "abc"}', r"labels is 'abc'; it must be of type tuple\[str"),
        ('{"labels": ["a", 2]}', "labels is"),
        ('{"pad_rgb": [1, 2]}', "pad_rgb is"),
        ('{"threshold": true}', "threshold is True; it must be of type"),
        ('{"metrics": {"accuracy": "high"}}', "metrics is"),
        ('{"height_px": 9}', "height_px 9 was asked for, but the model's input has 8"),
    ],
)
def test_a_bad_spec_is_told(text, message, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    (tmp_path / "m" / "model_spec.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_bundle(str(tmp_path / "m"))


def test_a_spec_is_written_beside_a_model_but_not_beside_several(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    spec = read_bundle(str(tmp_path / "m"), {"labels": models.LABELS, "resize": "letterbox"})
    assert write_spec(str(tmp_path / "m"), spec) == str(tmp_path / "m" / "model_spec.json")
    assert read_bundle(str(tmp_path / "m")) == spec
    for name in ("a.onnx", "b.onnx"):
        models.save_onnx(str(tmp_path / name))
    with pytest.raises(UsageError, match="several models"):
        write_spec(str(tmp_path / "a.onnx"), read_bundle(str(tmp_path / "a.onnx")))
    assert not (tmp_path / "model_spec.json").exists()


def test_flags_win_over_the_spec_and_the_spec_over_what_is_found(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "m")
    (tmp_path / "m" / "model_spec.json").write_text('{"value_range": "-1..1", "resize": "letterbox"}')
    spec = read_bundle(str(tmp_path / "m"), {"resize": "center_crop", "value_range": "", "threshold": 0.0})
    assert (spec.value_range, spec.resize, spec.threshold) == ("-1..1", "center_crop", 0.0)
    assert not any("assumption" in note for note in spec.notes)
    assert any("assumption" in note for note in read_bundle(saved).notes)


def test_the_model_digest_is_of_content_and_of_what_is_asked(saved, tmp_path):
    copied = str(tmp_path / "elsewhere")
    shutil.copytree(saved, copied)
    spec = read_bundle(saved)
    os.utime(copied + "/saved_model.pb", (1, 1))
    (tmp_path / "elsewhere" / "fingerprint.pb").write_bytes(b"other")
    assert model_digest(copied, spec) == spec.model_digest
    assert (
        read_bundle(copied, {"labels": models.LABELS, "resize": "letterbox"}).model_digest
        == spec.model_digest
    )
    other = dataclasses.replace(spec, embedding_output="scores")
    assert model_digest(saved, other) != spec.model_digest


def test_a_keras_file_is_the_same_model_under_any_name(tmp_path):
    path = models.save_keras(str(tmp_path / "a.keras"))
    shutil.copy(path, tmp_path / "model.keras")
    assert read_bundle(path).model_digest == read_bundle(str(tmp_path / "model.keras")).model_digest


def test_specs_survive_json(saved):
    spec = read_bundle(saved, {"labels": models.LABELS, "background_rgb": (1, 2, 3)})
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_the_preprocessing_digest_is_of_what_lies_before_the_tensor(saved):
    spec = read_bundle(saved)
    for change in (
        {"value_range": "-1..1"},
        {"resize": "letterbox"},
        {"channel_order": "bgr"},
        {"height_px": 9},
    ):
        assert dataclasses.replace(spec, **change).preprocessing_digest != spec.preprocessing_digest
    for change in (
        {"labels": ("a",)},
        {"scores_output": "x"},
        {"metrics": {"a": 1.0}},
        {"model_digest": "d"},
    ):
        assert dataclasses.replace(spec, **change).preprocessing_digest == spec.preprocessing_digest


class ShelfFileSystem(LocalFileSystem):
    """``shelf://`` for the local disk: a remote filesystem as far as ours can tell."""

    root = ""

    @classmethod
    def scheme(cls):
        return "shelf"

    def _real(self, path):
        return path.replace("shelf://", self.root + "/", 1)

    def _list(self, dir_or_prefix):
        for found in super()._list(self._real(dir_or_prefix)):
            path = found.path.replace(self.root + "/", "shelf://", 1)
            yield FileMetadata(path, found.size_in_bytes, found.last_updated_in_seconds)

    def open(self, path, *args, **kwargs):
        return super().open(self._real(path), *args, **kwargs)

    def exists(self, path):
        return super().exists(self._real(path))


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(ShelfFileSystem, "root", str(tmp_path))
    FileSystems.get_filesystem("shelf://x")
    monkeypatch.setattr(bundle, "_CACHE", [str(tmp_path / "cache")])
    return tmp_path


def test_a_remote_model_is_copied_here_and_followed_when_it_changes(saved, shelf):
    shutil.copytree(saved, shelf / "models" / "v1")
    (shelf / "models" / "LATEST").write_text("v1\n")
    (shelf / "models" / "v1" / "model_spec.json").write_text('{"labels": ["a", "b", "c", "d"]}')
    spec = read_bundle("shelf://models")
    assert spec.labels == ("a", "b", "c", "d")
    assert spec.model_digest == read_bundle(saved).model_digest
    assert load("shelf://models", spec).run is not None
    assert len(list((shelf / "cache").iterdir())) == 1
    (shelf / "models" / "v1" / "model_spec.json").write_text('{"labels": ["e", "f", "g", "h", "i"]}')
    with pytest.raises(UsageError, match="5 labels"):
        read_bundle("shelf://models")
