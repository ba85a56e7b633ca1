"""Parquet as load jobs of BigQuery take it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from beam_vision.table import to_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    from google.cloud.bigquery import LoadJobConfig, SchemaField


def to_file(rows: pa.Table) -> bytes:
    """A Parquet file to load, of rows in BigQuery's form.

    No column of it is required, as none of a staging table is: BigQuery refuses a file whose columns have
    another mode.
    """
    import pyarrow as pa

    optional = pa.schema([field.with_nullable(True) for field in rows.schema])
    return to_parquet(pa.Table.from_arrays(rows.columns, schema=optional))


def load_config(fields: Sequence[SchemaField]) -> LoadJobConfig:
    """Of a job that adds Parquet files to a table with these columns."""
    from google.cloud import bigquery

    parquet = bigquery.ParquetOptions()
    parquet.enable_list_inference = True  # list<element> -> REPEATED, not a RECORD of a list
    return bigquery.LoadJobConfig(
        schema=list(fields),
        source_format=bigquery.SourceFormat.PARQUET,
        parquet_options=parquet,
        write_disposition=bigquery.WriteDisposition.WRITE_APPEND,
        create_disposition=bigquery.CreateDisposition.CREATE_NEVER,
    )
