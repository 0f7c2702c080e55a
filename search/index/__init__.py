"""A vector index of videos. It supplies the candidates for search and for two-stage evaluation."""
