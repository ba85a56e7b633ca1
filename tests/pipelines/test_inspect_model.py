"""``beam-vision inspect-model`` and the options of every job that runs a model."""

import json

import pytest

from beam_vision.errors import UsageError
from beam_vision.inference.bundle import write_bundle
from beam_vision.pipelines import cli, model_options
from beam_vision.pipelines.model_options import ModelOptions, model_of, parse_size, read_class_names
from beam_vision.testing import detectors, models

pytestmark = pytest.mark.usefixtures("warm_children")


def inspect(capsys, *argv):
    code = cli.main(["inspect-model", *map(str, argv)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def row(text, name):
    return [line.split(None, 1)[1] for line in text.splitlines() if line.split()[:1] == [name]]


def test_a_bundle_is_shown_whole_and_tried(tmp_path, capsys):
    path = str(tmp_path / "bundle")
    said = {"labels": models.LABELS, "embedding_output": "quadrants", "metrics": {"accuracy": 0.97}}
    spec = write_bundle(path, lambda d: models.save_keras(f"{d}/model.keras"), said)
    code, out, _ = inspect(capsys, path)
    assert code == 0
    assert row(out, "format") == ["keras"]
    assert row(out, "input") == ["images: float32 [?, 8, 8, 3]"]
    assert row(out, "output") == ["scores: float32 [?, 4]", "quadrants: float32 [?, 12]"]
    assert row(out, "scores") == ["scores: 4 classes, 4 labels"]
    assert row(out, "embedding") == ["quadrants: 12 numbers"]
    assert row(out, "metric") == ["accuracy = 0.97"]
    assert row(out, "activation") == ["softmax (one label an image)"]
    assert spec.model_digest in out
    assert spec.preprocessing_digest in out


def test_json_is_for_programs(tmp_path, capsys):
    path = models.save_saved_model(str(tmp_path / "m"))
    code, out, _ = inspect(capsys, path, "--output_format", "json", "--no-check_model")
    found = json.loads(out)
    assert code == 0
    assert found["spec"]["value_range"] == "0..1"
    assert found["notes"] == [
        "value range 0..1 is an assumption: nothing in the model tells it; check --value_range"
    ]
    assert found["signature"]["inputs"] == [{"name": "images", "dtype": "float32", "shape": [None, 8, 8, 3]}]
    assert (found["check"], found["needs"]) == (None, None)


def test_what_must_be_said_is_told_with_what_is_known(tmp_path, capsys):
    path = models.save_saved_model(str(tmp_path / "m"), side_px=None)
    code, out, err = inspect(capsys, path)
    assert code == 2
    assert row(out, "input") == ["images: float32 [?, ?, ?, 3]"]
    assert "--image_size" in row(out, "needs")[0]
    assert "--image_size" in err
    code, out, _ = inspect(capsys, path, "--image_size", "8", "--no-check_model")
    assert code == 0
    assert "8 x 8 px" in row(out, "takes")[0]


def test_a_model_becomes_a_bundle(tmp_path, capsys):
    path = models.save_saved_model(str(tmp_path / "m"), side_px=None)
    said = ["--image_size", "8", "--value_range", "0..1", "--no-check_model"]
    code, _, err = inspect(capsys, path, *said, "--write_spec")
    assert code == 0
    assert f"wrote {path}/model_spec.json" in err
    code, out, _ = inspect(capsys, path, "--no-check_model")
    assert code == 0
    assert "8 x 8 px" in row(out, "takes")[0]
    assert row(out, "note") == []


def test_a_crash_is_told(tmp_path, capsys):
    path = models.save_troubled(str(tmp_path / "m"), "abort")
    code, out, err = inspect(capsys, path)
    assert code == 1
    assert "FAILED: the model killed its process (SIGABRT)" in out
    assert "SIGABRT" in err


def test_no_model_is_told(tmp_path, capsys):
    code, out, err = inspect(capsys, tmp_path)
    assert (code, out) == (2, "")
    assert "no model at" in err


def test_the_wrong_option_is_told(tmp_path, capsys):
    code, _, err = inspect(capsys, tmp_path, "--image_sise", "8")
    assert code == 2
    assert "did you mean --image_size?" in err


@pytest.mark.parametrize(
    ("text", "size"), [("", (None, None)), ("224", (224, 224)), ("240x320", (240, 320)), ("8X9", (8, 9))]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "x", "3x", "1x2x3", "-5", "big"])
def test_bad_sizes(text):
    with pytest.raises(UsageError, match="must be N or HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.txt", "cat\nbig dog\n", ("cat", "big dog")),
        ("a.json", '["cat", "dog"]', ("cat", "dog")),
        ("a.json", '{"1": "dog", "0": "cat"}', ("cat", "dog")),
        ("a.json", '{"0": ["n01", "cat"], "1": ["n02", "dog"]}', ("cat", "dog")),
    ],
)
def test_class_names(name, text, names, tmp_path):
    (tmp_path / name).write_text(text)
    assert read_class_names(str(tmp_path / name)) == names


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", "cat\n\ndog\n", "name of class 1 is empty"),
        ("a.txt", "", "name of class 0 is empty"),
        ("a.json", "{", "is not JSON"),
        ("a.json", '{"cat": 0}', "must hold a list of names"),
        ("a.json", '{"0": "cat", "2": "dog"}', "must hold a list of names"),
        ("b.txt", None, "no such file"),
    ],
)
def test_bad_class_names(name, text, message, tmp_path):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        read_class_names(str(tmp_path / name))


