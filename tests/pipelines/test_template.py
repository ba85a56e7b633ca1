"""``beam-vision template``: what it prints, what it refuses, what it runs."""

import json
import re
import shlex
from pathlib import Path

import pytest

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import cli, template
from beam_vision.pipelines.template_jobs import template_jobs

GUIDE = Path(__file__).parent.parent.parent / "docs" / "templates.md"
IMAGE = "us-docker.pkg.dev/p/r/beam-vision"
BUILD = ("--image", IMAGE, "--templates", "gs://b/t")
RUN = ("--template", "gs://b/t", "--region", "us-central1")
PREDICT = ("--task", "embed", "--images", "gs://b/a", "--model", "gs://b/m", "--output", "gs://b/out")


@pytest.fixture
def said(capsys):
    """``said(*argv)``: the exit code, the commands that were printed, and what was said on stderr."""

    def run(*argv):
        code = cli.main(["template", *argv])
        out, err = capsys.readouterr()
        return code, [shlex.split(one) for one in out.replace("\\\n", " ").splitlines()], err

    return run


def parameters_in(command):
    (text,) = [word for word in command if word.startswith("--parameters=")]
    text = text.removeprefix("--parameters=")
    delimiter, text = (text[1], text[3:]) if text.startswith("^") else (",", text)
    return dict(part.partition("=")[::2] for part in text.split(delimiter))


