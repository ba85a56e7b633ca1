"""Registers the types of :mod:`beam_vision.types` with Beam: rows instead of pickles across a shuffle.

Imported (for its effect) by every module that builds transforms.
"""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from apache_beam import coders
from apache_beam.portability.api import schema_pb2
from apache_beam.typehints.row_type import _BEAM_SCHEMA_ID
from apache_beam.typehints.schema_registry import SCHEMA_REGISTRY
from apache_beam.typehints.schemas import schema_from_element_type

from beam_vision import stream_types, types

_OURS = uuid.UUID("6f1f5b0a-3d0c-4f43-9a35-6d9d5e8d7a51")


class OpaqueRowCoder(coders.RowCoder):
    """Beam's coder of rows, as a coder that only Python knows: a runner sees bytes with their length.

    Our fields' hints are strings, which Beam codes as Python objects in a form of its own. A runner in Java
    takes a row for something that it can decode itself, and reads these wrongly: on Flink, a job ends with
    ``varint overflow``.
    """

    @classmethod
    def from_type_hint(cls, type_hint: type, registry: Any) -> OpaqueRowCoder:
        """By the schema that :func:`register_row` has kept of a class."""
        schema = SCHEMA_REGISTRY.get_schema_by_id(getattr(type_hint, _BEAM_SCHEMA_ID))
        return cls(schema)

    def to_runner_api_parameter(self, context: Any) -> Any:
        """As a pickled coder."""
        return coders.Coder.to_runner_api_parameter(self, context)

    def as_deterministic_coder(self, step_label: str, error_message: str | None = None) -> coders.Coder:
        """Itself, or one that codes its fields deterministically."""
        return self if self.is_deterministic() else type(self)(self.schema, error_message or step_label)

    def __reduce__(self) -> Any:
        return _opaque_row_coder, (self.schema.SerializeToString(), self.forced_deterministic)


def _opaque_row_coder(schema: bytes, force_deterministic: bool) -> OpaqueRowCoder:
    return OpaqueRowCoder(schema_pb2.Schema.FromString(schema), force_deterministic)


def register_row(kind: type) -> type:
    """Lets a dataclass cross a shuffle as a row and come out as itself, whatever process reads it.

    A row's coder names the class by an id, which Beam draws anew in each process: a worker in another one
    would be given look-alikes, no instances of the class and without its methods. Here the id follows from
    the class's name and fields, so it is the same wherever this version of it is imported; and a look-alike
    that Beam has made under that id before the import gives way to the class.

    Args:
      kind: a dataclass; those in its fields are registered before it.
    """
    fields = ",".join(f"{field.name}:{field.type}" for field in dataclasses.fields(kind))
    name = f"{kind.__module__}.{kind.__qualname__}({fields})"
    setattr(kind, _BEAM_SCHEMA_ID, str(uuid.uuid5(_OURS, name)))
    coders.registry.register_row(kind)
    SCHEMA_REGISTRY.add(kind, schema_from_element_type(kind))
    coders.registry.register_coder(kind, OpaqueRowCoder)
    return kind


for _row in (
    *(types.Box, types.BoxFrame, types.Fault, types.Label),
    *(types.ImageRef, types.Prediction, types.Failure),
    *(stream_types.FrameInfo, stream_types.Observation),
):
    register_row(_row)
