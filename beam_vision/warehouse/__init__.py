"""BigQuery: names, clients, the tables' forms there, the ways in and out. For sinks, sources and search."""
