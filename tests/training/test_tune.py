"""The search: it finds what is best, goes on where it was ended, and leaves a table, a picture and a job."""

import csv
import io
import math

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import tune as tune_job
from beam_vision.testing.datasets import make_labelled
from beam_vision.training.config import from_dict, load_job
from beam_vision.training.tune import Trial, best_of, best_trial, tune
from beam_vision.training.tune_report import draw, table_lines, write_report
from beam_vision.training.tune_space import Range, Space, read_space, with_values

RATE = {"optimizer.learning_rate": {"min": 1e-5, "max": 1.0, "scale": "log"}}


def job(parameters=RATE, epochs=4, **changed):
    said = {"objective": "val_loss", "parameters": parameters, "trials": 8, **changed}
    return from_dict({"tune": said, "run": {"epochs": epochs}})


def bowl(config, tell):
    """A loss that is least at a learning rate of 0.01, and falls with each epoch."""
    away = (math.log10(config.optimizer.learning_rate) + 2) ** 2
    return [{"loss": 9.0, "validation_loss": away + 1 / (1 + epoch)} for epoch in range(config.run.epochs)]


def search(config, folder, train=bowl):
    return tune(config, read_space(config), str(folder), train, lambda line: None)


def test_it_tries_as_many_as_asked_and_names_the_best(tmp_path):
    config = job(algorithm="random", trials=8)
    trials = search(config, tmp_path)
    assert [trial.number for trial in trials] == list(range(1, 9))
    rates = [trial.values["optimizer.learning_rate"] for trial in trials]
    assert len(set(rates)) == 8
    assert all(1e-5 <= rate <= 1 for rate in rates)
    for trial, rate in zip(trials, rates, strict=True):
        assert trial.score == pytest.approx((math.log10(rate) + 2) ** 2 + 0.25)
    best = best_trial(trials, read_space(config))
    assert best.score == min(trial.score for trial in trials)


