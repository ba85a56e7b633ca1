"""The command line: options from dataclass fields, Beam's passed on, mistakes named."""

import dataclasses
import importlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from beam_vision.errors import JobError, UsageError
from beam_vision.pipelines import cli, job, options
from beam_vision.pipelines.ran import Ran
from beam_vision.sources.checked import BOXES_ON
from beam_vision.sources.spec import FORMATS


@dataclass(frozen=True, kw_only=True)
class Example(options.CommonOptions, options.SourceOptions):
    """Options of an example job."""

    output: str = options.option(help="where to write", metavar="DIR")
    top_k: int = options.option(5, help="labels for each image")


def parser():
    return options.make_parser(
        "example", Example, description="An example.", example="beam-vision example ..."
    )


def test_help_shows_types_choices_defaults_and_an_example():
    text = " ".join(parser().format_help().split())
    assert "labels for each image (int, default: 5)" in text
    assert "{auto,folder,glob,csv,jsonl,parquet,tfrecord,coco,voc,yolo,bigquery}" in text
    assert "beam-vision example ..." in text
    assert "where to write (str, required)" in text


def test_beam_options_pass_through():
    values, rest = options.parse(
        parser(), Example, ["--images", "x", "--output", "y", "--runner", "FnApiRunner", "--project=p"]
    )
    assert values.output == "y"
    assert values.top_k == 5
    assert rest == ["--runner", "FnApiRunner", "--project=p"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--imagse=x", "did you mean --images"),
        ("--projekt=p", "did you mean --project"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_a_misspelt_option_is_an_error(argument, message):
    with pytest.raises(UsageError, match=message):
        options.parse(parser(), Example, ["--images", "x", "--output", "y", argument])


def test_a_missing_option_exits_with_2(capsys):
    with pytest.raises(SystemExit) as caught:
        options.parse(parser(), Example, ["--images", "x"])
    assert caught.value.code == 2
    assert "--output" in capsys.readouterr().err


def all_jobs():
    return {
        name: importlib.import_module(f"beam_vision.pipelines.{name.replace('-', '_')}") for name in cli.JOBS
    }


def test_no_option_of_ours_redefines_one_of_beams():
    beams = options.beam_option_names()
    for name, module in all_jobs().items():
        ours = {f"--{field.name}" for field in dataclasses.fields(module.Options)}
        assert not ours & beams, name


@pytest.mark.parametrize("name", cli.JOBS)
def test_every_job_has_help_with_an_example_and_loads_nothing_heavy(name):
    code = (
        "import sys\nfrom beam_vision.pipelines import cli\n"
        f"try: cli.main([{name!r}, '--help'])\nexcept SystemExit as e: assert e.code == 0\n"
        "print('HEAVY', [m for m in ('tensorflow', 'apache_beam', 'scann', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", timeout=60)
    assert done.returncode == 0, done.stderr
    assert f"beam-vision {name}" in done.stdout.partition("example:")[2]
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_help_lists_every_job_and_is_quick():
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "beam_vision.pipelines.cli", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0
    assert all(f"  {name}" in done.stdout for name in cli.JOBS)
    assert time.monotonic() - start < 30  # the bound of a hang, not a benchmark


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "jobs:"),
        (["--version"], 0, "beam-vision 0."),
        (["predikt"], 2, "did you mean 'predict'"),
    ],
)
def test_exit_codes_of_the_command(argv, code, message, capsys):
    assert cli.main(argv) == code
    captured = capsys.readouterr()
    assert message in captured.out + captured.err


def summary(**changes):
    values = {"job": "predict", "run_id": "r", "inputs": 10, "outputs": 8, "failed": 2, **changes}
    return job.Summary(**values)


@pytest.mark.parametrize(
    ("changes", "rate", "message"),
    [
        ({"outputs": 7}, 1.0, "9 are accounted for"),
        ({"inputs": 0, "outputs": 0, "failed": 0}, 1.0, "no images came in"),
        ({"outputs": 0, "failed": 10}, 1.0, "no image came through"),
        ({}, 0.1, r"2 of 10 images failed \(20.0%\)"),
    ],
)
def test_an_unacceptable_end_is_a_job_error(changes, rate, message):
    with pytest.raises(JobError, match=message):
        job.finish(summary(**changes), options.CommonOptions(max_failure_rate=rate), Ran())


def test_an_acceptable_end_writes_the_summary(tmp_path, capsys):
    path, measured = tmp_path / "summary.json", tmp_path / "metrics.json"
    given = options.CommonOptions(summary=str(path), metrics_file=str(measured), max_failure_rate=0.2)
    assert job.finish(summary(failed_by_reason={"empty": 2}), given, Ran(runner="FnApiRunner")) == 0
    assert json.loads(measured.read_text())["cost"] == {
        "usd": None,
        "why": "FnApiRunner doesn't count what is billed",
    }
    assert '"failed_by_reason": {\n    "empty": 2' in path.read_text()
    assert "empty" in capsys.readouterr().err


def test_runs_have_ids_that_sort_by_time():
    ids = [job.new_run_id() for _ in range(3)]
    assert ids == sorted(ids)


def test_a_runner_that_loses_data_is_refused():
    with pytest.raises(UsageError, match="refused"):
        job.runner_of(job.beam_options(["--runner=apache_beam.runners.dask.dask_runner.DaskRunner"]))


def test_errors_become_exit_codes(capsys):
    def fail_with(error):
        def run(argv):
            raise error

        return run

    assert job.guarded(fail_with(UsageError("no such folder")), []) == 2
    assert job.guarded(fail_with(JobError("too many failed")), []) == 1
    assert job.guarded(lambda argv: 0, []) == 0
    assert "no such folder" in capsys.readouterr().err


def test_formats_on_the_command_line_are_those_of_sources():
    choices = {field.name: field.metadata["choices"] for field in dataclasses.fields(options.SourceOptions)}
    assert choices["format"] == FORMATS
    assert choices["boxes_on"] == BOXES_ON
