"""BigQuery: names, clients, the tables' forms there, and the ways in and out. Used by sinks, sources, search."""
