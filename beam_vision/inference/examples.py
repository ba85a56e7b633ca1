"""Models that take serialized ``tf.train.Example``s: what tfx-bsl's RunInference needs around them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from beam_vision.errors import Reason, VisionError
from beam_vision.inference import embed
from beam_vision.inference.loader import LoadedModel, load, wanted_outputs
from beam_vision.inference.reading import EngineSettings
from beam_vision.inference.robust import Rows, run_rows
from beam_vision.inference.spec import ModelSpec
from beam_vision.tfrecord_io import Example
from beam_vision.types import EncodedImage, ImageRef

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ExampleKey:
    """What the prediction of a record is keyed by: its ref and the upright size that the record states."""

    ref: ImageRef
    width_px: int
    height_px: int


def key_of(record: EncodedImage) -> ExampleKey:
    """Reads a record's ``image/width`` and ``image/height``; 0 where it doesn't say.

    Args:
      record: its ``data`` is a serialized ``tf.train.Example``.

    Raises:
      VisionError: ``bad_record``: it is no Example.
    """
    try:
        features = Example.FromString(record.data).features.feature
    except DecodeError as error:
        raise VisionError(Reason.BAD_RECORD, f"the record is no tf.train.Example: {error}") from error
    width, height = (_first_int(features, f"image/{side}") for side in ("width", "height"))
    return ExampleKey(record.ref, width, height)


def _first_int(features: Any, name: str) -> int:
    values = features[name].int64_list.value if name in features else ()
    return int(values[0]) if values else 0


class ExampleSession:
    """Stands in for the session that tfx-bsl runs: the same call, but one bad record costs only itself.

    Args:
      model: takes batches of serialized Examples.
      batch_size: tfx-bsl's batches (which have no bound by bytes) are cut into such ones.
    """

    def __init__(self, model: LoadedModel, batch_size: int) -> None:
        self._model = model
        self._batch_size = batch_size

    def run(
        self, fetches: Mapping[str, str], feed_dict: Mapping[str, Sequence[bytes]]
    ) -> dict[str, np.ndarray]:
        """Outputs by name, each float32 ``[n, d]``. Rows of records that the model fails on are NaN.

        Args:
          fetches: the outputs wanted, by name; those that are of no use to us come back as zeros.
          feed_dict: one input: the records.
        """
        (records,) = feed_dict.values()
        parts = []
        for start in range(0, len(records), self._batch_size):
            batch = np.array(records[start : start + self._batch_size], object)
            parts.append(self._run(batch))
        outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        nothing = np.zeros((len(records), 1), np.float32)
        return {name: outputs.get(name, nothing) for name in fetches}

    def _run(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        rows, spec = run_rows(self._model, batch), self._model.spec
        if rows.errors:
            error = next(iter(rows.errors.values()))
            _LOG.warning("the model failed on %d records of a batch: %s", len(rows.errors), error.detail)
        outputs = {}
        for name in wanted_outputs(spec):
            length = spec.classes if name == spec.scores_output else spec.embedding_dim
            output = np.full((len(batch), length or 1), np.nan, np.float32)
            if rows.outputs:
                output = embed.rows(rows.outputs[name]).copy()
                output[list(rows.errors)] = np.nan
            outputs[name] = output
        return outputs


def load_session(path: str, spec: ModelSpec, settings: EngineSettings, *_: Any) -> ExampleSession:
    """Loads the model at ``path``; what tfx-bsl would have opened (the further arguments) isn't looked at."""
    return ExampleSession(load(path, spec, require_gpu=settings.require_gpu), settings.batch_size)


def rows_of(log: Any, names: Sequence[str]) -> Rows:
    """The outputs of one ``PredictionLog``, as of a batch of one."""
    import tensorflow as tf

    outputs = log.predict_log.response.outputs
    rows = Rows({name: tf.make_ndarray(outputs[name]) for name in names})
    if all(np.isnan(value).all() for value in rows.outputs.values()):
        detail = "the model raised an error on this record, or gave nothing but NaN; the log has the error"
        rows.errors[0] = VisionError(Reason.MODEL_ERROR, detail)
    return rows
