"""Fields of a configuration that know which values they take, and the check of a value by that."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


class BadValueError(Exception):
    """A value that a field doesn't take; the message goes on from the field's name."""


def setting(
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field with a default whose values are bounded.

    Args:
      default: its default.
      choices: the texts it takes; numbers, true and false are not checked by it.
      least, most: the closed bounds of its numbers.
      above, below: the open bounds of its numbers.
    """
    limits = {"least": least, "most": most, "above": above, "below": below, "choices": choices}
    return dataclasses.field(
        default=default, metadata={k: v for k, v in limits.items() if v not in (None, ())}
    )


def take(value: Any, kind: Any, limits: Mapping[str, Any]) -> Any:
    """``value`` as a field of type ``kind`` takes it.

    Args:
      value: as YAML gives it.
      kind: the field's annotation: ``str``, ``int``, ``float``, ``bool``, ``None``, mappings and tuples of
        them, and unions. The first member of a union that takes the value does.
      limits: as :func:`setting` keeps them.

    Raises:
      BadValueError: of another type, no choice, or out of bounds.
    """
    taken = _typed(value, kind)
    for one in taken if isinstance(taken, tuple) else (taken,):
        _check(one, limits)
    return taken


def nearest(name: str, known: typing.Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or all that is known where nothing is near."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"there is {', '.join(known)}"


def _typed(value: Any, kind: Any) -> Any:
    members = _members(kind)
    # a type that fits as it is comes before one that the value must be turned into
    for member in sorted(members, key=lambda member: not _is_a(value, member)):
        taken = _as(value, member)
        if taken is not _NO:
            return taken
    raise BadValueError(f"must be {' or '.join(map(_word, members))}, not {value!r}")


_NO = object()


def _members(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)


def _is_a(value: Any, kind: Any) -> bool:
    return type(value) is (typing.get_origin(kind) or kind)


def _as(value: Any, kind: Any) -> Any:
    """``value`` as ``kind``, or ``_NO``."""
    origin = typing.get_origin(kind)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        return tuple(_typed(each, inner) for each in value) if isinstance(value, list | tuple) else _NO
    if origin is not None:
        inner = typing.get_args(kind)[1]
        if not isinstance(value, Mapping):
            return _NO
        return {str(name): each if inner is Any else _typed(each, inner) for name, each in value.items()}
    if type(value) is kind:
        return value
    if kind is float:
        return _number(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    return _NO


def _number(value: Any) -> Any:
    """YAML 1.1 takes ``1e-3`` for text, since it has no point."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return _NO
    try:
        return float(value)
    except ValueError:
        return _NO


def _word(kind: Any) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    return "a list" if typing.get_origin(kind) is tuple else "names with values"


def _check(value: Any, limits: Mapping[str, Any]) -> None:
    choices = limits.get("choices", ())
    if isinstance(value, str) and choices and value not in choices:
        raise BadValueError(f"is {value!r}; it must be one of {', '.join(choices)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise BadValueError(f"must be a finite number, not {value}")
    rules = (
        ("least", value >= limits.get("least", value), "at least"),
        ("most", value <= limits.get("most", value), "at most"),
        ("above", "above" not in limits or value > limits["above"], "more than"),
        ("below", "below" not in limits or value < limits["below"], "less than"),
    )
    for name, holds, words in rules:
        if not holds:
            raise BadValueError(f"must be {words} {limits[name]}, not {value}")
