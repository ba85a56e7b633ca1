"""PTransforms of inference."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

import beam_vision.coders  # noqa: F401  (registers our rows)
from beam_vision import deps, metrics
from beam_vision.errors import Stage, UsageError
from beam_vision.failures import FAILED, Guard, Outcome
from beam_vision.inference.bundle import fetch, find_files
from beam_vision.inference.detect import View
from beam_vision.inference.engine import Result
from beam_vision.inference.examples import ExampleKey, key_of, load_session, rows_of
from beam_vision.inference.handler import ImageModelHandler
from beam_vision.inference.loader import wanted_outputs
from beam_vision.inference.reading import EngineSettings, Reader
from beam_vision.inference.spec import ModelSpec
from beam_vision.types import EncodedImage, Failure, Prediction


class Infer(beam.PTransform):
    """Runs a model on images: ``PCollection[EncodedImage]`` -> Outcome of ``Prediction``s.

    Args:
      spec: the model's, as :func:`~beam_vision.inference.bundle.read_bundle` gave it.
      model_path: where the model is, for every worker.
      max_batch_images, max_batch_bytes: bounds of what a worker holds at once, both kept.
      wanted: what is made of each image: fields of
        :class:`~beam_vision.inference.reading.EngineSettings`, such as ``task`` and ``batch_size``.

    Raises:
      UsageError: the model doesn't give what is wanted.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model_path: str,
        *,
        max_batch_images: int = 256,
        max_batch_bytes: int = 64 << 20,
        **wanted: Any,
    ) -> None:
        super().__init__()
        self._handler = ImageModelHandler(
            model_path,
            spec,
            EngineSettings(**wanted),
            max_batch_images=max_batch_images,
            max_batch_bytes=max_batch_bytes,
        )

    def expand(self, images: beam.PCollection[EncodedImage]) -> Outcome:
        """Builds the stage; nothing in it shuffles."""
        found = (
            images
            | "Key" >> beam.Map(with_key)
            | "RunInference" >> RunInference(KeyedModelHandler(self._handler))
            | "Split" >> beam.ParDo(SplitOutcomes()).with_outputs(FAILED, main="good")
        )
        return Outcome(found.good, found[FAILED])


class InferExamples(beam.PTransform):
    """Runs a SavedModel that takes serialized ``tf.Example``s straight over records, through tfx-bsl.

    ``PCollection[EncodedImage]``, the data of each a whole record of a TFRecord dataset (a serialized
    Example) -> Outcome of ``Prediction``s.

    tfx-bsl gives its batching no bound by bytes: Beam aims at ten seconds a batch. Model batches are cut
    to ``batch_size``.

    Args:
      spec: the model's, completed by :func:`~beam_vision.inference.check.checked`, so that how its scores
        become probabilities is decided.
      model_path: where the SavedModel is, for every worker.
      wanted: as for :class:`Infer`.

    Raises:
      UsageError: the model doesn't give what is wanted, or the spec isn't complete.
    """

    def __init__(
        self,
        spec: ModelSpec,
        model_path: str,
        **wanted: Any,
    ) -> None:
        super().__init__()
        if spec.input_kind != "tf_example":
            raise UsageError(f"the model takes {spec.input_kind}, not tf.Examples")
        settings = EngineSettings(**wanted)
        if settings.labels_wanted and (spec.activation == "auto" or spec.multi_label is None):
            raise UsageError("how the scores become probabilities is undecided; try the model first")
        self._settings = settings
        self._settings.check(spec)
        self._spec = spec
        self._model_path = model_path

    def expand(self, records: beam.PCollection[EncodedImage]) -> Outcome:
        """Builds the stage; nothing in it shuffles."""
        tfx = deps.need("tfx_bsl.public.beam")
        proto = deps.need("tfx_bsl.public.proto.model_spec_pb2")
        here = fetch(find_files(self._model_path)).path  # tfx-bsl reads the signature while it builds
        saved_model = proto.SavedModelSpec(model_path=here, signature_name=[self._spec.signature])
        settings = self._settings
        opener = functools.partial(load_session, self._model_path, self._spec, settings)
        keyed = records | "Key" >> beam.ParDo(KeyExamples(settings)).with_outputs(FAILED, main="good")
        logs = keyed.good | "RunInference" >> tfx.RunInference(
            proto.InferenceSpecType(saved_model_spec=saved_model), load_override_fn=opener
        )
        read = logs | "Read" >> beam.ParDo(ReadLogs(self._spec, settings)).with_outputs(FAILED, main="good")
        failed = (keyed[FAILED], read[FAILED]) | "Failures" >> beam.Flatten()
        return Outcome(read.good, failed)


@beam.typehints.with_output_types(tuple[ExampleKey, bytes], failed=Failure)
class KeyExamples(beam.DoFn):
    """Records behind their keys; those that can't be read as failures."""

    def __init__(self, settings: EngineSettings) -> None:
        self._guard = Guard(key_of, Stage.READ, run_id=settings.run_id, attempt=settings.attempt)

    def process(self, record: EncodedImage) -> Iterable[tuple[ExampleKey, bytes]]:
        """One keyed record or one tagged failure."""
        key = self._guard(record.ref, record)
        if isinstance(key, Failure):
            metrics.count_failure(key.reason)
            yield beam.pvalue.TaggedOutput(FAILED, key)
        else:
            yield key, record.data


@beam.typehints.with_output_types(Prediction, failed=Failure)
class ReadLogs(beam.DoFn):
    """Keyed ``PredictionLog``s to predictions and failures."""

    def __init__(self, spec: ModelSpec, settings: EngineSettings) -> None:
        self._spec = spec
        self._reader = Reader(spec, settings)

    def process(self, element: tuple[ExampleKey, object]) -> Iterable[Prediction]:
        """One prediction or one tagged failure."""
        key, log = element
        spec = self._spec
        rows = rows_of(log, wanted_outputs(spec))
        view = View(key.width_px, key.height_px, key.width_px, key.height_px)
        made = self._reader.read(rows, [view], spec.activation, bool(spec.multi_label))[0]
        outcome = self._reader.result(key.ref, view, made)
        if isinstance(outcome, Failure):
            metrics.count_failure(outcome.reason)
            yield beam.pvalue.TaggedOutput(FAILED, outcome)
        else:
            metrics.count(metrics.INFERRED)
            yield outcome


def with_key(image: EncodedImage) -> tuple[str, EncodedImage]:
    """An image behind its key."""
    return image.ref.key, image


@beam.typehints.with_output_types(Prediction, failed=Failure)
class SplitOutcomes(beam.DoFn):
    """Keyed predictions to the main output, keyed failures to the other; the keys are in them."""

    def process(self, element: tuple[str, Result]) -> Iterable[Prediction]:
        """One prediction, one for each tile, or one tagged failure."""
        outcome = element[1]
        if isinstance(outcome, Failure):
            yield beam.pvalue.TaggedOutput(FAILED, outcome)
        elif isinstance(outcome, Prediction):
            yield outcome
        else:
            yield from outcome
