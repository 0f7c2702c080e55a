"""Keeps the cache of a running server up to date with the folders of its videos."""
