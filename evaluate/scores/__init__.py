"""Scores and rankings as files for other tools: matrices in NumPy's format, and runs in TREC's."""
