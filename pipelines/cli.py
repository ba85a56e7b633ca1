"""``beam-vision JOB ...``: one console script over all jobs. Loads a job's code only when it is asked for."""

from __future__ import annotations

import importlib
import os
import sys

from beam_vision import __version__

JOBS = {
    "create-tfrecords": "write an image lake as a TFRecord dataset with a manifest",
    "verify-tfrecords": "re-read a TFRecord dataset and prove it whole",
    "synth-detection": "make simulated scenes with boxes: cut-outs pasted on backgrounds",
    "train": "train a classifier, an embedder or a detector on a TFRecord dataset, here or on Vertex AI",
    "tune": "search for a training job's best settings",
    "inspect-model": "say what a model takes and gives",
    "predict": "classify or embed images into a Parquet table",
    "stream": "predict images of cameras as they come, from Pub/Sub or a watched folder",
    "rollout": "say which version of a model serves, promote another, go back",
    "redrive": "run a job again for just the images that failed",
    "evaluate": "compare detections with the truth: COCO's metrics, curves and pictures",
    "build-index": "build a search index from a table of embeddings",
    "search": "find similar images by file, key or vector",
    "check-index": "the same queries by every way of searching, side by side",
    "vector-index": "advise, create, inspect or drop BigQuery's own index of a table",
    "migrate-embeddings": "bring a table in BigQuery to another model's embeddings, then switch",
    "sql": "run SQL over a table",
    "plan": "say how long a job takes and what it costs, from a sample of its images",
    "doctor": "check this machine, the project in the cloud and a job's options",
    "template": "build and run a job's flex template on Dataflow",
    "demo": "everything, on real images, ending in an HTML report",
    "demo-stream": "simulated cameras through a stream, ending in an HTML page",
}


def usage() -> str:
    """The text of ``beam-vision --help``."""
    width = max(map(len, JOBS))
    jobs = "\n".join(f"  {name:<{width}}  {text}" for name, text in JOBS.items())
    return (
        f"usage: beam-vision JOB [options]\n\nVision pipelines on Apache Beam ({__version__}).\n\n"
        f"jobs:\n{jobs}\n\n"
        "`beam-vision JOB --help` shows a job's options: types, choices, defaults and an example.\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs a job. Exit code 0: done, 1: failed, 2: wrong arguments."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        sys.stdout.write(usage())
        return 0 if argv else 2
    if argv[0] == "--version":
        sys.stdout.write(f"beam-vision {__version__}\n")
        return 0
    if argv[0] not in JOBS:
        import difflib

        near = difflib.get_close_matches(argv[0], JOBS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        sys.stderr.write(f"beam-vision: no job named {argv[0]!r}{hint} (see beam-vision --help)\n")
        return 2
    from beam_vision.pipelines.job import guarded

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what it would say comes as exceptions, too
    module = importlib.import_module(f"beam_vision.pipelines.{argv[0].replace('-', '_')}")
    return guarded(module.run, argv[1:])


if __name__ == "__main__":
    sys.exit(main())
