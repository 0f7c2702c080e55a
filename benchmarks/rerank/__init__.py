"""Benchmarks of retrieval in two stages."""
