"""Look inside image towers: patch tokens, and tokens that are shifted or clustered between frames."""
