"""Measures patch tokens: the rate of extraction, their size on disk, and which K of a frame to keep."""
