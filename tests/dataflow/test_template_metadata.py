"""What flex templates say of their parameters: as committed, as Google reads it, as the jobs' options are."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
from google.cloud import dataflow

from beam_vision.dataflow import metadata as described
from beam_vision.pipelines.options import beam_actions, option
from beam_vision.pipelines.template_jobs import metadata_of, options_of, template_jobs, template_of

FLEX = Path(__file__).parent.parent.parent / "templates" / "flex"
JOBS = template_jobs()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    source: str = option(help="where from")
    count: int = option(3, help="how many")
    share: float | None = option(None, help="how much")
    fast: bool = option(True, help="quickly")
    task: str = option("classify", help="detect: boxes", choices=("classify", "detect"))
    nms: str = option("hard", help="detect: of boxes that overlap", choices=("hard", "no.ne"))
    state: str = option("", help="kept here")


def sample(**settings):
    template = described.Template(job="sample", title="Sample", description="Of all kinds.", **settings)
    content = described.metadata(template, Sample, groups={"Sample": "Own"})
    return {one["name"]: one for one in content["parameters"]}


def test_kinds_defaults_and_regexes_come_from_the_fields():
    made = sample()
    assert made["source"] == {
        "name": "source",
        "label": "Source",
        "helpText": "where from",
        "isOptional": False,
        "paramType": "TEXT",
        "groupName": "Own",
    }
    assert (made["count"]["paramType"], made["count"]["defaultValue"]) == ("NUMBER", "3")
    assert (made["fast"]["paramType"], made["fast"]["defaultValue"]) == ("BOOLEAN", "true")
    assert "defaultValue" not in made["share"]
    assert [one["value"] for one in made["nms"]["enumOptions"]] == ["hard", "no.ne"]


@pytest.mark.parametrize(
    ("name", "taken", "refused"),
    [
        ("count", ("3", "-1", ""), ("3.5", "a", "1 ")),
        ("share", ("0.5", "1", ".5", "-2e-3", ""), ("0.5.1", "nan", "1e")),
        ("fast", ("true", "false", ""), ("True", "1")),
        ("nms", ("hard", "no.ne", ""), ("none", "no-ne", "hard|no.ne")),
    ],
)
def test_regexes_take_what_the_job_takes(name, taken, refused):
    (regex,) = sample()[name]["regexes"]
    assert all(re.search(regex, value) for value in taken)
    assert not any(re.search(regex, value) for value in refused)


def test_what_is_for_one_task_is_shown_for_it_alone():
    made = sample()
    assert (made["nms"]["parentName"], made["nms"]["parentTriggerValues"]) == ("task", ["detect"])
    assert "parentName" not in made["task"], "it can't depend on itself"


def test_a_template_may_need_more_and_take_less_than_its_job():
    made = sample(
        required=("count",),
        omitted={"state": "of one machine"},
        shapes={"source": described.Shape(kind="GCS_READ_FOLDER", regex="gs://.+")},
    )
    assert not made["count"]["isOptional"]
    assert "defaultValue" not in made["count"], "what must be given has no default"
    assert "state" not in made
    assert (made["source"]["paramType"], made["source"]["regexes"]) == ("GCS_READ_FOLDER", ["^(gs://.+)$"])
    assert next(iter(made)) == "source", "what must be given stands first"


@pytest.mark.parametrize("where", ["required", "omitted", "shapes", "parents"])
def test_a_template_that_names_no_option_of_the_job_is_an_error(where):
    with pytest.raises(ValueError, match="sample names the option 'gone'"):
        sample(**{where: ("gone",) if where == "required" else {"gone": ""}})


@pytest.mark.parametrize("job", JOBS)
def test_what_is_committed_is_what_the_options_give(job):
    committed = (FLEX / job / "metadata.json").read_text(encoding="utf-8")
    assert committed == described.to_text(metadata_of(job)), "run `make templates`"


def test_there_is_no_metadata_of_other_jobs():
    assert {path.parent.name for path in FLEX.glob("*/metadata.json")} == set(JOBS)


@pytest.mark.parametrize("job", JOBS)
def test_google_reads_it_with_every_field(job):
    text = (FLEX / job / "metadata.json").read_text(encoding="utf-8")
    read = dataflow.TemplateMetadata.from_json(text, ignore_unknown_fields=False)
    again = dataflow.TemplateMetadata.to_dict(read, use_integers_for_enums=False)
    written = json.loads(text)
    assert (again["name"], again["streaming"]) == (written["name"], job == "stream")
    for ours, theirs in zip(written["parameters"], again["parameters"], strict=True):
        assert ours["paramType"] == theirs["param_type"]
        assert ours["isOptional"] == theirs["is_optional"]
        assert ours.get("defaultValue", "") == theirs["default_value"]
        assert ours.get("enumOptions", []) == [
            {"value": one["value"], "label": one["label"]} for one in theirs["enum_options"]
        ]


@pytest.mark.parametrize("job", JOBS)
def test_every_option_is_a_parameter_or_left_out_for_a_reason(job):
    fields = {one.name: one for one in dataclasses.fields(options_of(job))}
    made = {one["name"]: one for one in metadata_of(job)["parameters"]}
    template = template_of(job)
    ours = {name for name in made if name in fields}
    assert ours == set(fields) - set(template.omitted)
    assert all(template.omitted.values())
    for name in ours:
        must = fields[name].default is dataclasses.MISSING or name in template.required
        assert made[name]["isOptional"] != must, name
        assert made[name]["groupName"]
    assert set(made) - ours == {one.name for one in described.BEAM_PARAMETERS}


def test_no_name_stands_twice():
    for job in JOBS:
        names = [one["name"] for one in metadata_of(job)["parameters"]]
        assert len(names) == len(set(names)), job


def test_parameters_for_beam_are_options_of_beam():
    assert {f"--{one.name}" for one in described.BEAM_PARAMETERS} <= set(beam_actions())


def test_defaults_match_their_own_regexes():
    for job in JOBS:
        for one in metadata_of(job)["parameters"]:
            for regex in one.get("regexes", []):
                assert re.search(regex, one.get("defaultValue", "")) or not one["isOptional"], (job, one)


def test_only_a_stream_is_streaming():
    assert [job for job in JOBS if metadata_of(job)["streaming"]] == ["stream"]
    made = {one["name"] for one in metadata_of("stream")["parameters"]}
    assert not {"backfill", "state", "once", "run_sec"} & made
