"""The demo: a world of moving shapes, its videos and captions, and a tiny CLIP trained on its stills."""
