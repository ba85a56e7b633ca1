"""Registers the types of :mod:`beam_vision.types` with Beam: rows instead of pickles across a shuffle.

Imported (for its effect) by every module that builds transforms.
"""

import dataclasses
import uuid

from apache_beam import coders
from apache_beam.typehints.row_type import _BEAM_SCHEMA_ID
from apache_beam.typehints.schema_registry import SCHEMA_REGISTRY
from apache_beam.typehints.schemas import schema_from_element_type

from beam_vision import stream_types, types

_OURS = uuid.UUID("6f1f5b0a-3d0c-4f43-9a35-6d9d5e8d7a51")


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
    return kind


for _row in (
    *(types.Box, types.BoxFrame, types.Fault, types.Label),
    *(types.ImageRef, types.Prediction, types.Failure),
    *(stream_types.FrameInfo, stream_types.Observation),
):
    register_row(_row)
