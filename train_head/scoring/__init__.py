"""All text-video pairs of a split."""
