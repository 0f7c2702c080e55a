"""Computes scores: compiled loops on a CPU, plain tensor operations elsewhere, and blocks of constant shape for both."""
