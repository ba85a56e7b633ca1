"""Messages of cameras to frames, and what is kept of each camera: parse, gate, health, counts, batches."""
