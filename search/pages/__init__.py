"""Results of a search as pages: a file, and a server on this machine."""
