"""What a search leaves behind: a table, a playlist, and clips of the moments."""
