"""ffmpeg as a program: how it is started and stopped, what it is told, and what its log says."""
