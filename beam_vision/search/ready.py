"""Ready queries: GoogleSQL whose head says what it is for, and which parameters of which types it takes.

The head is its first lines, each a comment::

    -- What it answers, in one line.
    -- join NAME: a further table that it reads
    -- @name TYPE: a parameter that has to be given
    -- @name TYPE = DEFAULT: one that may be
    -- @name INT64 = k + 1: one that is computed of others; of a list, its length

Other comments in the head are for its readers.
"""

from __future__ import annotations

import base64
import datetime
import difflib
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from beam_vision.errors import UsageError

_HEAD = re.compile(r"--\s*(.*)")
_PARAMETER = re.compile(r"@([a-z_]+) ([A-Z0-9<>]+)(?: = (\"[^\"]*\"|[^:]+))?: (.+)")
_JOIN = re.compile(r"join ([a-z_]+): (.+)")
_SUM = re.compile(r"[a-z_]+(?: \+ (?:[a-z_]+|\d+))+")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Parameter:
    """A parameter of a ready query.

    Attributes:
      name, kind: ``kind`` is a type of GoogleSQL's, one of :data:`KINDS`.
      default: as text; None: it has to be given.
      computed: the sum that it is, of other parameters and numbers; no user gives it.
      about: what it is.
    """

    name: str
    kind: str
    default: str | None
    computed: tuple[str, ...]
    about: str


@dataclass(frozen=True)
class ReadyQuery:
    """A query of the templates.

    Attributes:
      joins: further tables that it reads, by name: what each is.
      sql: without the head.
    """

    name: str
    about: str
    parameters: tuple[Parameter, ...]
    joins: dict[str, str]
    sql: str

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A value for each parameter.

        Args:
          given: by name: text, which is read as the parameter's type, or a value of that type.

        Raises:
          UsageError: one is missing, unknown, or of another type; a whole number is less than 1.
        """
        known = {each.name: each for each in self.parameters if not each.computed}
        for name in given:
            if name not in known:
                raise UsageError(f"--query {self.name} has no parameter @{name}; it has {_listed(known)}")
        found: dict[str, Any] = {}
        for name, parameter in known.items():
            value = given.get(name, parameter.default)
            if value is None:
                raise UsageError(
                    f"--query {self.name} needs @{name}: {parameter.about} (--param {name}=VALUE)"
                )
            found[name] = value_of(parameter.kind, value, name) if isinstance(value, str) else value
            if parameter.kind == "INT64" and found[name] < 1:
                raise UsageError(f"@{name} is {found[name]}, and at least 1 is needed: {parameter.about}")
        for parameter in self.parameters:
            if parameter.computed:
                found[parameter.name] = sum(_count(part, found) for part in parameter.computed)
        return found


def ready_queries() -> list[str]:
    """The names of all."""
    names = (path.name for path in _folder().iterdir())
    return sorted(name.removesuffix(".sql") for name in names if name.endswith(".sql"))


def ready_query(name: str) -> ReadyQuery:
    """The ready query of a name.

    Raises:
      UsageError: there is none.
    """
    names = ready_queries()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise UsageError(f"--query {name}: no such query; {hint} (--list_queries shows them)")
    return parse_ready(name, (_folder() / f"{name}.sql").read_text(encoding="utf-8"))


def parse_ready(name: str, text: str) -> ReadyQuery:
    """Reads a ready query's text."""
    about, parameters, joins = "", [], {}
    lines = text.splitlines()
    heads = list(itertools.takewhile(bool, map(_HEAD.fullmatch, lines)))
    for head in heads:
        assert head is not None
        about = about or head[1]
        if match := _PARAMETER.fullmatch(head[1]):
            default = match[3].strip('"') if match[3] is not None else None
            computed = tuple(default.split(" + ")) if default and _SUM.fullmatch(default) else ()
            parameters.append(
                Parameter(match[1], match[2], None if computed else default, computed, match[4])
            )
        elif match := _JOIN.fullmatch(head[1]):
            joins[match[1]] = match[2]
    return ReadyQuery(name, about, tuple(parameters), joins, "\n".join(lines[len(heads) :]))


def parameter_of(text: str) -> tuple[str, str, str]:
    """Name, type (``""`` when none is given) and value of ``NAME=VALUE`` or ``NAME:TYPE=VALUE``.

    Raises:
      UsageError: it is neither.
    """
    head, equals, value = text.partition("=")
    name, _, kind = head.partition(":")
    if not equals or not _NAME.fullmatch(name) or (kind and kind.upper() not in KINDS):
        raise UsageError(
            f"--param {text}: write NAME=VALUE, or NAME:TYPE=VALUE with one of {', '.join(KINDS)}"
        )
    return name, kind.upper(), value


def value_of(kind: str, text: str, name: str) -> Any:
    """A value of one of GoogleSQL's types, from its text.

    Raises:
      UsageError: the text says no such value.
    """
    read = KINDS.get(kind)
    if read is None:
        raise UsageError(
            f"@{name}: {kind} is not a type that a parameter can have; one of {', '.join(KINDS)}"
        )
    try:
        return read(text)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"@{name} is {text[:200]!r}, which is no {kind}: {error}") from error


def _count(part: str, values: Mapping[str, Any]) -> int:
    if part.isdecimal():
        return int(part)
    value = values[part]
    return len(value) if isinstance(value, list) else int(value)


def _bool(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("write true or false")
    return text.lower() == "true"


def _int(text: str) -> int:
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise ValueError("INT64 can't hold it")
    return number


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it must be finite")
    return number


def _timestamp(text: str) -> datetime.datetime:
    """ISO 8601; UTC when it names no zone."""
    time = datetime.datetime.fromisoformat(text.replace("Z", "+00:00").replace("z", "+00:00"))
    return time if time.tzinfo else time.replace(tzinfo=datetime.timezone.utc)


def _texts(text: str) -> list[str]:
    """A JSON list where it begins as one, else parts with commas between them."""
    if not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",")]
    items = json.loads(text)
    if not items or not all(isinstance(item, str) for item in items):
        raise ValueError("write a JSON list of texts, not empty")
    return items


def _numbers(text: str) -> list[float]:
    items = json.loads(text if text.lstrip().startswith("[") else f"[{text}]")
    if not items or not all(isinstance(item, int | float) and math.isfinite(item) for item in items):
        raise ValueError("write finite numbers, with commas between them")
    return [float(item) for item in items]


KINDS: dict[str, Callable[[str], Any]] = {
    "STRING": str,
    "INT64": _int,
    "FLOAT64": _float,
    "BOOL": _bool,
    "DATE": datetime.date.fromisoformat,
    "TIMESTAMP": _timestamp,
    "BYTES": lambda text: base64.b64decode(text, validate=True),
    "ARRAY<STRING>": _texts,
    "ARRAY<FLOAT64>": _numbers,
}
"""The types that a parameter can have, and how each is read from text; BYTES are base64."""


def _listed(names: Mapping[str, Any]) -> str:
    return ", ".join(f"@{name}" for name in names) or "none"


def _folder() -> Any:
    return resources.files("beam_vision.templates") / "sql"
