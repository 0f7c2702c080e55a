"""The list of failed videos: CACHE/failures.csv, or CACHE/failures-I-of-N.csv while several processes share the work.

It covers all runs: a video stays listed until it is in the cache, and is not retried as long as its file does not change.
"""

import csv
import io
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from data.base.whole_files import write_atomically
from data.cache.layout import FAILURES_FILE
from data.span import WHOLE_FILE, Span

COLUMNS = (
    *("video_id", "file", "reason", "last_words", "frames_expected", "frames_decoded"),
    *("file_size", "file_mtime_ns", "start", "end", "file_digest"),
)
SHARED_FILES = "failures-*-of-*.csv"
"""Pattern of the files that processes write while they share the work."""


@dataclass(frozen=True)
class Failure:
    """A failed video: the reason in one line, and the decoder's last error lines.

    `frames_expected` and `frames_decoded` count the sampled frames of a truncated file. `file_size`, `file_mtime_ns` and `file_digest`
    describe the file when it failed. Without them the video is retried on every run, since the file is not at fault. `span` is the part of
    the file that was to be decoded.
    """

    video_id: str
    file: str
    reason: str
    last_words: str = ""
    frames_expected: int | None = None
    frames_decoded: int | None = None
    file_size: int | None = None
    file_mtime_ns: int | None = None
    span: Span = WHOLE_FILE
    file_digest: str = ""

    def line(self) -> str:
        """The failure in a line."""
        return f"failed: {self.file}: {self.reason}{': ' * bool(self.last_words)}{self.last_words}"

    def is_about(self, file: os.stat_result, digest: Callable[[], str]) -> bool:
        """True if the file has not changed since it failed. `digest` is called only if nothing but the time of change differs."""
        if self.file_size != file.st_size:
            return False
        return self.file_mtime_ns == file.st_mtime_ns or (self.file_digest != "" and self.file_digest == digest())


def failures_file(shard: tuple[int, int]) -> str:
    """Name of the failures file of process I of N."""
    return FAILURES_FILE if shard[1] == 1 else f"failures-{shard[0]}-of-{shard[1]}.csv"


def read_failures(cache: Path, names: str = "failures*.csv") -> dict[str, Failure]:
    """The failures of all processes by video id, from the files that match `names`. Raises UserError if a file is damaged."""
    found: dict[str, Failure] = {}
    for path in sorted(cache.glob(names)):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                try:
                    failure = _from_row(row)
                except (KeyError, ValueError, TypeError) as error:
                    raise UserError(f"{path} is damaged or of another version: delete it, and its videos are retried") from error
                found[failure.video_id] = failure
    return found


def write_failures(path: Path, failures: Iterable[Failure]) -> None:
    """Write the file atomically, or delete it if there are no failures."""
    rows = [[_to_row(failure)[name] for name in COLUMNS] for failure in failures]
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def _to_row(failure: Failure) -> dict[str, Any]:
    return {**vars(failure), **vars(failure.span)}


def _from_row(row: dict[str, str]) -> Failure:
    numbers = {name: int(row[name]) if row[name] else None for name in ("frames_expected", "frames_decoded", "file_size", "file_mtime_ns")}
    span = Span.of_texts(row["start"], row["end"])
    # Files written by earlier versions lack the digest.
    digest = row.get("file_digest") or ""
    return Failure(row["video_id"], row["file"], row["reason"], row["last_words"], **numbers, span=span, file_digest=digest)
