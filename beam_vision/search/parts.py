"""The files of a table in a folder, as Arrow."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
from typing import TYPE_CHECKING, Any

from beam_vision import storage
from beam_vision.types import Failure

if TYPE_CHECKING:
    import pyarrow as pa


def dataset(remote: list[str], stack: contextlib.ExitStack) -> Any:
    """Parquet files as one dataset with the columns of all; copies of remote ones live as the stack does."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    paths = [_local_copy(path, stack) for path in remote]
    schema = pa.unify_schemas([pq.read_schema(path) for path in paths], promote_options="default")
    return ds.dataset(paths, schema=schema.remove_metadata(), format="parquet")


def _local_copy(path: str, stack: contextlib.ExitStack) -> str:
    """``path``, or where a remote file was copied to until the stack closes."""
    if not storage.is_remote(path):
        return storage.local(path)
    copy = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "part.parquet")
    storage.write_bytes(copy, storage.read_bytes(path))
    return copy


def failures(folder: str) -> pa.Table:
    """The dead letter beside a table; no rows when there is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [field.name for field in dataclasses.fields(Failure)]
    types = {name: pa.int64() if name == "attempt" else pa.string() for name in names}
    inner = storage.join(folder, "failures")
    lines: list[dict[str, Any]] = []
    for name in storage.list_folder(inner):
        if name.endswith(".jsonl"):
            text = storage.read_text(storage.join(inner, name))
            lines += [json.loads(line) for line in text.splitlines() if line.strip()]
        elif name.endswith(".parquet"):  # of a streaming job
            with storage.open_read(storage.join(inner, name)) as file:
                lines += pq.ParquetFile(file).read(columns=names).to_pylist()
    columns = {name: pa.array([line.get(name) for line in lines], types[name]) for name in names}
    return pa.table(columns)
