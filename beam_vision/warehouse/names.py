"""Names in BigQuery: what a user may write, and how a checked name stands in SQL.

Whatever stands in a statement as an identifier went through here; values are query parameters, never text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from beam_vision.errors import UsageError

SCHEME = "bigquery://"
FORM = "bigquery://PROJECT.DATASET.TABLE"

_PROJECT = re.compile(r"(?:[a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_DATASET = re.compile(r"[A-Za-z0-9_]{1,1024}")
_TABLE = re.compile(r"[\w-]{1,1000}")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,299}")


class TableName(NamedTuple):
    """The name of a table or a view; made by :func:`parse_table`, which checks it."""

    project: str
    dataset: str
    table: str

    @property
    def path(self) -> str:
        """As BigQuery's clients take it: ``project.dataset.table``."""
        return f"{self.project}.{self.dataset}.{self.table}"

    @property
    def uri(self) -> str:
        """As our options take it: ``bigquery://project.dataset.table``."""
        return SCHEME + self.path

    @property
    def sql(self) -> str:
        """As an identifier in GoogleSQL, in backticks."""
        return f"`{self.path}`"

    @property
    def resource(self) -> str:
        """As the Storage APIs take it: ``projects/P/datasets/D/tables/T``."""
        return f"projects/{self.project}/datasets/{self.dataset}/tables/{self.table}"

    def sibling(self, suffix: str) -> TableName:
        """The table beside this one whose name is ours with ``_suffix``, such as ``lake_failures``."""
        return self._replace(table=f"{self.table}_{suffix}")


def is_bigquery(text: str) -> bool:
    """Whether ``text`` is meant as a table of BigQuery's."""
    return text.startswith(SCHEME)


def parse_table(text: str, *, option: str = "") -> TableName:
    """The name in ``bigquery://project.dataset.table``; the scheme may be left out.

    Args:
      text: what the user wrote.
      option: the option that it stood in, for the message.

    Raises:
      UsageError: it is no such name.
    """
    where = f"{option} {text}".strip()
    project, _, rest = text.removeprefix(SCHEME).rpartition(".")
    project, _, dataset = project.rpartition(".")
    for value, pattern, what in (
        (project, _PROJECT, "a project's id: 6 to 30 small letters, digits and dashes, a letter first"),
        (dataset, _DATASET, "a dataset's name: letters, digits and _"),
        (rest, _TABLE, "a table's name: letters, digits, _ and -, no wildcard and no partition"),
    ):
        if not pattern.fullmatch(value):
            raise UsageError(f"{where} is not a table of BigQuery: {value!r} is not {what}; write {FORM}")
    return TableName(project, dataset, rest)


def quoted(column: str) -> str:
    """A column's name in backticks.

    Raises:
      UsageError: it is not a name that BigQuery takes for a column.
    """
    if not _COLUMN.fullmatch(column):
        raise UsageError(f"{column!r} can't be a column of BigQuery: letters, digits and _, no digit first")
    return f"`{column}`"
