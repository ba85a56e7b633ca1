"""``beam-vision redrive``: run a job again for just the images that failed."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.pipelines import create_tfrecords, predict
from beam_vision.pipelines import job as jobs
from beam_vision.pipelines.options import make_parser, option, parse
from beam_vision.sinks.letters import job_of, letter_files, read_letter
from beam_vision.warehouse.names import is_bigquery

NAME = "redrive"
DESCRIPTION = """run a job again for just the images that failed.

Takes the options of that job too: give those of the run that failed. They are shown by
`beam-vision predict --help` and `beam-vision create-tfrecords --help`."""
EXAMPLE = (
    "beam-vision redrive --failures table/failures \\\n"
    "    --task embed --images photos/ --model model/ --output table/"
)
JOBS = (predict.NAME, create_tfrecords.NAME)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What ``redrive`` takes, besides the job's own options."""

    failures: str = option(
        help="the folder, or the table of BigQuery, with the failures of the run; afterwards it holds those "
        "that failed again",
        metavar="PATH",
    )
    job: str = option(
        "auto", help="the job that failed; auto finds it in the failures folder", choices=("auto", *JOBS)
    )


def find_job(options: Options, rest: list[str], output: str = "") -> str:
    """The job to run again: as asked, as the failures say, else by whether a model is given.

    Args:
      options, rest: the command line.
      output: the job's destination, for a table with the failures of several.

    Raises:
      UsageError: it is a job that can't be redriven.
    """
    recorded = job_of(options.failures, output=output)
    name = options.job if options.job != "auto" else recorded
    if not name:
        given = any(word.partition("=")[0] == "--model" for word in rest)
        name = predict.NAME if given else create_tfrecords.NAME
    if name not in JOBS:
        raise UsageError(f"{options.failures} holds failures of {name!r}, which can't be redriven")
    if recorded and name != recorded:
        raise UsageError(f"{options.failures} holds failures of {recorded!r}, not of {name!r}")
    return name


def find_failures(folder: str, output: str = "") -> predict.Again:
    """What is in a dead letter.

    Args:
      folder: the folder, or the table.
      output: the job's destination, for a table with the failures of several.

    Raises:
      UsageError: there is none, or it is a single file; or a line in it isn't a failure.
    """
    if not is_bigquery(folder) and storage.exists(folder) and not storage.is_folder(folder):
        raise UsageError(f"--failures {folder} is a file; give the folder that holds it")
    files = letter_files(folder)
    count, attempt = 0, 0
    for failure in read_letter(folder, output=output):
        count, attempt = count + 1, max(attempt, failure.attempt)
    return predict.Again(files=tuple(files), failures=count, attempt=attempt + 1)


def output_in(rest: list[str]) -> str:
    """The job's ``--output``, as the rows of a table of failures name it; ``""`` where there is none."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", default="")
    output = parser.parse_known_args(rest)[0].output
    if not output:
        return ""
    return output if is_bigquery(output) else storage.absolute(output).rstrip("/")


def run(argv: list[str]) -> int:
    """Runs the job; see :mod:`beam_vision.pipelines.cli` for the exit codes."""
    parser = make_parser(NAME, Options, description=DESCRIPTION, example=EXAMPLE)
    values, rest = parser.parse_known_args(argv)
    options = Options(**vars(values))
    output = output_in(rest)
    name = find_job(options, rest, output)
    again = find_failures(storage.absolute(options.failures), output)
    if not again.failures:
        jobs.say(f"no failures in {options.failures}: nothing to redrive")
        return 0
    rest += ["--failures", options.failures]
    if name == create_tfrecords.NAME:
        return create_tfrecords.run([*rest, "--resume", "--retry_failed"], attempt=again.attempt)
    job_parser = make_parser(NAME, predict.Options, description=DESCRIPTION, example=EXAMPLE)
    job_options, beam_args = parse(job_parser, predict.Options, rest)
    if job_options.limit:
        raise UsageError("--limit doesn't go with redrive: the failures beyond it would be lost")
    return predict.predict(job_options, beam_args, again)
