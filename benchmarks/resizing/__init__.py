"""How much of a decoding worker's time resizing takes: `python -m benchmarks.resizing`."""
