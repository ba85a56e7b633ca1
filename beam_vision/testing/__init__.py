"""Seeded images, small models and run-to-a-list: imported by tests and benchmarks and nothing else."""
