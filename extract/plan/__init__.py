"""Plan an extraction: list its source, find what the cache lacks, and estimate the cost."""
