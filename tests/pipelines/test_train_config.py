"""``train`` by a YAML file, by its short options and by --set: what is planned, and what is written."""

import csv
import json

import pytest

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.inference.bundle import read_bundle
from beam_vision.inference.golden import read_golden
from beam_vision.pipelines import train
from beam_vision.pipelines.cli import main
from beam_vision.testing.datasets import make_labelled

SIDE = 32


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("labelled"))
    make_labelled(folder, {"train": 64, "validation": 12, "test": 12}, side_px=SIDE)
    return folder


def plan(capsys, *argv):
    capsys.readouterr()
    code = main(["train", *argv, "--preflight_only"])
    told = capsys.readouterr()
    return json.loads(told.out) if code == 0 else (code, told.err)


def test_a_file_with_options_and_set_over_it(dataset, tmp_path, capsys):
    path = tmp_path / "job.yaml"
    path.write_text(
        f"data: {{dataset: {dataset}, image_size: 48}}\n"
        f"run: {{epochs: 2, seed: 1}}\nexport: {{output: {tmp_path}/model}}\n"
    )
    found = plan(
        capsys, "--config", str(path), "--epochs", "5", "--set", "run.seed=7", "--set", "run.jit=true"
    )
    assert found["job"]["data"]["image_size"] == 48
    assert (found["job"]["run"]["epochs"], found["job"]["run"]["seed"], found["job"]["run"]["jit"]) == (
        5,
        7,
        True,
    )
    assert found["splits"] == {"train": 64, "validation": 12, "test": 12}
    assert found["classes"] == ["red", "green", "blue"]


def test_the_short_options_alone_describe_the_same_job(dataset, tmp_path, capsys):
    where = ["--dataset", dataset, "--output", str(tmp_path / "m")]
    short = plan(capsys, *where, "--image_size", "32", "--batch_size", "8", "--learning_rate", "0.01")
    sets = ["data.image_size=32", "data.batch_size=8", "optimizer.learning_rate=1e-2"]
    long = plan(capsys, *where, *(word for text in sets for word in ("--set", text)))
    assert short == long
    assert short["job_digest"] == long["job_digest"]


def test_defaults_are_those_of_the_fields(dataset, tmp_path):
    options = train.Options(dataset=dataset, output=str(tmp_path / "m"))
    job = train.job_of(options)
    assert (job.data.image_size, job.run.epochs, job.data.batch_size) == (64, 30, 64)
    assert (job.optimizer.name, job.optimizer.learning_rate, job.run.seed) == ("adamw", 3e-3, 0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "data.imagesize=3"], "--set data.imagesize: data has no 'imagesize'; did you mean"),
        (["--set", "data.image_size"], "write a field's name, = and its value"),
        (["--image_size", "8"], "--image_size: data.image_size must be at least 16, not 8"),
        (["--set", "augmentation=[{flipp: horizontal}]"], "flip"),
        (["--set", "model.architecture=mobilenett"], "model.architecture 'mobilenett' is not known"),
        (["--set", "loss.name=triplet"], "loss.name 'triplet'"),
        (["--gate", "accuracy>=0.9"], "set export.versioned too"),
        (["--set", "task=detect"], "has no boxes"),
        (["--set", "modle.dropout=0.2"], "--set modle.dropout: the job has no 'modle'; did you mean 'model'"),
        (["--set", "loss.class_weights={reed: 2}"], "loss.class_weights names 'reed', which is no class"),
        (["--set", "model.weights=none.weights.h5"], "model.weights none.weights.h5: there is no such file"),
        (["--set", "model.weights=preset:./none"], "model.weights preset:./none: there is no such folder"),
        (["--set", "launch.regoin=x"], "launch has no 'regoin'; did you mean 'region'?"),
        (["--set", "launch.fallbacks=[{zone: x}]"], "launch.fallbacks[0] has no 'zone'"),
        (["--set", "launch.fallbacks=[3]"], "launch.fallbacks[0] must hold names with values, not 3"),
        (["--set", "tune.trails=3"], "tune has no 'trails'; did you mean 'trials'?"),
        (["--set", "run.monitor=val_acc"], "run.monitor 'val_acc' is no figure of an epoch"),
        (["--versioned", "--gate", "acuracy>=1"], "export.gate acuracy>=1: no such figure; did you mean"),
        (
            ["--versioned", "--gate", "loss<1", "--set", "data.validation=v", "--set", "data.test=t"],
            "no test and no validation split to measure on",
        ),
    ],
)
def test_refusals_come_before_the_training(dataset, tmp_path, capsys, words, message):
    code, told = plan(capsys, "--dataset", dataset, "--output", str(tmp_path / "m"), *words)
    assert code == 2
    assert message in told


def test_what_must_be_given(dataset):
    with pytest.raises(UsageError, match="give --dataset"):
        train.preflight(train.Options(output="m"))
    with pytest.raises(UsageError, match="give --output"):
        train.preflight(train.Options(dataset=dataset))


def test_from_a_file_to_a_bundle(dataset, tmp_path, capsys):
    work, model = tmp_path / "work", tmp_path / "model"
    argv = ["--dataset", dataset, "--output", str(model), "--image_size", str(SIDE), "--epochs", "2"]
    sets = ["model.embedding_dim=8", "data.batch_size=16", "export.golden_images=3", "export.check_images=4"]
    code = main(
        ["train", *argv, "--work_dir", str(work), *(word for text in sets for word in ("--set", text))]
    )
    told = capsys.readouterr().err
    assert code == 0
    assert "no GPU found: 8 steps in 2 epochs at most" in told
    assert "serving gives what the trainer gives" in told
    spec = read_bundle(str(model))
    assert spec.labels == ("red", "green", "blue")
    assert spec.embedding_dim == 8
    training = storage.read_json(str(model / "training.json"))
    assert training["steps"] == 8
    assert training["decode_digest"] == spec.decode_settings().digest
    assert spec.metrics["test_accuracy"] == training["evaluation"]["accuracy"]
    with open(model / "history.csv") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["4", "8"]
    assert (model / "curves.png").read_bytes() == (work / "curves.png").read_bytes()
    assert len(read_golden(str(model)).images) == 3


def test_a_file_that_is_no_text_is_refused(tmp_path, capsys):
    path = tmp_path / "job.yaml"
    path.write_bytes(b"\x89PNG\xff")
    for given in (path, tmp_path):
        assert main(["train", "--config", str(given)]) == 2
        assert f"--config {given} is no text file" in capsys.readouterr().err
