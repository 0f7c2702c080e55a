"""Scores all text-video pairs of a split."""
