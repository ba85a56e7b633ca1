"""Rows into a table through the Storage Write API, as Arrow.

What :meth:`Appender.append` returned from is stored. It goes to the table's default stream: at least once, so
a row may stand there twice after an answer was lost; :mod:`beam_vision.warehouse.once` has the views that
show each once.

Limits: https://cloud.google.com/bigquery/quotas#write-api-limits
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from beam_vision.errors import JobError
from beam_vision.warehouse import clients
from beam_vision.warehouse.append_wire import (
    REQUEST_BYTES,
    Connection,
    Piece,
    error_of,
    make_request,
    split,
    split_table,
)
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.bigquery_storage_v1.types import AppendRowsRequest, AppendRowsResponse

IN_FLIGHT = 8
ATTEMPTS = 8
"""About a minute."""
_INVALID_ARGUMENT = 3


def may_pass(error: BaseException) -> bool:
    """Whether an append may succeed when it is tried again.

    Apart from :func:`clients.is_transient`: a table that was just made may not be found yet, and a
    connection may be cancelled by the server.
    """
    from google.api_core import exceptions

    return isinstance(error, exceptions.NotFound | exceptions.Cancelled) or clients.is_transient(error)


@dataclass
class Work:
    """What an append still has to do.

    Attributes:
      waiting: to be sent.
      again: were sent, and failed by ``error``, which may pass.
      refused: row number -> BigQuery's reason, for good.
    """

    waiting: deque[Piece]
    again: list[Piece] = field(default_factory=list)
    error: Exception | None = None
    refused: dict[int, str] = field(default_factory=dict)


class Appender:
    """Appends to one table's default stream; for one thread at a time. Connects when it is first used.

    Args:
      name: the table; it has to be there.
      schema: the Arrow columns of rows, in the table's form.
      request_bytes: what a request holds at most.
      client: shared with others; else it opens, and closes, its own.
    """

    def __init__(
        self,
        name: TableName,
        schema: pa.Schema,
        *,
        request_bytes: int = REQUEST_BYTES,
        client: BigQueryWriteClient | None = None,
    ) -> None:
        self._name = name
        self._schema = schema
        self._most_bytes = request_bytes
        self._client = client
        self._owned: BigQueryWriteClient | None = None
        self._connection: Connection | None = None

    def __enter__(self) -> Appender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, rows: pa.Table) -> dict[int, str]:
        """Appends rows; they are stored when it returns.

        Returns:
          The rows that are not, for BigQuery refuses them for good: their numbers, and its reasons.

        Raises:
          UsageError: BigQuery refuses the table or its columns: says why.
          JobError: it can't be reached, or has been failing for about a minute.
        """
        pieces = list(split_table(rows.select(self._schema.names), self._most_bytes))
        work = Work(deque(piece for piece in pieces if len(piece.data) <= self._most_bytes))
        for piece in pieces:
            size = len(piece.data)
            if size > self._most_bytes:
                work.refused[piece.numbers[0]] = (
                    f"the row takes {size:,} bytes, of {self._most_bytes:,} at most"
                )
        try:
            clients.retried(lambda: self._send_all(work), attempts=ATTEMPTS, passes=may_pass)
        except clients.errors() as error:
            if clients.is_transient(error):
                raise JobError(f"can't write to {self._name.path}: {error}") from error
            raise clients.explain(error, self._name) from error
        return work.refused

    def _send_all(self, work: Work) -> None:
        """Sends what waits, several requests at a time; raises what may pass once all others are answered."""
        sent: deque[Piece] = deque()
        try:
            while work.waiting or sent:
                while work.waiting and len(sent) < IN_FLIGHT:
                    self._connected().send(self._request(work.waiting[0]))
                    sent.append(work.waiting.popleft())
                answer = self._connected().answer()
                take(answer, sent.popleft(), work, self._most_bytes)
        except clients.errors():
            work.waiting.extendleft(reversed(sent))
            self._disconnect()
            raise
        finally:
            work.waiting.extend(work.again)
            work.again = []
        if work.error is not None:
            error, work.error = work.error, None
            raise error

    def _request(self, piece: Piece) -> AppendRowsRequest:
        return make_request(f"{self._name.resource}/streams/_default", self._schema, piece)

    def _connected(self) -> Connection:
        if self._connection is None:
            if self._client is None:
                self._client = self._owned = clients.writer()
            self._connection = Connection(self._client, f"{self._name.resource}/streams/_default")
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def close(self) -> None:
        """Ends the connection. May be called twice."""
        self._disconnect()
        if self._owned is not None:
            self._owned.transport.close()
            self._client = self._owned = None


def take(answer: AppendRowsResponse, piece: Piece, work: Work, most_bytes: int) -> None:
    """What an answer means for its piece: done, again, again in part, or refused.

    A request with rows that BigQuery refuses stores none of its rows. It names the rows; where it only says
    that an argument is invalid, the halves are tried, down to the rows that are.
    """
    error = error_of(answer)
    if error is None:
        return
    bad = {row.index: row.message for row in answer.row_errors}
    count = piece.batch.num_rows
    if not bad and may_pass(error):
        work.again.append(piece)
        work.error = error
        return
    if not bad and not _is_of_rows(answer):
        raise error
    if not bad and count == 1:
        bad = {0: answer.error.message}
    work.refused |= {piece.numbers[index]: reason for index, reason in bad.items()}
    if bad:
        parts = [[index for index in range(count) if index not in bad]]
    else:
        parts = [list(range(count // 2)), list(range(count // 2, count))]
    for part in filter(None, parts):
        numbers = [piece.numbers[index] for index in part]
        work.waiting.extend(split(piece.batch.take(part), numbers, most_bytes))


def _is_of_rows(answer: AppendRowsResponse) -> bool:
    """Whether an error may be that of single rows: not where BigQuery says that table, stream or columns are
    wrong."""
    from google.cloud.bigquery_storage_v1 import types

    for detail in answer.error.details:
        found = types.StorageError.pb(types.StorageError())
        if detail.Unpack(found) and found.code:
            return False
    return bool(answer.error.code == _INVALID_ARGUMENT)
