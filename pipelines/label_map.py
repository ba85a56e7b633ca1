"""Files with the names of classes, with or without the classes' ids."""

from __future__ import annotations

import json
import re
from typing import Any

from google.protobuf import text_encoding

from beam_vision import storage
from beam_vision.errors import UsageError

_MOST_IDS = 100_000
_ITEM = re.compile(r"""item\s*:?\s*\{((?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^}"'])*)\}""")
_FIELD = re.compile(r"""\b(\w+)\s*:\s*(?:"((?:\\.|[^"\\])*)"|'((?:\\.|[^'\\])*)'|([^\s,;]+))""")


def read_class_names(path: str) -> tuple[str, ...]:
    """Names of classes 0, 1, ... in a file that :func:`read_label_map` takes.

    Raises:
      UsageError: as there; or its ids are others.
    """
    names, first_id = read_label_map(path)
    if first_id or "" in names:
        raise UsageError(
            f"--class_names {path}: it must hold a list of names, or an object from 0, 1, ... to names; ids "
            "that begin elsewhere or leave some out are for detectors"
        )
    return names


def read_label_map(path: str) -> tuple[tuple[str, ...], int | None]:
    """Names of classes, and the id of the first of them where the file says ids.

    Args:
      path: names one a line; or JSON: a list, or an object from the class's id to its name (or to a list that
        ends in it, as in Keras's ``imagenet_class_index.json``); or a label map of the TensorFlow Object
        Detection API (``.pbtxt``).

    Returns:
      The names in the order of their ids, ``""`` for an id that is left out, and the first one's id: 0, or 1
      where there is no 0; None where the file has no ids.

    Raises:
      UsageError: no such file, or it isn't one of these, or a name is empty.
    """
    if not storage.exists(path):
        raise UsageError(f"--class_names {path}: no such file")
    text = storage.read_text(path)
    if path.endswith(".pbtxt"):
        return _in_order(path, _ids_in_pbtxt(path, text))
    if not path.endswith(".json"):
        return _whole(path, text.rstrip("\n").split("\n")), None
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--class_names {path} is not JSON: {error}") from error
    if isinstance(value, dict) and value and all(key.isdecimal() for key in value):
        names = _last_words(path, list(value.values()))
        return _in_order(path, {int(key): name for key, name in zip(value, names, strict=True)})
    return _last_words(path, value), None


def _last_words(path: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, list):
        names = [item[-1] if isinstance(item, list) and item else item for item in value]
        if names and all(isinstance(name, str) for name in names):
            return _whole(path, names)
    raise UsageError(
        f"--class_names {path}: it must hold a list of names, or an object from class ids to names"
    )


def _whole(path: str, names: list[str]) -> tuple[str, ...]:
    stripped = tuple(name.strip() for name in names)
    if "" in stripped:
        raise UsageError(f"--class_names {path}: the name of class {stripped.index('')} is empty")
    return stripped


def _ids_in_pbtxt(path: str, text: str) -> dict[int, str]:
    """Ids and names of a ``StringIntLabelMap``; ``display_name`` goes before ``name``."""
    found: dict[int, str] = {}
    for item in _ITEM.findall(text):
        fields = {key: double or single or number for key, double, single, number in _FIELD.findall(item)}
        quoted = fields.get("display_name") or fields.get("name") or ""
        name = text_encoding.CUnescape(quoted).decode().strip()
        if not fields.get("id", "").isdecimal() or not name:
            raise UsageError(f"--class_names {path}: item {{{item.strip()}}} lacks an id or a name")
        found[int(fields["id"])] = name
    if not found:
        raise UsageError(f"--class_names {path} holds no item {{ id: 1 name: '...' }}")
    return found


def _in_order(path: str, names: dict[int, str]) -> tuple[tuple[str, ...], int | None]:
    """Names from the first id on, ``""`` where there is none."""
    last = max(names)
    if last > _MOST_IDS:
        raise UsageError(f"--class_names {path}: class id {last} is too large")
    first = 0 if 0 in names else 1
    ordered = tuple(names.get(i, "") for i in range(first, last + 1))
    return ordered, first
