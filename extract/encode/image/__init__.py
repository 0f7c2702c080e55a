"""Look inside image towers: the patch tokens of a frame."""
