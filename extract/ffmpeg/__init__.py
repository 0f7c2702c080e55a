"""ffmpeg as a subprocess: starting and stopping it, its filter graph, and its log."""
