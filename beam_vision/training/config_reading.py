"""YAML -> plain values that know their lines -> dataclasses, and back."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.training.config_fields import BadValueError, nearest, take

Kind = TypeVar("Kind")
Path = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """Where values came from.

    Attributes:
      places: by path (section, field): the place in words, e.g. ``job.yaml line 3``.
    """

    places: Mapping[Path, str] = field(default_factory=dict)

    def place(self, path: Path) -> str:
        """``"job.yaml line 3: "`` of a path, of one in it, or of the nearest that holds it; else ``""``."""
        if path not in self.places:
            path = next((known for known in self.places if known[: len(path)] == path), path)
        while path and path not in self.places:
            path = path[:-1]
        return f"{self.places[path]}: " if path in self.places else ""


def read_yaml(path: str) -> tuple[dict[str, Any], Source]:
    """A YAML file's mapping, and the lines of its keys.

    Raises:
      UsageError: there is no such file, it isn't YAML in UTF-8, it holds no mapping, or a key twice.
    """
    import yaml

    if not storage.exists(path):
        raise UsageError(f"--config {path}: there is no such file")
    try:
        text = storage.read_text(path)
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError(f"--config {path} is no text file (a job's YAML, in UTF-8): {error}") from error
    name = path.rpartition("/")[2]
    try:
        root = yaml.compose(text, yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is no YAML: {error}") from error
    if values is None:
        return {}, Source()
    if not isinstance(values, dict):
        raise UsageError(f"{path} must hold sections (data:, model:, ...), not {type(values).__name__}")
    places: dict[Path, str] = {}
    _find_places(root, (), name, places)
    return values, Source(places)


def _find_places(node: Any, path: Path, name: str, places: dict[Path, str]) -> None:
    """Notes where the keys of a mapping and of the mappings in it stand."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        inner = (*path, str(key.value))
        place = f"{name} line {key.start_mark.line + 1}"
        if inner in places:
            raise UsageError(f"{place}: {'.'.join(inner)} is there twice, first at {places[inner]}")
        places[inner] = place
        _find_places(value, inner, name, places)


def parse_overrides(overrides: Mapping[str, str]) -> dict[str, Any]:
    """The values of texts that are written as in YAML, by dotted name; of an empty one the empty text.

    Raises:
      UsageError: a text that isn't YAML.
    """
    import yaml

    values = {}
    for dotted, text in overrides.items():
        try:
            values[dotted] = yaml.safe_load(text) if text.strip() else ""
        except yaml.YAMLError as error:
            raise UsageError(f"--set {dotted}={text} is no YAML: {error}") from error
    return values


def put(
    values: Mapping[str, Any], source: Source, given: Mapping[str, Any], places: Mapping[str, str]
) -> tuple[dict[str, Any], Source]:
    """The values with single ones set over them.

    Args:
      values: sections by name; they stay as they are.
      source: where they came from.
      given: by dotted name (``data.image_size``).
      places: where each of these came from, e.g. ``--image_size``.

    Raises:
      UsageError: a name goes on below something that holds no names.
    """
    made = {name: dict(value) if isinstance(value, dict) else value for name, value in values.items()}
    found = dict(source.places)
    for dotted, value in given.items():
        *sections, last = path = dotted.split(".")
        inner: Any = made
        for name in sections:
            below = inner.get(name)
            if not isinstance(below, dict | None):
                raise UsageError(f"{places[dotted]}: {name} holds no names, but {below!r}")
            inner[name] = dict(below or {})
            inner = inner[name]
        inner[last] = value
        found[tuple(path)] = places[dotted]
    return made, Source(found)


def build(kind: type[Kind], values: Any, source: Source, path: Path = ()) -> Kind:
    """A dataclass, with those in it, from plain values.

    Raises:
      UsageError: see :func:`beam_vision.training.config.from_dict`.
    """
    where = ".".join(path) or "the job"
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise UsageError(f"{source.place(path)}{where} must hold names with values, not {values!r}")
    types_ = typing.get_type_hints(kind)
    known = {each.name: each for each in dataclasses.fields(typing.cast(Any, kind))}
    made: dict[str, Any] = {}
    for name, value in values.items():
        inner = (*path, str(name))
        if name not in known:
            raise UsageError(f"{source.place(inner)}{where} has no {name!r}; {nearest(str(name), known)}")
        if dataclasses.is_dataclass(types_[name]):
            made[name] = build(typing.cast(type, types_[name]), value, source, inner)
            continue
        try:
            made[name] = take(value, types_[name], known[name].metadata)
        except BadValueError as error:
            raise UsageError(f"{source.place(inner)}{'.'.join(inner)} {error}") from error
    return kind(**made)


def plain(value: Any) -> Any:
    """Dataclasses, mappings and tuples as dicts and lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value
