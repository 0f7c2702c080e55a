"""Compares results in one table, with significance tests and plots: `python -m evaluate.compare DIR DIR ...`."""

from typing import Any

from evaluate.compare.options import CompareOptions

__all__ = ["CompareOptions", "main"]


def main(options: CompareOptions) -> dict[str, Any]:
    """Print the table, write it to --out, and return the contents of comparison.json. See evaluate.compare.comparison."""
    from evaluate.compare.comparison import print_comparison  # torch loads here, so that --help answers at once

    return print_comparison(options)
