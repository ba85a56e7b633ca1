"""A job's YAML: there and back, what is set over it, what is refused and where."""

import dataclasses
import typing

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from beam_vision.errors import UsageError
from beam_vision.training.config import (
    DataConfig,
    ExportConfig,
    JobConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    fields_of,
    from_dict,
    load_job,
)

TEXT = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=12)


def numbers(limits, kind):
    low = limits.get("least", limits.get("above", -1e6))
    high = limits.get("most", limits.get("below", max(low, 1) * 1e6))
    if kind is int:
        return st.integers(int(low), int(high))
    open_ends = {"exclude_min": "above" in limits, "exclude_max": "below" in limits}
    return st.floats(low, high, **open_ends)


def values_of(kind, limits):
    members = typing.get_args(kind)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return st.lists(values_of(members[0], limits), max_size=3)
    if origin is not None and issubclass(origin, dict | typing.Mapping):
        return st.dictionaries(
            TEXT, st.integers(1, 9) if members[1] is int else st.floats(0.5, 9), max_size=3
        )
    if members:
        return st.one_of(*(values_of(member, limits) for member in members))
    if kind is str:
        return st.sampled_from(limits["choices"]) if limits.get("choices") else TEXT
    if kind in (int, float):
        return numbers(limits, kind)
    return {bool: st.booleans(), type(None): st.none()}[kind]


@st.composite
def sections(draw, kind):
    hints = typing.get_type_hints(kind)
    chosen = draw(st.lists(st.sampled_from(dataclasses.fields(kind)), unique_by=lambda f: f.name))
    return {f.name: draw(values_of(hints[f.name], f.metadata)) for f in chosen}


JOBS = st.fixed_dictionaries(
    {},
    optional={
        "task": st.sampled_from(("classify", "embed", "detect")),
        "data": sections(DataConfig),
        "model": sections(ModelConfig),
        "optimizer": sections(OptimizerConfig),
        "schedule": sections(ScheduleConfig),
        "loss": sections(LossConfig),
        "run": sections(RunConfig),
        "export": sections(ExportConfig),
        "augmentation": st.none()
        | st.lists(st.dictionaries(TEXT, st.integers(0, 9), max_size=2), max_size=3),
        "launch": st.dictionaries(TEXT, TEXT, max_size=2),
    },
)


@given(JOBS)
def test_there_and_back(values):
    job = from_dict(values)
    assert from_dict(job.to_dict()) == job
    again = from_dict(yaml.safe_load(yaml.safe_dump(job.to_dict())))
    assert again == job
    assert again.digest == job.digest
    for section, given_fields in values.items():
        if isinstance(given_fields, dict) and section != "launch":
            for name, value in given_fields.items():
                found = job.to_dict()[section][name]
                assert found == pytest.approx(value) if isinstance(value, float) else found == value


def write(tmp_path, text):
    path = tmp_path / "job.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_with_values_over_it(tmp_path):
    path = write(tmp_path, "data: {image_size: 96, batch_size: 8}\noptimizer:\n  learning_rate: 1e-4\n")
    job = load_job(
        path, {"data.batch_size": "16", "model.freeze": "12"}, {"--image_size data.image_size": 48}
    )
    assert job.data == DataConfig(image_size=48, batch_size=16)
    assert job.optimizer.learning_rate == 1e-4
    assert job.model.freeze == 12
    assert load_job(None) == JobConfig()


def test_what_is_set_goes_over_options_and_the_file_stays(tmp_path):
    path = write(tmp_path, "launch: {labels: {team: a}}\n")
    job = load_job(path, {"launch.labels.cost": "b", "run.seed": "3"}, {"--seed run.seed": 2})
    assert job.launch == {"labels": {"team": "a", "cost": "b"}}
    assert job.run.seed == 3
    assert load_job(path).launch == {"labels": {"team": "a"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "data:\n  imagesize: 64\n",
            r"job.yaml line 2: data has no 'imagesize'; did you mean 'image_size'\?",
        ),
        ("modle: {}\n", r"line 1: the job has no 'modle'; did you mean 'model'\?"),
        ("run:\n  epochs: 0\n", r"line 2: run.epochs must be at least 1, not 0"),
        ("run:\n  epochs: many\n", r"line 2: run.epochs must be a whole number, not 'many'"),
        ("run:\n  epochs: 2.5\n", "must be a whole number"),
        ("run:\n  epochs: true\n", "must be a whole number"),
        ("optimizer: {learning_rate: .nan}\n", "a finite number"),
        ("optimizer: {name: adamm}\n", "optimizer.name is 'adamm'; it must be one of sgd, adam"),
        ("model: {dropout: 1}\n", "model.dropout must be less than 1"),
        ("model: {freeze: some}\n", "it must be one of none, backbone"),
        ("model: {freeze: -1}\n", "model.freeze must be at least 0"),
        ("export: {tflite: [int4]}\n", "'int4'; it must be one of float16, int8"),
        ("export: {tflite: int8}\n", "export.tflite must be a list"),
        ("loss: {class_weights: {a: heavy}}\n", "must be a number, not 'heavy'"),
        ("data: [1]\n", "line 1: data must hold names with values"),
        ("data: {image_size: 64}\ndata: {}\n", "line 2: data is there twice, first at job.yaml line 1"),
        ("data: {image_size: 64, image_size: 65}\n", "data.image_size is there twice"),
        ("- data\n", "must hold sections"),
        ("data: {", "is no YAML"),
    ],
)
def test_refusals_say_where(tmp_path, text, message):
    with pytest.raises(UsageError, match=message):
        load_job(write(tmp_path, text))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"data.imagesize": "1"}, r"--set data.imagesize: data has no 'imagesize'; did you mean"),
        ({"data.image_size": "8"}, "--set data.image_size: data.image_size must be at least 16"),
        ({"task.name": "1"}, "task must be text"),
        ({"launch.a": "1", "launch.a.b": "1"}, "a holds no names"),
        ({"data.image_size": "{"}, "is no YAML"),
    ],
)
def test_refusals_of_what_is_set(overrides, message):
    with pytest.raises(UsageError, match=message):
        load_job(None, overrides)


def test_an_option_is_named_as_it_was_typed():
    with pytest.raises(UsageError, match=r"--image_size: data\.image_size must be at least 16, not 8"):
        load_job(None, {}, {"--image_size data.image_size": 8})


def test_no_file(tmp_path):
    with pytest.raises(UsageError, match="there is no such file"):
        load_job(str(tmp_path / "gone.yaml"))


def test_the_digest_is_of_what_makes_the_model():
    job = JobConfig()
    assert job.replace(run={"work_dir": "/w"}, export={"output": "o"}, launch={"a": 1}).digest == job.digest
    assert job.replace(run={"seed": 1}).digest != job.digest
    assert job.replace(augmentation=[]).digest != job.digest


def test_fields_of_sections():
    assert "image_size" in fields_of("data")
    assert fields_of("launch") == []
    assert fields_of("nothing") == []


def test_every_field_is_described():
    for section in (
        DataConfig,
        ModelConfig,
        OptimizerConfig,
        ScheduleConfig,
        LossConfig,
        RunConfig,
        ExportConfig,
    ):
        described = section.__doc__.replace(",", "").replace(":", "").split()
        assert not [f.name for f in dataclasses.fields(section) if f.name not in described]
