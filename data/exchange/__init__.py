"""Features in other programs' files: read them into a cache, and write a cache to them."""
