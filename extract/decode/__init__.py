"""Decode video files to pictures: sampling rules, and the two decoders."""
