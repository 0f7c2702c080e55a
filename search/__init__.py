"""Search a gallery of videos with text queries; every hit comes with its best moment."""

from typing import TYPE_CHECKING

from search.options import SearchOptions

if TYPE_CHECKING:
    from search.answer import Answer

__all__ = ["SearchOptions", "main"]


def main(options: SearchOptions) -> list["Answer"]:
    """Answer the queries on standard output and return the answers. See search.shell.answer."""
    from search.shell import answer  # torch loads here, so that --help answers at once

    return answer(options)
