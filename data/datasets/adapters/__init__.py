"""Adapters, one file per data set: its annotation files and its protocols."""
