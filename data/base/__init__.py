"""What every room stands on: errors, streams, files written whole, progress, provenance, the version."""
