"""Decoders side by side: the two of this project, and those of other libraries, on the same frames of the same clips."""
