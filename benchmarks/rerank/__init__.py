"""Benchmarks of the second stage of retrieval."""
