"""What a user may ask for: words, a picture, another moment; which videos may be found; and how many results are shown."""
