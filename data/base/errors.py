"""Errors that the user can fix, and lost processes, as distinct from bugs."""

import errno
import os
import textwrap
from collections.abc import Sequence
from pathlib import Path

MAX_LISTED = 10
"""Most lines of a list that are printed."""
LONGEST_REASON = 300
"""Most characters of an error message from a library."""


class UserError(ValueError):
    """An error that the user can fix: one line that names the problem and the remedy. A stage prints it, without a traceback, and exits
    with status 2.

    listed: the items that the message is about, such as all missing videos. The first MAX_LISTED are printed before it, one per line.
    whole: where to find the whole list.
    """

    def __init__(self, message: str, listed: Sequence[str] = (), whole: str = "") -> None:
        super().__init__(message)
        self.listed, self.whole = tuple(listed), whole


class Unavailable(UserError):
    """A UserError for a service that does not answer now, though nothing is wrong with what the user asked for."""


def first_of(lines: Sequence[str], whole: str = "") -> list[str]:
    """The first MAX_LISTED lines, and one that counts the rest and says where the whole list is."""
    left = len(lines) - MAX_LISTED
    return [*lines[:MAX_LISTED], *([f"and {left:,} more{': ' * bool(whole)}{whole}"] if left > 0 else [])]


def one_line(error: BaseException) -> str:
    """The message of a library's error as one line that ends with a whole word; the name of the error if it has no message."""
    said = " ".join(str(error).split())
    # textwrap.shorten would drop a single long word.
    return textwrap.shorten(said, LONGEST_REASON, placeholder=" ...") if " " in said else said[:LONGEST_REASON] or type(error).__name__


def cannot_read(path: Path, error: OSError) -> UserError:
    """The error for a file that the system refuses to read."""
    reason = os.strerror(error.errno) if error.errno else error
    return UserError(f"{path} cannot be read ({reason}): check its permissions and the disk, then run again")


def not_as_written(path: Path, error: Exception, line: str) -> UserError:
    """The error `line` for a missing or damaged file of this program. If `error` suggests that the file itself may be intact, such as for a
    lack of permissions, the error of `cannot_read` instead: nobody should be told to delete an intact file."""
    # Libraries raise OSError without an errno for bad contents.
    if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.EINVAL):
        return cannot_read(path, error)
    return UserError(line)


def check_seed(seed: int) -> None:
    """Raise UserError for a seed that not every random generator accepts."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed}: a whole number from 0 to 2^63 - 1")


class LostProcess(Exception):
    """A process of this program died before its work was done. The message names it; a stage prints it, without a traceback, and exits with
    status 1."""
