"""The jobs that there are flex templates of, and what a template says of each beyond its options."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beam_vision import __version__
from beam_vision.dataflow.metadata import Shape, Template, metadata
from beam_vision.errors import UsageError
from beam_vision.pipelines import create_tfrecords, predict, redrive
from beam_vision.pipelines.cli import JOBS

GROUPS = {
    "SourceOptions": "Images",
    "ModelFactOptions": "Model",
    "ModelOptions": "Model",
    "TaskOptions": "Task",
    "CommonOptions": "Run",
    "ReportOptions": "Run",
    "ResourceOptions": "Workers",
}
"""Heading by the class of options that defines a parameter."""

_AFTER = "it is done after the pipeline, where the command was given; a template's launcher ends before"
_LOCAL = "it is for runs on one machine"
_BACKFILL = "it is for a backfill, which is no streaming job: run it with `beam-vision stream --backfill`"
OMITTED = {
    "preflight_only": "a template starts jobs",
    "summary": _AFTER,
    "metrics_file": _AFTER,
    "pictures": _AFTER,
}
_JUDGED_AFTER = {"max_failure_rate": _AFTER}
STREAM_OMITTED = {
    **dict.fromkeys(("watermark_lag_sec", "state", "lease_sec", "drain_sec", "run_sec", "once"), _LOCAL),
    "ready_file": _LOCAL,
    "write_method": "Beam's other way to BigQuery needs Java in the launcher; the default is taken",
    **dict.fromkeys(("backfill", "format", "image_root", "staging"), _BACKFILL),
}

REDRIVE_OMITTED = {
    "limit": "the failures beyond it would be lost",
    **dict.fromkeys(("resume", "retry_failed"), "a redrive does so anyway"),
}

_GCS = "gs://[^/ ]+(/.*)?"
_WHERE = f"{_GCS}|bigquery://.+"
_PUBSUB = "pubsub://projects/[^/]+/(topics|subscriptions)/[^/]+"
_READ_FOLDER = Shape(kind="GCS_READ_FOLDER", regex=_GCS)
_READ_FILE = Shape(kind="GCS_READ_FILE", regex=_GCS)
_WRITE_FOLDER = Shape(kind="GCS_WRITE_FOLDER", regex=_GCS)
SHAPES = {
    "images": Shape(regex=r"(gs|bigquery|https?)://.+"),
    "image_root": Shape(regex=r"(gs|https?)://.+"),
    "model": Shape(regex=_GCS),
    "class_names": _READ_FILE,
    "failures": Shape(regex=_WHERE),
    "staging": _WRITE_FOLDER,
    "image_size": Shape(regex="[1-9][0-9]*([xX][1-9][0-9]*)?"),
}
"""Of options that several jobs have. Launcher and workers see no disk of the user's: paths are in buckets."""


_PREDICT = predict.Options.__dataclass_fields__


@dataclass(frozen=True, kw_only=True)
class RedriveOptions(redrive.Options, predict.Options, create_tfrecords.Options):
    """What a redrive takes, of whichever job failed: only one of them has a task and a model."""

    task: str = dataclasses.field(default="", metadata=_PREDICT["task"].metadata)
    model: str = dataclasses.field(default="", metadata=_PREDICT["model"].metadata)


def _redriven() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Which options are of one of the jobs only."""
    of_predict, of_records = (
        {one.name for one in dataclasses.fields(job.Options)} for job in (predict, create_tfrecords)
    )
    to_predict = ("job", ("auto", predict.NAME))
    to_records = ("job", ("auto", create_tfrecords.NAME))
    return dict.fromkeys(of_predict - of_records, to_predict) | dict.fromkeys(
        of_records - of_predict, to_records
    )


_TABLE = Shape(regex=_WHERE)
_OWN: dict[str, dict[str, Any]] = {
    "create-tfrecords": {
        "title": "Images to TFRecords",
        "shapes": {
            "output": _WRITE_FOLDER,
            "split_by": Shape(regex="content|uri|manifest|(group|column):.+"),
        },
    },
    "verify-tfrecords": {
        "title": "Check a TFRecord dataset",
        "required": ("report",),
        "shapes": {"dataset": _READ_FOLDER, "report": Shape(kind="GCS_WRITE_FILE", regex=_GCS)},
    },
    "synth-detection": {
        "title": "Simulated scenes with boxes",
        "required": ("cutouts", "backgrounds"),
        "omitted": _JUDGED_AFTER,
        "shapes": {"output": _WRITE_FOLDER, "cutouts": _READ_FOLDER, "backgrounds": _READ_FOLDER},
    },
    "predict": {"title": "Classify, embed or detect", "shapes": {"output": _TABLE}},
    "redrive": {
        "title": "Failed images again",
        "omitted": REDRIVE_OMITTED,
        "shapes": {"output": _TABLE},
        "parents": _redriven(),
    },
    "evaluate": {
        "title": "Measure detections against the truth",
        "omitted": _JUDGED_AFTER,
        "shapes": {
            "predictions": _TABLE,
            "truth": _TABLE,
            "output": Shape(regex=r"(gs|bigquery)://[^,]+(,(gs|bigquery)://.+)?"),
        },
    },
    "build-index": {
        "title": "A search index in shards",
        "required": ("shards",),
        "omitted": {"since": "it is for an index of one piece, which is no job of Beam's"},
        "shapes": {"table": _TABLE, "output": _WRITE_FOLDER, "shards": Shape(regex="auto|[1-9][0-9]*")},
    },
    "stream": {
        "title": "Images of cameras as they come",
        "streaming": True,
        "omitted": STREAM_OMITTED,
        "shapes": {
            "input": Shape(regex=_PUBSUB),
            "output": Shape(regex=r"(gs|bigquery|pubsub)://.+"),
            "failures": Shape(regex=r"(gs|bigquery|pubsub)://.+"),
        },
    },
}


def template_jobs() -> tuple[str, ...]:
    """Jobs that there are templates of."""
    return tuple(_OWN)


def module_of(job: str) -> Any:
    """The job's module.

    Raises:
      UsageError: there is no template of it.
    """
    if job not in _OWN:
        raise UsageError(f"no template of {job!r}; there are templates of {', '.join(_OWN)}")
    return importlib.import_module(f"beam_vision.pipelines.{job.replace('-', '_')}")


def options_of(job: str) -> type:
    """The dataclass of a job's options, as its template takes them."""
    return RedriveOptions if job == "redrive" else module_of(job).Options


def template_of(job: str) -> Template:
    """What is said of a job as a whole.

    Raises:
      UsageError: there is no template of it.
    """
    options = options_of(job)
    names = {one.name for one in dataclasses.fields(options)}
    own = dict(_OWN[job])
    omitted = {name: why for name, why in (OMITTED | own.pop("omitted", {})).items() if name in names}
    shapes = {name: shape for name, shape in (SHAPES | own.pop("shapes", {})).items() if name in names}
    return Template(
        job=job,
        title=f"beam-vision: {own.pop('title')}",
        description=f"{JOBS[job]}. beam-vision {__version__}: `beam-vision {job} --help` says the same.",
        omitted=omitted,
        shapes={name: shape for name, shape in shapes.items() if name not in omitted},
        parents={name: of for name, of in own.pop("parents", {}).items() if name not in omitted},
        **own,
    )


def metadata_of(job: str) -> Mapping[str, Any]:
    """The content of a job's ``metadata.json``.

    Raises:
      UsageError: there is no template of it.
    """
    return metadata(template_of(job), options_of(job), groups=GROUPS)
