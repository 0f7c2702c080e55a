"""Shared foundations: errors, standard streams, atomic writes, progress, provenance, the version."""
