"""Two-stage retrieval: candidates from an index, scored exactly by the head."""
