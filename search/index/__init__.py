"""An index of video vectors: candidates for search, and for the two stages of an evaluation."""
