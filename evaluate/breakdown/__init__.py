"""Figures by groups of queries: by the kind of a caption, its length in words, and the length of the video in seconds."""
