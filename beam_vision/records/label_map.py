"""``label_map.pbtxt``: the id of each category of boxes, as the TF Object Detection API reads it.

It is a ``StringIntLabelMap`` (``object_detection/protos/string_int_label_map.proto``) as protobuf text; ids
begin at 1, since 0 is that API's background.
"""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import text_encoding


def box_ids(box_classes: Sequence[str]) -> dict[str, int]:
    """The id of each category: its place in the class list, from 1."""
    return {name: number for number, name in enumerate(box_classes, start=1)}


def to_text(box_classes: Sequence[str]) -> str:
    """The label map as protobuf text."""
    return "".join(
        f"item {{\n  id: {number}\n  name: '{text_encoding.CEscape(name, as_utf8=True)}'\n}}\n"
        for name, number in box_ids(box_classes).items()
    )
