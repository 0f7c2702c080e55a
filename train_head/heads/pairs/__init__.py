"""Heads that do their work for every pair, with a Transformer over a text and a video together."""
