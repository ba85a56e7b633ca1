"""A job's options are the fields of a frozen dataclass; its parser, its help and its template come from them.

Beam's own options pass through: what no field names is given to ``PipelineOptions``, after a check that
Beam knows it, so that a misspelt option is an error and not silence.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import math
import types
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beam_vision.errors import UsageError

if TYPE_CHECKING:
    from beam_vision.sources.spec import SourceSpec


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    choices: tuple[str, ...] | None = None,
    metavar: str | None = None,
    positional: bool = False,
    repeated: bool = False,
) -> Any:
    """A field of a job's options; a field without a default is a required option.

    One that is ``repeated`` may be given several times, and is a tuple of texts.
    """
    metadata = {"help": help, "choices": choices, "metavar": metavar, "positional": positional}
    metadata["repeated"] = repeated
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    """Where a run says what it did, for programs to read."""

    summary: str = option("", help="write the end-of-run summary to this file as JSON", metavar="FILE")
    metrics_file: str = option(
        "",
        help="write what the run measured to this file as JSON: counts, rates, seconds by stage, the share "
        "of time that the model waited for decoding, batch sizes, cost",
        metavar="FILE",
    )


@dataclass(frozen=True, kw_only=True)
class CommonOptions(ReportOptions):
    """What every job that runs a pipeline over images takes."""

    failures: str = option(
        "",
        help="where failed images are written: a folder, as JSONL (default: OUTPUT/failures), or a table of "
        "BigQuery (bigquery://PROJECT.DATASET.TABLE; default where OUTPUT is one: OUTPUT_failures)",
        metavar="PATH",
    )
    max_failure_rate: float = option(
        1.0, help="end with exit code 1 when a larger share of the images failed; 1.0: only when all did"
    )
    resume: bool = option(False, help="keep what an earlier run finished with the same settings")
    preflight_only: bool = option(False, help="check everything, say what would be done, run nothing")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Where images come from."""

    images: str = option(
        "",
        help="a folder of class folders, a glob (or several, comma-separated), a manifest "
        "(.csv, .jsonl, .parquet), COCO JSON, a VOC or YOLO folder (or its data.yaml), a TFRecord dataset, "
        "or a table or view of BigQuery with a row an image (bigquery://PROJECT.DATASET.TABLE)",
        metavar="SRC",
    )
    query: str = option(
        "",
        help="in place of --images: a SELECT in GoogleSQL that gives a row an image: uri, label and any "
        "further columns, as in a manifest",
        metavar="SQL",
    )
    query_project: str = option(
        "",
        help="reads from BigQuery and is billed for it (default: the table's, or of a query the first "
        "table's)",
        metavar="ID",
    )
    max_bytes_billed: int = option(
        0, help="refuse a query for the images that would be billed for more; 0: no limit", metavar="BYTES"
    )
    format: str = option(
        "auto",
        help="what --images is; auto finds it from the path",
        choices=(
            *("auto", "folder", "glob", "csv", "jsonl", "parquet", "tfrecord", "coco", "voc", "yolo"),
            "bigquery",
        ),
    )
    image_root: str = option(
        "",
        help="where relative URIs of a manifest or file names of COCO start (default: the file's folder); "
        "the images of VOC, or the folders of YOLO's data.yaml, where they are elsewhere",
        metavar="DIR",
    )
    boxes_on: str = option(
        "auto",
        help="what annotated boxes are drawn on: the upright image, or its pixels as stored, before the EXIF "
        "orientation; auto: upright in manifests, else what has the annotated size, stored in doubt",
        choices=("auto", "upright", "stored"),
    )
    limit: int = option(0, help="only the first N images of the listing, sorted by key; 0: all", metavar="N")


def find_source(options: SourceOptions) -> SourceSpec:
    """What the images are, found and checked.

    Raises:
      UsageError: see :func:`~beam_vision.sources.spec.resolve`.
    """
    from beam_vision.sources.spec import resolve

    return resolve(
        options.images,
        options.format,
        options.image_root,
        options.boxes_on,
        query=options.query,
        query_project=options.query_project,
        max_bytes_billed=options.max_bytes_billed,
    )


def source_facts(source: SourceSpec) -> dict[str, Any]:
    """What a preflight says of a source; of a query also what it costs."""
    facts: dict[str, Any] = {"format": source.format, "paths": list(source.paths)}
    return facts | {"query_cost": source.rows.cost} if source.rows and source.rows.cost else facts


