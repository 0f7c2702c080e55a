"""Caches in an object store: published with checksums, and read in verified blocks through a bounded cache on the local disk."""
