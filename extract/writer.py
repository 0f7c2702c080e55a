"""Encoded videos into parts of the cache, and what failed into its list."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cache import FeatureCache, VideoEntry
from extract.failures import SHARED_FILES, Failure, failures_file, read_failures, write_failures


@dataclass(frozen=True)
class PartLimits:
    """A part is closed after so many videos, bytes or seconds, whichever comes first: that much work can be lost to a kill."""

    videos: int
    bytes: int
    seconds: float


class Writer:
    """Collects videos and writes them as a part, with the list of failures, when there are enough or the last part is long ago.

    `known` are failures that stay listed, `outdated` the ids of listed ones that do not. `seconds` counts the time of writing,
    `picture_bytes` the thumbnails and pixels.
    """

    def __init__(
        self, cache: FeatureCache, limits: PartLimits, shard: tuple[int, int], known: Sequence[Failure], outdated: Collection[str]
    ) -> None:
        self.failures = list(known)
        self.seconds = 0.0
        self.picture_bytes = 0
        self._outdated = outdated
        self._written = 0
        self._cache, self._limits = cache, limits
        self._file: Path = cache.path / failures_file(shard)
        self._whole = shard[1] == 1
        self._entries, self._bytes, self._since = list[VideoEntry](), 0, time.monotonic()

    def add(self, entry: VideoEntry) -> None:
        """Take a video, and write a part if it is time."""
        self._entries.append(entry)
        pictures = sum(map(len, [*entry.thumbnails, *entry.pixels]))
        self.picture_bytes += pictures
        self._bytes += entry.frames_TD.nbytes + pictures
        full = len(self._entries) >= self._limits.videos or self._bytes >= self._limits.bytes
        if full or time.monotonic() - self._since > self._limits.seconds:
            self.flush()

    def flush(self) -> None:
        """Write what has been collected."""
        begin = time.perf_counter()
        if self._entries:
            self._cache.write_videos(self._entries)
            self._written += self._bytes
        self._write_failures()
        self._entries, self._bytes, self._since = [], 0, time.monotonic()
        self.seconds += time.perf_counter() - begin

    def rate(self) -> str:
        """Bytes a second that writing could reach alone."""
        return f"write {self._written / self.seconds / 2**20:.0f} MiB/s" if self._written else ""

    def _write_failures(self) -> None:
        """Those of this run, and those of earlier ones that still are not in the cache."""
        own = {failure.video_id: failure for failure in self.failures}
        # A process that shares the work writes down its share alone: two must not write one file.
        earlier = read_failures(self._cache.path) if self._whole else {}
        gone = {name for name in earlier if name in self._outdated or ("videos", name) in self._cache}
        listed = own | {name: failure for name, failure in earlier.items() if name not in own and name not in gone}
        write_failures(self._file, [listed[name] for name in sorted(listed)])
        if self._whole:
            for shared in self._cache.path.glob(SHARED_FILES):
                shared.unlink(missing_ok=True)
