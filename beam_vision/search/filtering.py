"""``--where``: one SQL expression over an index's columns, to the rows for which it is true."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from beam_vision import deps
from beam_vision.errors import UsageError
from beam_vision.search.sql import closed_connection, explained
from beam_vision.search.where import parse_where

if TYPE_CHECKING:
    import pyarrow as pa

_NUMBER = "row_number_of_the_index"


def matching_rows(rows: pa.Table, where: str) -> np.ndarray:
    """Numbers of the rows for which ``where`` is true (not false, not NULL), sorted, int64.

    Args:
      rows: the columns that the expression may use.
      where: one GoogleSQL expression, e.g. ``label = 'cat' AND attributes['camera'] = 'a'``. DuckDB evaluates
        it in memory, with no access to files.

    Raises:
      UsageError: it is not one expression, or DuckDB can't evaluate it (as for an unknown column).
    """
    import pyarrow as pa

    duckdb = deps.need("duckdb")
    numbered = rows.append_column(_NUMBER, pa.array(np.arange(len(rows))))
    condition = parse_where(where, rows.column_names)
    statement = f"SELECT {_NUMBER} FROM rows WHERE ({condition.duckdb})"
    try:
        with closed_connection({"rows": numbered}) as connection:
            found = connection.execute(statement).fetchnumpy()
    except duckdb.Error as error:
        raise UsageError(
            f"--where {where!r} is not one true-or-false SQL expression over the columns: "
            f"{explained(error, rows.column_names)}"
        ) from error
    return np.sort(np.asarray(found[_NUMBER], np.int64))
