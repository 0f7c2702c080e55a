"""Tables that users bring, in whatever form: bytes to text, text to rows, cells to values, columns by name."""
