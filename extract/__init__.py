"""Stage one: videos and captions in, a feature cache out."""

from pathlib import Path

from extract.options import ExtractOptions

__all__ = ["ExtractOptions", "main"]


def main(options: ExtractOptions) -> Path:
    """Extract what the cache lacks and return the path of the cache. See extract.stage.extract."""
    from extract.stage import extract  # torch and open_clip load here, so that --help answers at once

    return extract(options).cache