def test_the_same_seed_tries_the_same(tmp_path):
    found = [
        [trial.values for trial in search(job(algorithm="random", seed=seed), tmp_path / name)]
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    assert found[0] == found[1] != found[2]


def test_bayesian_comes_nearer_than_its_first_tries(tmp_path):
    trials = search(job(algorithm="bayesian", trials=9, seed=3), tmp_path)
    scores = [trial.score for trial in trials]
    assert min(scores[4:]) < min(scores[:4])


def test_hyperband_trains_the_best_for_longer(tmp_path):
    trials = search(job(algorithm="hyperband", epochs=9), tmp_path)
    by_epochs = {}
    for trial in trials:
        by_epochs.setdefault(trial.epochs, []).append(trial)
    assert set(by_epochs) == {1, 3, 9}
    assert len(by_epochs[1]) > len(by_epochs[9])
    away = {
        e: min((math.log10(t.values["optimizer.learning_rate"]) + 2) ** 2 for t in of)
        for e, of in by_epochs.items()
    }
    assert away[9] <= away[1]


class StoppedError(BaseException):
    """As a signal ends the process."""


def test_a_search_that_was_ended_goes_on(tmp_path):
    whole = search(job(algorithm="random"), tmp_path / "whole")
    seen = []

    def stops(config, tell):
        seen.append((config.optimizer.learning_rate, config.run.work_dir))
        if len(seen) == 4:
            raise StoppedError
        return bowl(config, tell)

    with pytest.raises(StoppedError):
        search(job(algorithm="random"), tmp_path / "parts", stops)
    trials = search(job(algorithm="random"), tmp_path / "parts", stops)
    assert len(seen) == 4 + 5  # the one that it was in again, with the same values in the same folder
    assert seen[3] == seen[4]
    assert [trial.values for trial in trials] == [trial.values for trial in whole]
    assert [trial.score for trial in trials] == [trial.score for trial in whole]

    more = search(job(algorithm="random", trials=9), tmp_path / "parts", stops)
    assert (len(more), len(seen)) == (9, 10)


def test_another_search_is_not_mixed_in(tmp_path):
    search(job(trials=1), tmp_path)
    with pytest.raises(UsageError, match="another search"):
        search(job(trials=1, parameters={"model.dropout": {"min": 0, "max": 0.5}}), tmp_path)
    with pytest.raises(UsageError, match="another search"):
        search(job(trials=1, epochs=5), tmp_path)


def test_a_trial_that_fails_is_noted_and_others_go_on(tmp_path):
    def fails(config, tell):
        if config.optimizer.name == "sgd":
            raise JobError("the training loss is no longer a finite number")
        return bowl(config, tell)

    names = {"optimizer.name": {"values": ["sgd", "adam"]}}
    config = job(parameters={**RATE, **names}, algorithm="random", trials=8, max_failed=8)
    trials = search(config, tmp_path, fails)
    failed = [trial for trial in trials if trial.values["optimizer.name"] == "sgd"]
    assert failed
    assert all(trial.score is None and trial.status == "FAILED" for trial in failed)
    assert all("no longer a finite number" in trial.error for trial in failed)
    assert all(trial.score is not None for trial in trials if trial not in failed)


def test_too_many_failures_end_it(tmp_path):
    def fails(config, tell):
        return [{"validation_loss": math.nan}]

    with pytest.raises(JobError, match=r"3 trials in a row failed.*in no epoch"):
        search(job(), tmp_path, fails)


def test_the_report(tmp_path):
    parameters = {
        **RATE,
        "optimizer.name": {"values": ["adam", "sgd"]},
        "model.embedding_dim": {"min": 8, "max": 32, "step": 8, "whole": True},
        "optimizer.nesterov": {"values": [True, False]},
        "data.batch_size": {"values": [16, 32]},
    }
    config = job(parameters=parameters, algorithm="random", trials=5)
    space = read_space(config)
    trials = search(config, tmp_path)
    for trial in trials:
        assert trial.values["model.embedding_dim"] in (8, 16, 24, 32)
        assert isinstance(trial.values["optimizer.nesterov"], bool)
        assert isinstance(trial.values["data.batch_size"], int)
    best = write_report(str(tmp_path), config, space, trials)

    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    assert [int(row["trial"]) for row in rows] == [1, 2, 3, 4, 5]
    assert [float(row["val_loss"]) for row in rows] == [trial.score for trial in trials]
    again = load_job(str(tmp_path / "best.yaml"))
    assert again == with_values(from_dict({**config.to_dict(), "tune": {}}), best.values)
    assert (
        yaml.safe_load((tmp_path / "best.yaml").read_text())["optimizer"]["name"]
        == best.values["optimizer.name"]
    )
    image = Image.open(tmp_path / "trials.png")
    assert image.size == (3 * 360, 2 * 260)
    lines = table_lines(space, trials)
    assert len(lines) == 6
    assert lines[1].split()[0] == str(best.number)


def test_the_picture_shows_the_best_in_each_panel():
    space = Space(objective="val_accuracy", parameters=RATE)
    trials = [
        Trial(number=n, values={"optimizer.learning_rate": rate}, score=score)
        for n, (rate, score) in enumerate([(1e-4, 0.5), (1e-2, 0.9), (1e-3, 0.7)], start=1)
    ] + [Trial(number=4, values={"optimizer.learning_rate": 0.1}, status="FAILED")]
    pixels = np.asarray(Image.open(io.BytesIO(draw(space, trials))))
    red = np.all(pixels == (204, 0, 0), axis=-1)
    blue = np.all(pixels == (52, 101, 164), axis=-1)
    for panel in (slice(0, 360), slice(360, 720)):
        assert red[:, panel].any()
        assert np.argwhere(red[:, panel])[:, 0].mean() < np.argwhere(blue[:, panel])[:, 0].mean()  # on top
    assert (
        np.argwhere(red[:, 360:])[:, 1].mean() > np.argwhere(blue[:, 360:])[:, 1].mean()
    )  # the highest rate


def test_one_trial_has_a_picture_too():
    space = Space(parameters=RATE)
    one = Trial(number=1, values={"optimizer.learning_rate": 0.1}, score=0.0)
    assert draw(space, [one]).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("tuned", "told"),
    [
        ({"parameter": RATE}, "tune has no 'parameter'; did you mean 'parameters'"),
        ({"parameters": {}}, "name what to search"),
        ({"parameters": {"optimizer.rate": {"values": [1]}}}, "no field of the job"),
        (
            {"parameters": {"optimizer.learning_rte": {"values": [1]}}},
            "did you mean 'optimizer.learning_rate'",
        ),
        ({"parameters": {"model.dropout": {"min": 0.5, "max": 0.5}}}, "min must be below max"),
        ({"parameters": {"model.dropout": {"min": 0, "max": 0.5, "scale": "log"}}}, "min must be above 0"),
        ({"parameters": {"model.dropout": {"min": 0, "max": 2}}}, "parameters.model.dropout: .*less than 1"),
        ({"parameters": {"model.dropout": {}}}, "either min and max, or values"),
        ({"parameters": {"model.dropout": {"values": [0.1, "a"]}}}, "all numbers, all texts"),
        ({"parameters": {"run.epochs": {"min": 1.5, "max": 2, "whole": True}}}, "must be whole"),
        (
            {"parameters": {"model.dropout": {"values": [0.1], "form": 1}}},
            "tune.parameters.model.dropout has no 'form'",
        ),
        ({"algorithm": "grid", "parameters": RATE}, "must be one of random, bayesian, hyperband"),
    ],
)
def test_a_bad_space_is_refused(tuned, told):
    with pytest.raises(UsageError, match=told):
        read_space(from_dict({"tune": tuned}))


