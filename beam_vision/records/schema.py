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
_REQUIRED_FOR_DETECTION = {names.FILENAME: "BYTES", names.KEY_SHA256: "BYTES"}
_LABELS = {names.CLASS_TEXT: "BYTES", names.CLASS_LABEL: "INT"}
_BOXES = {
    **dict.fromkeys(names.BOX_CORNERS, "FLOAT"),
    names.BOX_TEXT: "BYTES",
    names.BOX_LABEL: "INT",
    names.BOX_CROWD: "INT",
    names.BOX_AREA: "FLOAT",
}


def build(classes: Sequence[str], *, box_classes: Sequence[str] = (), images: bool = True) -> Any:
    """The ``tensorflow_metadata.proto.v0.schema_pb2.Schema`` of a dataset.

    Every record has one value of what is required; labels and boxes are lists that may be missing. Labels are
    bounded by the class list, categories of boxes by theirs, corners by 0..1, crowd flags by 0 and 1, areas
    by 0.

    Args:
      classes: the class list.
      box_classes: the categories of boxes; empty: no record has boxes, and the schema no feature of them.
      images: whether the encoded images are in it; without them it is a schema for reading all else.
    """
    schema = deps.need("tensorflow_metadata.proto.v0.schema_pb2").Schema()
    _add_required(schema, _REQUIRED, images=images)
    _add_lists(schema, _LABELS)
    if box_classes:
        _add_required(schema, _REQUIRED_FOR_DETECTION)
        _add_lists(schema, _BOXES)
    features = {feature.name: feature for feature in schema.feature}
    for text, label, values, first in (
        (names.CLASS_TEXT, names.CLASS_LABEL, classes, 0),
        (names.BOX_TEXT, names.BOX_LABEL, box_classes, 1),
    ):
        if values:
            features[text].string_domain.value.extend(values)
            domain = features[label].int_domain
            domain.min, domain.max = first, first + len(values) - 1
    if box_classes:
        for name in names.BOX_CORNERS:
            features[name].float_domain.min, features[name].float_domain.max = 0.0, 1.0
        features[names.BOX_CROWD].int_domain.min, features[names.BOX_CROWD].int_domain.max = 0, 1
        features[names.BOX_AREA].float_domain.min = 0.0
    return schema


def for_reading() -> Any:
    """A schema for reading whatever a dataset of ours may have, but its images."""
    schema = build((), images=False)
    _add_lists(schema, {**_REQUIRED_FOR_DETECTION, **_BOXES})
    return schema


def _add_required(schema: Any, features: Mapping[str, str], *, images: bool = True) -> None:
    pb = deps.need("tensorflow_metadata.proto.v0.schema_pb2")
    for name, kind in features.items():
        if name == names.ENCODED and not images:
            continue
        feature = schema.feature.add(name=name, type=getattr(pb, kind))
        feature.presence.min_fraction = 1.0
        feature.shape.dim.add(size=1)


def _add_lists(schema: Any, features: Mapping[str, str]) -> None:
    pb = deps.need("tensorflow_metadata.proto.v0.schema_pb2")
    for name, kind in features.items():
        schema.feature.add(name=name, type=getattr(pb, kind)).value_count.min = 1


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


def violations(
    schema: Any,
    observed: Observed,
    class_counts: Mapping[str, int],
    box_counts: Mapping[str, int] | None = None,
) -> list[str]:
    """In which ways the records that TFXIO read differ from the schema and from what was counted at writing.

    Args:
      schema: the dataset's.
      observed: what was read.
      class_counts: images by label, as the shards' side-cars have it.
      box_counts: boxes by category; None: not counted.
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
    found += _miscounted("label", known.get(names.CLASS_TEXT), observed.classes, class_counts)
    if box_counts is not None:
        found += _miscounted("category", known.get(names.BOX_TEXT), observed.boxes, box_counts)
    return found


def _miscounted(
    what: str, feature: Any, observed: Mapping[str, int], counted: Mapping[str, int]
) -> list[str]:
    allowed = set(feature.string_domain.value) if feature is not None else set()
    found = [f"{what} {name!r} is not in the class list" for name in sorted(observed.keys() - allowed)]
    if dict(observed) != {name: n for name, n in counted.items() if n}:
        plural = {"label": "labels", "category": "boxes"}[what]
        found.append(f"the {plural} read back are not those that were counted at writing")
    return found
