"""What the user can put right, and processes that are lost, told apart from our own mistakes."""

import textwrap
from collections.abc import Sequence

SHOWN = 10
"""Lines of a list that a terminal gets."""
LONGEST_REASON = 300
"""Characters of what somebody else's code says."""


class UserError(ValueError):
    """One line that names what is wrong and the remedy; a stage prints it without a traceback and ends with status 2.

    `listed`: what the line speaks of, such as all missing videos. The first of them are printed before it, an item a line; `whole` says
    where all of them are.
    """

    def __init__(self, message: str, listed: Sequence[str] = (), whole: str = "") -> None:
        super().__init__(message)
        self.listed, self.whole = tuple(listed), whole


def first_of(lines: Sequence[str], whole: str = "") -> list[str]:
    """The first SHOWN of these lines, and one that counts the others and says where all of them are."""
    left = len(lines) - SHOWN
    return [*lines[:SHOWN], *([f"and {left:,} more{': ' * bool(whole)}{whole}"] if left > 0 else [])]


def one_line(error: BaseException) -> str:
    """What an error of somebody else's code says, in one line that ends with a word; the name of the error where it says nothing."""
    said = " ".join(str(error).split())
    # A single word that is too long would be left out whole.
    return textwrap.shorten(said, LONGEST_REASON, placeholder=" ...") if " " in said else said[:LONGEST_REASON] or type(error).__name__


class LostProcess(Exception):
    """A process of ours ended before its work did; the line names it, and a stage prints it without a traceback and ends with status 1."""


def require_seed(seed: int) -> None:
    """Raises UserError where `--seed` is no number that random generators take."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed} must be a whole number from 0 to {2**63 - 1}")
