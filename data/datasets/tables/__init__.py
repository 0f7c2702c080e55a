"""Read users' tables in any format: bytes to text, text to rows, cells to values, columns by name."""
