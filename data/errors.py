"""What the user can put right, and processes that are lost, told apart from our own mistakes."""

from collections.abc import Sequence


class UserError(ValueError):
    """One line that names what is wrong and the remedy; a stage prints it without a traceback and ends with status 2.

    `listed`: what the line speaks of, such as all missing videos; printed before it, an item a line.
    """

    def __init__(self, message: str, listed: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.listed = tuple(listed)


class LostProcess(Exception):
    """A process of ours ended before its work did; the line names it, and a stage prints it without a traceback and ends with status 1."""


def require_seed(seed: int) -> None:
    """Raises UserError where `--seed` is no number that random generators take."""
    if not 0 <= seed < 2**63:
        raise UserError(f"--seed {seed} must be a whole number from 0 to {2**63 - 1}")