def test_options_make_a_spec(tmp_path):
    path = models.save_saved_model(str(tmp_path / "m"))
    (tmp_path / "names.txt").write_text("\n".join(models.LABELS))
    asked = ModelOptions(
        model=path,
        class_names=str(tmp_path / "names.txt"),
        value_range="-1..1",
        resize="letterbox",
        threshold=0.25,
        check_model=False,
    )
    model = model_of(asked, task="embed")
    assert (model.path, model.report, model.notes) == (path, None, [])
    spec = model.spec
    assert (spec.task, spec.labels, spec.value_range, spec.resize) == (
        "embed",
        models.LABELS,
        "-1..1",
        "letterbox",
    )
    assert (spec.threshold, spec.embedding_dim) == (0.25, 12)
    with pytest.raises(UsageError, match="height_px 9 was asked for"):
        model_options.spec_of(ModelOptions(model=path, image_size="9", check_model=False), task="embed")


def test_latest_is_followed_once_for_the_whole_job(tmp_path):
    models.save_saved_model(str(tmp_path / "v1"))
    (tmp_path / "LATEST").write_text("v1")
    model = model_of(ModelOptions(model=str(tmp_path), check_model=False), task="classify")
    assert model.path == str(tmp_path / "v1")


def test_a_detector_is_described_tried_and_written_down(tmp_path, capsys):
    path = detectors.save_saved_model(str(tmp_path / "m"))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(detectors.LABELS))
    code, out, _ = inspect(capsys, path, "--class_names", names, "--write_spec")
    assert code == 0
    assert row(out, "task") == ["detect"]
    (detector,) = row(out, "detector")
    assert detector.startswith("tf_od: boxes from detection_boxes, scores from detection_scores, classes")
    assert [text.split() for text in row(out, "box")] == [["format", "rel_yxyx"]]
    assert row(out, "classes") == ["3, the first one's id is 1, 3 labels"]
    assert row(out, "found") == ["5 boxes in them"]
    assert any("64 x 64 px (height x width) by stretch" in note for note in row(out, "note"))
    code, out, _ = inspect(capsys, path, "--task", "detect", "--output_format", "json", "--no-check_model")
    told = json.loads(out)
    assert (code, told["spec"]["labels"], told["spec"]["class_offset"]) == (0, list(detectors.LABELS), 1)


def test_a_detector_that_is_not_clear_is_asked_for(tmp_path, capsys):
    path = detectors.save_onnx(str(tmp_path / "m.onnx"), "yolo_v8")
    (tmp_path / "names.txt").write_text("a\nb")
    code, out, err = inspect(capsys, path, "--task", "detect", "--class_names", tmp_path / "names.txt")
    assert code == 2
    assert "with 2 labels is none of YOLO's" in err
    assert row(out, "output") == ["output0: float32 [?, 7, 12]"]
