"""One file for each data set: its annotation files and its protocols."""
