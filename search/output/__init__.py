"""Writes what a search found."""
