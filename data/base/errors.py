"""What the user can put right, and processes that are lost, told apart from our own mistakes."""

import errno
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

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


def cannot_read(path: Path, error: OSError) -> UserError:
    """The line for a file that the system does not let be read."""
    reason = os.strerror(error.errno) if error.errno else error
    return UserError(f"{path} cannot be read ({reason}): see to its permissions and the disk, and run again")


def not_as_written(path: Path, error: Exception, line: str) -> UserError:
    """The line for a file of ours that is missing or damaged, unless the error says that it may well be whole: nobody should then be told
    to delete it or to make it again."""
    # Libraries raise OSError without a number for what they find in a file.
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL):
        return cannot_read(path, error)
    return UserError(line)


def check_seed(seed: int) -> None:
    """Raises UserError for a number that some generator does not take for its seed."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: a whole number from 0 to 2^63 - 1")


class LostProcess(Exception):
    """A process of ours ended before its work did; the line names it, and a stage prints it without a traceback and ends with status 1."""
