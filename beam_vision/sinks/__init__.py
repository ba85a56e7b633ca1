"""Where results go: the Parquet table and the dead letter. Both are staged aside and published at the end."""