def test_an_objective_that_is_not_measured_is_refused_with_what_is(tmp_path):
    with pytest.raises(UsageError, match="val_acuracy, and the history has only loss, validation_loss"):
        best_of(bowl(job(), None), Space(objective="val_acuracy"))
    rows = [{"validation_accuracy": x} for x in (0.5, 0.8, 0.7)]
    assert best_of(rows, Space(objective="val_accuracy")) == 0.8
    assert best_of(rows, Space(objective="val_accuracy", goal="min")) == 0.5


@settings(max_examples=30)
@given(low=st.integers(0, 50), span=st.integers(1, 60), step=st.integers(1, 20))
def test_a_range_with_steps_has_all_of_them(low, span, step):
    steps = Range(min=low, max=low + span, step=step, whole=True).steps()
    assert steps == list(range(low, low + span + 1, step))


def test_real_trials_through_the_command(tmp_path, capsys):
    dataset = str(tmp_path / "dataset")
    make_labelled(dataset, {"train": 48, "validation": 24, "test": 12}, side_px=32)
    described = {
        "data": {"dataset": dataset, "image_size": 32, "batch_size": 16},
        "model": {"embedding_dim": 8},
        "run": {"epochs": 1, "jit": False, "work_dir": str(tmp_path / "work")},
        "tune": {
            "algorithm": "random",
            "objective": "val_accuracy",
            "parameters": {"optimizer.learning_rate": {"values": [1e-6, 1e-2]}},
        },
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(described))
    assert tune_job.run(["--config", str(tmp_path / "job.yaml"), "--set", "tune.trials=2"]) == 0
    folder = tmp_path / "work" / "tune"
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert {float(row["optimizer.learning_rate"]) for row in rows} == {1e-6, 1e-2}
    assert all(0 <= float(row["val_accuracy"]) <= 1 for row in rows)
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["trial", "val_accuracy", "optimizer.learning_rate"]
    assert f"beam-vision train --config {folder / 'best.yaml'}" in said.err
    assert load_job(str(folder / "best.yaml")).data.dataset == dataset


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("model.architecture=mobilenett", "model.architecture 'mobilenett' is not known"),
        ("tune.objective=val_acc", "tune.objective 'val_acc' is no figure of an epoch; did you mean"),
        ("data.dataset=", "what to train on isn't said"),
    ],
)
def test_a_job_that_can_not_be_is_refused_before_the_first_trial(tmp_path, said, told):
    folder = str(tmp_path / "dataset")
    make_labelled(folder, {"train": 6, "validation": 6}, side_px=16)
    path = tmp_path / "job.yaml"
    tuned = {"directory": str(tmp_path / "search"), "parameters": {"run.seed": {"values": [1, 2]}}}
    path.write_text(yaml.safe_dump({"data": {"dataset": folder}, "tune": tuned}))
    with pytest.raises(UsageError, match=told):
        tune_job.run(["--config", str(path), "--set", said])
    assert not (tmp_path / "search").exists()
