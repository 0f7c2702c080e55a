"""Two-stage retrieval: an index or another run finds candidates, and the head scores them exactly."""
