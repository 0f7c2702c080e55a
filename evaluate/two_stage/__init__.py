"""Two-stage retrieval: an index finds candidates, and the head scores them exactly."""
