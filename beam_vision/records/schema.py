"""What features a dataset's records have, as a tensorflow-metadata schema, and whether records keep to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from beam_vision import deps
from beam_vision.records import example as names
from beam_vision.records.observe import Observed

_REQUIRED = {
    names.ENCODED: "BYTES",
    names.FORMAT: "BYTES",
    names.KEY: "BYTES",
    names.SOURCE_ID: "BYTES",
    names.HEIGHT: "INT",
    names.WIDTH: "INT",
    names.SHA256: "BYTES",
    names.ATTRIBUTES: "BYTES",
}
_LISTS = {
    names.CLASS_TEXT: "BYTES",
    names.CLASS_LABEL: "INT",
    **dict.fromkeys(names.BOX_CORNERS, "FLOAT"),
    names.BOX_TEXT: "BYTES",
}


def build(classes: Sequence[str], *, images: bool = True) -> Any:
    """The ``tensorflow_metadata.proto.v0.schema_pb2.Schema`` of a dataset.

    Every record has one value of what is required; labels and boxes are lists that may be missing. Labels are
    bounded by the class list, corners of boxes by 0..1.

    Args:
      classes: the class list.
      images: whether the encoded images are in it; without them it is a schema for reading all else.
    """
    pb = deps.need("tensorflow_metadata.proto.v0.schema_pb2")
    schema = pb.Schema()
    for name, kind in _REQUIRED.items():
        if name == names.ENCODED and not images:
            continue
        feature = schema.feature.add(name=name, type=getattr(pb, kind))
        feature.presence.min_fraction = 1.0
        feature.shape.dim.add(size=1)
    for name, kind in _LISTS.items():
        feature = schema.feature.add(name=name, type=getattr(pb, kind))
        feature.value_count.min = 1
        if name == names.CLASS_TEXT and classes:
            feature.string_domain.value.extend(classes)
        elif name == names.CLASS_LABEL and classes:
            feature.int_domain.min, feature.int_domain.max = 0, len(classes) - 1
        elif kind == "FLOAT":
            feature.float_domain.min, feature.float_domain.max = 0.0, 1.0
    return schema


def to_text(schema: Any) -> str:
    """A schema as protobuf text, which TFDV, TFT and ``tfx_bsl`` read."""
    return deps.need("google.protobuf.text_format").MessageToString(schema)


def from_text(text: str) -> Any:
    """Reads what :func:`to_text` gave.

    Raises:
      ValueError: it isn't the text of a schema.
    """
    pb = deps.need("tensorflow_metadata.proto.v0.schema_pb2")
    text_format = deps.need("google.protobuf.text_format")
    try:
        return text_format.Parse(text, pb.Schema())
    except text_format.ParseError as error:
        raise ValueError(f"not a schema: {error}") from error


def violations(schema: Any, observed: Observed, class_counts: Mapping[str, int]) -> list[str]:
    """In which ways the records that TFXIO read differ from the schema and from what was counted at writing.

    Args:
      schema: the dataset's.
      observed: what was read.
      class_counts: images by label, as the shards' side-cars have it.
    """
    pb = deps.need("tensorflow_metadata.proto.v0.schema_pb2")
    known = {feature.name: feature for feature in schema.feature}
    found = [f"feature {name!r} is not in the schema" for name in sorted(observed.features.keys() - known)]
    for name, feature in known.items():
        seen = observed.features.get(name)
        if seen is None:
            if feature.presence.min_fraction and observed.records:
                found.append(f"feature {name!r} is missing from all records")
            continue
        kind = pb.FeatureType.Name(feature.type)
        if seen.types != {kind}:
            found.append(f"feature {name!r} is {'/'.join(sorted(seen.types))}, by the schema {kind}")
        if seen.present < feature.presence.min_fraction * observed.records:
            found.append(f"feature {name!r} is missing from {observed.records - seen.present} records")
        least, most = (1, 1) if feature.HasField("shape") else (feature.value_count.min, None)
        if seen.fewest < least or (most is not None and seen.most > most):
            found.append(f"feature {name!r} has {seen.fewest} to {seen.most} values in a record")
    found += [f"label {label!r} is not in the class list" for label in _unknown(known, observed)]
    if dict(observed.classes) != {label: n for label, n in class_counts.items() if n}:
        found.append("the labels read back are not those that were counted at writing")
    return found


def _unknown(known: Mapping[str, Any], observed: Observed) -> list[str]:
    feature = known.get(names.CLASS_TEXT)
    allowed = set(feature.string_domain.value) if feature is not None else set()
    return sorted(observed.classes.keys() - allowed)
