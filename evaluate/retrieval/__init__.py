"""What search and the served page share: a gallery in memory, queries in words, and where in a video the answer is."""
