"""The RunInference pipeline over a few images, in this process: what a worker would make of them."""

from __future__ import annotations

import os
import pickle
import tempfile
import uuid
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_vision.inference.spec import ModelSpec
from beam_vision.inference.transforms import Infer
from beam_vision.types import EncodedImage, Failure, Prediction


def run_local(
    images: Sequence[EncodedImage], spec: ModelSpec, model_path: str, **wanted: Any
) -> list[Prediction | Failure]:
    """Runs :class:`~beam_vision.inference.transforms.Infer` by Beam's own runner.

    Args:
      images: with different keys; they are held in memory.
      spec, model_path, wanted: as for ``Infer``.

    Returns:
      What became of each, in the order of ``images``.

    Raises:
      UsageError: the model doesn't give what is wanted.
    """
    with tempfile.TemporaryDirectory(prefix="beam-vision-run-") as folder:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            outcome = (
                pipeline | beam.Create(list(images), reshuffle=False) | Infer(spec, model_path, **wanted)
            )
            _ = outcome.good | "KeepGood" >> beam.Map(_keep, folder)
            _ = outcome.failed | "KeepFailed" >> beam.Map(_keep_failure, folder)
        found = {}
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), "rb") as file:
                key, result = pickle.load(file)  # written by this process, in a folder of its own
                found[key] = result
    return [found[image.ref.key] for image in images]


def _keep(prediction: Prediction, folder: str) -> None:
    _write(folder, prediction.ref.key, prediction)


def _keep_failure(failure: Failure, folder: str) -> None:
    _write(folder, failure.key, failure)


def _write(folder: str, key: str, result: Prediction | Failure) -> None:
    with open(os.path.join(folder, uuid.uuid4().hex), "wb") as file:
        pickle.dump((key, result), file)
