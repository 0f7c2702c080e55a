"""Writes what a search found: JSON, a table, a playlist, and clips of the moments."""
