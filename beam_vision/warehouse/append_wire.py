"""What goes over the wire of the Storage Write API: rows in pieces, requests, and a connection."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
    from google.cloud.bigquery_storage_v1.types import AppendRowsRequest, AppendRowsResponse

REQUEST_BYTES = 8_000_000
"""What one request's rows take at most; BigQuery takes 10 MB, with all that encodes them."""
_ANSWER_SEC = 60.0


class Piece(NamedTuple):
    """Rows that go in one request.

    Attributes:
      numbers: which of the caller's rows they are.
      batch: the rows.
      data: the same as Arrow IPC.
    """

    numbers: Sequence[int]
    batch: pa.RecordBatch
    data: bytes


def split(batch: pa.RecordBatch, numbers: Sequence[int], most_bytes: int = REQUEST_BYTES) -> Iterator[Piece]:
    """Rows in pieces of at most ``most_bytes``, in their order; one row alone may be larger."""
    half = batch.num_rows // 2
    data = b"" if half and batch.nbytes > most_bytes else batch.serialize().to_pybytes()
    if half and (not data or len(data) > most_bytes):
        yield from split(batch.slice(0, half), numbers[:half], most_bytes)
        yield from split(batch.slice(half), numbers[half:], most_bytes)
    elif batch.num_rows:
        yield Piece(numbers, batch, data)


def split_table(rows: pa.Table, most_bytes: int = REQUEST_BYTES) -> Iterator[Piece]:
    """The same of a table."""
    start = 0
    for batch in rows.combine_chunks().to_batches():
        yield from split(batch, range(start, start + batch.num_rows), most_bytes)
        start += batch.num_rows


def make_request(
    stream: str, schema: pa.Schema, piece: Piece, offset: int | None = None
) -> AppendRowsRequest:
    """A request that may be the first of a connection."""
    from google.cloud.bigquery_storage_v1 import types

    return types.AppendRowsRequest(
        write_stream=stream,
        offset=offset,
        trace_id="beam-vision",
        arrow_rows=types.AppendRowsRequest.ArrowData(
            writer_schema=types.ArrowSchema(serialized_schema=schema.serialize().to_pybytes()),
            rows=types.ArrowRecordBatch(serialized_record_batch=piece.data),
        ),
    )


def error_of(answer: AppendRowsResponse) -> Exception | None:
    """The error that an answer holds."""
    from google.api_core import exceptions

    if not answer.error.code:
        return None
    error: Exception = exceptions.from_grpc_status(answer.error.code, answer.error.message)
    return error


class Connection:
    """One call of AppendRows: requests go in, answers come out in the same order."""

    def __init__(self, client: BigQueryWriteClient, stream: str) -> None:
        self._requests: queue.SimpleQueue[AppendRowsRequest | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        from google.api_core.gapic_v1 import routing_header

        # BigQuery finds the table's region by this header, which is ASCII; a table's name need not be
        header = routing_header.to_grpc_metadata((("write_stream", stream),))
        # below the client's own method, which would wait here for the first answer
        self._call = client.transport.append_rows(iter(self._requests.get, None), metadata=(header,))
        self._listener = threading.Thread(target=self._listen, name="append", daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        import grpc
        from google.api_core import exceptions

        end: Exception = exceptions.ServiceUnavailable("BigQuery ended the connection")
        try:
            for answer in self._call:
                self._answers.put(answer)
        except grpc.RpcError as error:
            end = exceptions.from_grpc_error(error)
        self._answers.put(end)

    def send(self, request: AppendRowsRequest) -> None:
        """Puts a request on its way."""
        self._requests.put(request)

    def answer(self) -> AppendRowsResponse:
        """The next answer.

        Raises:
          GoogleAPICallError: the connection has ended, or nothing came for a minute.
        """
        from google.api_core import exceptions

        try:
            found = self._answers.get(timeout=_ANSWER_SEC)
        except queue.Empty:
            raise exceptions.DeadlineExceeded(f"no answer within {_ANSWER_SEC:g} s") from None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Ends it."""
        self._requests.put(None)
        self._call.cancel()
        self._listener.join(timeout=5)
