"""Whole videos inside the vision tower: tokens shifted between frames, and tokens clustered over frames."""
