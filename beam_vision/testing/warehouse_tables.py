"""Small tables in an emulated BigQuery: the rows of a Parquet table, in BigQuery's form."""

from __future__ import annotations

import datetime
import io
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from google.cloud import bigquery

from beam_vision import table
from beam_vision.testing.bigquery_emulator import Warehouse
from beam_vision.warehouse import schema
from beam_vision.warehouse.arrow_form import to_warehouse
from beam_vision.warehouse.forms import described
from beam_vision.warehouse.loads import load_config, to_file
from beam_vision.warehouse.names import TableName

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

RUN_FORMAT = "%Y%m%dT%H%M%S%fZ"


def copy_table(
    folder: str, warehouse: Warehouse, name: str, *, facts: Mapping[str, Any] | None = None
) -> str:
    """Copies a table in a folder to BigQuery, with ``written_at`` from its run ids; the new one's URI.

    Args:
      folder: as the sinks, or :mod:`beam_vision.testing.tables`, write it.
      warehouse: where to.
      name: of the new table.
      facts: for its description.
    """
    parts = [pq.ParquetFile(path).read() for path in table.part_paths(folder)]
    rows = pa.concat_tables(parts).replace_schema_metadata(None)
    moments = [_moment(run) for run in rows.column("run_id").to_pylist()]
    time = pa.timestamp("us", tz="UTC")
    rows = rows.append_column(pa.field(schema.WRITTEN_AT, time), pa.array(moments, time))
    made = bigquery.Table(warehouse.name(name).path, schema=schema.fields(rows.schema))
    made.description = described("A copy.", facts or {})
    warehouse.client.create_table(made)
    load_rows(warehouse, warehouse.name(name), rows)
    return warehouse.uri(name)


def load_rows(warehouse: Warehouse, name: TableName, rows: pa.Table) -> None:
    """Adds rows, in our Arrow form, to a table that is there."""
    data, config = io.BytesIO(to_file(to_warehouse(rows))), load_config(schema.fields(rows.schema))
    warehouse.client.load_table_from_file(data, name.path, job_config=config).result()


def _moment(run_id: str) -> datetime.datetime | None:
    try:
        return datetime.datetime.strptime(run_id, RUN_FORMAT).replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
