"""Search: videos, and the moment in each, for a query in words."""

from typing import TYPE_CHECKING

from search.options import SearchOptions

if TYPE_CHECKING:
    from search.searcher import Answer

__all__ = ["SearchOptions", "main"]


def main(options: SearchOptions) -> list["Answer"]:
    """Print what was found and return it. See search.shell.answer."""
    from search.shell import answer  # torch loads here, so that --help answers at once

    return answer(options)
