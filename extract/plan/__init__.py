"""What an extraction has to do: what its source lists, what the cache lacks, and what the rest would cost."""
