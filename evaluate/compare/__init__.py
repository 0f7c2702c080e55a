"""Several results in one table, with tests of their differences and plots: `python -m evaluate.compare DIR DIR ...`."""

from typing import Any

from evaluate.compare.options import CompareOptions

__all__ = ["CompareOptions", "main"]


def main(options: CompareOptions) -> dict[str, Any]:
    """Print the table and write it where OUT is named; returns what comparison.json holds. See evaluate.compare.comparison."""
    from evaluate.compare.comparison import print_comparison  # torch loads here, so that --help answers at once

    return print_comparison(options)
