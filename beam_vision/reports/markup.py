"""HTML that is escaped by construction: text becomes markup only through :func:`tag`."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

VOID = frozenset({"br", "hr", "img", "meta", "link"})


class Markup(str):
    """HTML that is safe to put on a page as it is."""

    __slots__ = ()


def escape(value: Any) -> Markup:
    """``value`` as text on a page, quotes too; :class:`Markup` stays as it is, None is nothing.

    Lone surrogates (from file names that aren't UTF-8) are written as ``\\udcXX``, and control characters
    as the replacement character.
    """
    if isinstance(value, Markup):
        return value
    if value is None:
        return Markup("")
    text = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    text = "".join(c if c in "\n\t" or c.isprintable() or c.isspace() else "\ufffd" for c in text)
    return Markup(html.escape(text, quote=True))


def join(children: Iterable[Any]) -> Markup:
    """Children one after the other, each escaped; lists among them are taken apart."""
    return Markup("".join(join(child) if isinstance(child, list) else escape(child) for child in children))


def tag(name: str, /, *children: Any, **attributes: Any) -> Markup:
    """An element.

    Args:
      name: of the element.
      children: text (escaped), markup, None (left out), or lists of these.
      attributes: ``class_`` is ``class``; ``_`` inside a name is ``-``; None and False leave one out, True
        is an attribute without a value. Values are escaped.
    """
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        words.append(key if value is True else f'{key}="{escape(value)}"')
    start = f"<{' '.join(words)}>"
    if name in VOID:
        return Markup(start)
    return Markup(f"{start}{join(children)}</{name}>")


def amount(number: int, noun: str, several: str = "") -> str:
    """A number with its noun: ``1 image``, ``2,000 images``; ``several`` where the plural isn't ``nouns``."""
    return f"{number:,} {noun if number == 1 else several or noun + 's'}"