def make_parser(
    job: str, options: type, *, description: str, example: str, beam: bool = True
) -> argparse.ArgumentParser:
    """The parser of a job; its ``--help`` shows types, choices, defaults and an example.

    Args:
      beam: whether the job runs a pipeline, and so takes Beam's options.
    """
    passed_on = "\n\nOptions of Apache Beam (--runner, --project, ...) are passed on." if beam else ""
    parser = argparse.ArgumentParser(
        prog=f"beam-vision {job}",
        description=description,
        epilog=f"example:\n  {example}{passed_on}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        _add(parser, field, hints[field.name])
    return parser


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field, kind: Any) -> None:
    meta, required = field.metadata, field.default is dataclasses.MISSING
    if isinstance(kind, types.UnionType):  # `int | None`, with None for what wasn't given
        kind = next(one for one in typing.get_args(kind) if one is not types.NoneType)
    shown = meta["help"].replace("%", "%%")
    if kind is bool:
        action = argparse.BooleanOptionalAction if field.default else "store_true"
        parser.add_argument(f"--{field.name}", action=action, default=field.default, help=f"{shown} (flag)")
        return
    if meta.get("repeated"):
        shown = f"{shown} (str, may be repeated)"
        parser.add_argument(f"--{field.name}", action="append", metavar=meta["metavar"], help=shown)
        return
    facts = [kind.__name__]
    if required:
        facts.append("required")
    elif field.default not in ("", None) and "default" not in shown:
        facts.append(f"default: {field.default}")
    settings: dict[str, Any] = {
        "type": kind,
        "choices": meta["choices"],
        "help": f"{shown} ({', '.join(facts)})",
        "metavar": meta["metavar"] if not meta["choices"] else None,
    }
    if meta["positional"]:
        if not required:
            settings.update(nargs="?", default=field.default)
        parser.add_argument(field.name, **settings)
    else:
        parser.add_argument(
            f"--{field.name.rstrip('_')}",  # `from_` is --from, which no field can be named
            dest=field.name,
            required=required,
            default=None if required else field.default,
            **settings,
        )


def parse(
    parser: argparse.ArgumentParser, options: type, argv: list[str], *, beam: bool = True
) -> tuple[Any, list[str]]:
    """The job's options, and what is left for Beam.

    Args:
      beam: whether the job takes Beam's options; if not, nothing is left.

    Raises:
      UsageError: an argument is neither the job's nor Beam's, or a number isn't finite.
    """
    values, rest = parser.parse_known_args(argv)
    if rest:
        _refuse_unknown(parser, rest, beam_option_names() if beam else set())
    for name, value in vars(values).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"--{name} is {value}; it must be a finite number")
    several = {field.name for field in dataclasses.fields(options) if field.metadata.get("repeated")}
    given = {name: tuple(value or ()) if name in several else value for name, value in vars(values).items()}
    return options(**given), rest


def beam_option_names() -> set[str]:
    """Every ``--name`` that Beam's own options define."""
    return set(beam_actions())


def beam_actions() -> dict[str, argparse.Action]:
    """Each of Beam's own options, by each ``--name`` that it has."""
    from apache_beam.options.pipeline_options import PipelineOptions

    from beam_vision.pipelines.flink_options import FlinkJobOptions  # those that Beam doesn't know itself

    parser = argparse.ArgumentParser(add_help=False, conflict_handler="resolve")
    for group in PipelineOptions.__subclasses__():
        if group is FlinkJobOptions or group.__module__.startswith("apache_beam."):
            group._add_argparse_args(parser)
    return {name: action for action in parser._actions for name in action.option_strings}


def _refuse_unknown(parser: argparse.ArgumentParser, rest: list[str], beams: set[str]) -> None:
    ours = {name for action in parser._actions for name in action.option_strings}
    previous_takes_value = False
    for word in rest:
        if not word.startswith("--"):
            if not previous_takes_value:
                raise UsageError(f"unexpected argument {word!r}; see {parser.prog} --help")
            previous_takes_value = False
            continue
        name = word.partition("=")[0]
        if name not in beams:
            near = difflib.get_close_matches(name, sorted(ours | beams), n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown option {name}{hint} (see {parser.prog} --help)")
        previous_takes_value = "=" not in word


def help_of(options: type) -> dict[str, str]:
    """Each option's help text."""
    return {field.name: field.metadata["help"] for field in dataclasses.fields(options)}