def test_every_template_is_listed(capsys):
    assert cli.main(["template", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(template_jobs())
    assert [line.split()[0] for line in lines if " streaming " in line] == ["stream"]


def test_metadata_is_shown_or_written(capsys, tmp_path):
    assert cli.main(["template", "metadata", "predict"]) == 0
    shown = capsys.readouterr().out
    assert cli.main(["template", "metadata", "--output", str(tmp_path)]) == 0
    assert json.loads(shown) == json.loads((tmp_path / "predict" / "metadata.json").read_text())
    assert len(list(tmp_path.glob("*/metadata.json"))) == len(template_jobs())


def test_a_build_is_printed_and_not_run(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, commands, _ = said("build", "predict,stream", *BUILD, "--gpu", "--project", "p", "--tag", "7")
    assert code == 0
    assert [command[:4] for command in commands] == [
        ["beam-vision", "template", "context", "template-build"],
        ["gcloud", "builds", "submit", "template-build"],
        ["gcloud", "dataflow", "flex-template", "build"],
        ["gcloud", "dataflow", "flex-template", "build"],
    ]
    assert [command[4] for command in commands[2:]] == [
        "gs://b/t/predict-gpu.json",
        "gs://b/t/stream-gpu.json",
    ]
    assert f"--image={IMAGE}/stream:7-gpu" in commands[3]
    assert all("--project=p" in command for command in commands[1:])
    assert list(tmp_path.iterdir()) == []


def test_all_jobs_are_built_at_once(said):
    _, commands, _ = said("build", "all", *BUILD)
    assert len(commands) == 2 + len(template_jobs())
    assert f"_JOBS={' '.join(template_jobs())}" in " ".join(commands[1])


def test_a_run_takes_the_jobs_own_command_line(said):
    more = ("--no-check_model", "--limit", "5", "--max_num_workers=9", "--job_name", "nightly")
    code, (command,), _ = said("run", "predict", *RUN, *PREDICT, *more)
    assert code == 0
    assert command[:5] == ["gcloud", "dataflow", "flex-template", "run", "nightly"]
    assert "--template-file-gcs-location=gs://b/t/predict.json" in command
    assert "--max-workers=9" in command
    assert parameters_in(command) == {
        "task": "embed",
        "images": "gs://b/a",
        "model": "gs://b/m",
        "output": "gs://b/out",
        "check_model": "false",
        "limit": "5",
    }


def test_a_run_with_gpus_takes_the_template_with_cuda(said):
    _, (command,), _ = said("run", "predict", *RUN, *PREDICT, "--gpu", "l4")
    assert "--template-file-gcs-location=gs://b/t/predict-gpu.json" in command
    assert parameters_in(command)["gpu"] == "l4"
    _, (own,), _ = said("run", "predict", "--template", "gs://b/my.json", "--region", "r", *PREDICT)
    assert "--template-file-gcs-location=gs://b/my.json" in own
    assert own[4].startswith("predict-2")


def test_positional_options_are_parameters_by_name(said):
    code, (command,), _ = said(
        *("run", "verify-tfrecords", "gs://b/set", *RUN, "--report", "gs://b/r.json", "--no-decode")
    )
    assert code == 0
    assert parameters_in(command) == {"dataset": "gs://b/set", "report": "gs://b/r.json", "decode": "false"}


def test_a_redrive_needs_no_model_of_a_job_without_one(said):
    code, (command,), _ = said(
        *(
            "run",
            "redrive",
            *RUN,
            "--job",
            "create-tfrecords",
            "--failures",
            "gs://b/f",
            "--images",
            "gs://b/a",
        ),
        *("--output", "gs://b/out"),
    )
    assert code == 0
    assert parameters_in(command)["job"] == "create-tfrecords"


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (("builds",), "has no action 'builds'; there are list, metadata"),
        (("list", "x"), "template list takes nothing"),
        (("metadata",), "takes a JOB, or --output DIR"),
        (("metadata", "search"), "no template of 'search'; there are templates of create-tfrecords"),
        (("build", "predict,demo", *BUILD), "no template of 'demo'"),
        (("build", " ,", *BUILD), "JOBS is ' ,' and names no job"),
        (("build", "predict", "--image", "beam:1", "--templates", "gs://b/t"), "--image 'beam:1' must be"),
        (("build", "predict", "--image", IMAGE, "--templates", "t"), "--templates 't' must be a folder"),
        (("run", "search", *RUN), "no template of 'search'"),
        (
            ("run", "predict", *RUN, *PREDICT, "--summry", "x"),
            "unknown option --summry; did you mean --summary",
        ),
        (("run", "predict", *RUN, *PREDICT, "--summary", "x"), "--summary has no meaning in a template"),
        (("run", "verify-tfrecords", "gs://b/d", *RUN), "--report is missing: the template"),
        (("run", "predict", "--template", "gs://b/t", *PREDICT), "--region is missing"),
        (("run", "predict", *RUN, *PREDICT, "--job_name", "A"), "--job_name 'A' must be of lower-case"),
    ],
)
def test_what_can_not_be_is_a_line_and_exit_code_2(said, argv, text):
    code, commands, err = said(*argv)
    assert code == 2
    assert text in err
    assert commands == []


def test_the_commands_of_the_guide_are_taken(said):
    text = GUIDE.read_text(encoding="utf-8")
    blocks = "".join(re.findall(r"```(?:bash|console)\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    given = [line.removeprefix("$ ") for line in blocks.splitlines() if "beam-vision template" in line]
    assert len(given) == 4
    for line in given:
        code, commands, err = said(*shlex.split(line.replace(" --execute", ""))[2:])
        assert code == 0, err
        assert commands


def test_usage_says_what_there_is(capsys):
    assert cli.main(["template"]) == 2
    assert "build JOBS" in capsys.readouterr().out
    assert cli.main(["template", "run", "--help"]) == 0
    assert "--template gs://..." in capsys.readouterr().out


def test_commands_run_in_turn_until_one_fails(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    with pytest.raises(JobError, match=r"false \.\.\. ended with exit code 1"):
        template.carry_out([["touch", str(first)], ["false"], ["touch", str(second)]], execute=True)
    assert first.exists()
    assert not second.exists()
    assert "touch" in capsys.readouterr().out
    with pytest.raises(UsageError, match="no-such-program-here is not installed"):
        template.carry_out([["no-such-program-here"]], execute=True)
