"""What a watcher does, as the page shows it."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True)
class Unread:
    """A file that could not be decoded, and why. It is tried again when it changes."""

    file: str
    reason: str


@dataclass(frozen=True)
class Status:
    """What the page shows.

    folders: those that are watched.
    reading: the file that is being read, below its folder, number `number` of `count`; empty if none is.
    growing: how many files are still being written.
    unread: the files that could not be decoded.
    error: why the last attempt failed; empty if it did not.
    since: when the gallery was last known to hold all that is in the folders; None if it does not.
    """

    folders: tuple[str, ...]
    reading: str = ""
    number: int = 0
    count: int = 0
    growing: int = 0
    unread: tuple[Unread, ...] = ()
    error: str = ""
    since: datetime | None = None
