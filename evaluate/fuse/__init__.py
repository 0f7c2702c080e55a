"""Combines saved matrices of scores and measures the result: `python -m evaluate.fuse MATRIX MATRIX ...`."""

from pathlib import Path

from evaluate.fuse.options import FuseOptions

__all__ = ["FuseOptions", "main"]


def main(options: FuseOptions) -> Path:
    """Fuse the matrices and return the folder of results. See evaluate.fuse.stage.fuse."""
    from evaluate.fuse.stage import fuse  # torch loads here, so that --help answers at once

    return fuse(options)
