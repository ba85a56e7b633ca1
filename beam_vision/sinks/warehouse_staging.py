"""Where rows wait for BigQuery: a folder for each table, on this machine or in a bucket."""

from __future__ import annotations

import os
import tempfile

from beam_vision import storage
from beam_vision.errors import UsageError
from beam_vision.warehouse.names import TableName


def staging_folder(name: TableName, staging: str = "") -> str:
    """The folder in which files for ``name`` are staged; it outlives a killed run, for ``--resume``.

    Args:
      name: the table.
      staging: the folder of all such folders; default: one of this user's in the system's folder for
        temporary files, made if need be.

    Raises:
      UsageError: the default folder belongs to somebody else.
    """
    return storage.join(storage.absolute(staging) if staging else _default(), name.path)


def _default() -> str:
    path = os.path.join(tempfile.gettempdir(), f"beam-vision-{os.getuid()}")
    os.makedirs(path, mode=0o700, exist_ok=True)
    if os.stat(path).st_uid != os.getuid() or os.path.islink(path):
        raise UsageError(
            f"{path}, where rows wait for BigQuery, is not yours; give another folder by --staging"
        )
    return path
