"""Simulated scenes: cut-outs pasted on backgrounds, with the exact boxes of what is seen of each."""
