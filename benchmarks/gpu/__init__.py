"""Confirms or refutes, on a machine with a GPU, what was built without one: `python -m benchmarks.gpu`."""
