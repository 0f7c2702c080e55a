"""Write encoded videos to parts of the cache, and failures to their list."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cache import FeatureCache, VideoEntry
from extract.encode.image.patches import Patches
from extract.encode.videos import AddedTokens
from extract.failures import SHARED_FILES, Failure, failures_file, read_failures, write_failures


@dataclass(frozen=True)
class PartLimits:
    """A part is written after this many videos, bytes or seconds, whichever comes first. A kill loses at most that much work."""

    videos: int
    bytes: int
    seconds: float


class Writer:
    """Collect videos, and patch tokens of cached videos, and write parts and the list of failures whenever a limit of PartLimits is
    reached.

    `known` are earlier failures that stay listed, `outdated` the ids of listed failures that no longer apply. `patches` says which patch
    tokens the videos have, None if they have none. `seconds` is the time spent writing, `picture_bytes` the size of thumbnails and pixels
    so far, `patch_bytes` that of patch tokens. `added` counts the cached videos that were given patch tokens, `added_from_pixels` those of
    them whose file was not decoded.
    """

    def __init__(
        self,
        cache: FeatureCache,
        limits: PartLimits,
        shard: tuple[int, int],
        known: Sequence[Failure],
        outdated: Collection[str],
        patches: Patches | None = None,
    ) -> None:
        self.failures = list(known)
        self.seconds = 0.0
        self.picture_bytes = self.patch_bytes = 0
        self.added = self.added_from_pixels = 0
        self._patches = patches
        self._outdated = outdated
        self._written = 0
        self._cache, self._limits = cache, limits
        self._file: Path = cache.path / failures_file(shard)
        self._whole = shard[1] == 1
        self._entries, self._tokens, self._bytes, self._since = list[VideoEntry](), list[VideoEntry](), 0, time.monotonic()

    def take(self, video: VideoEntry | AddedTokens | Failure) -> None:
        """Add what became of a video."""
        if isinstance(video, Failure):
            self.failures.append(video)
        elif isinstance(video, AddedTokens):
            self.add_tokens(video)
        else:
            self.add(video)

    def add(self, entry: VideoEntry) -> None:
        """Add a video with its patch tokens, if any, and write a part if a limit is reached."""
        self._entries.append(entry)
        self._added(entry)

    def add_tokens(self, video: AddedTokens) -> None:
        """Add the patch tokens of a video whose frames are cached already."""
        self.added += 1
        self.added_from_pixels += video.from_pixels
        self._tokens.append(video.entry)
        self._added(video.entry)

    def _added(self, entry: VideoEntry) -> None:
        pictures = sum(map(len, [*entry.thumbnails, *entry.pixels]))
        self.picture_bytes += pictures
        tokens = 0 if entry.patch_TMD is None else entry.patch_TMD.nbytes
        self.patch_bytes += tokens
        self._bytes += entry.frames_TD.nbytes + pictures + tokens
        full = len(self._entries) + len(self._tokens) >= self._limits.videos or self._bytes >= self._limits.bytes
        if full or time.monotonic() - self._since > self._limits.seconds:
            self.flush()

    def flush(self) -> None:
        """Write the collected videos and the list of failures."""
        begin = time.perf_counter()
        if self._entries or self._tokens:
            if self._patches is not None:
                # Before the frames: then no kill leaves frames in the cache that lack their patch tokens.
                self._cache.write_patches([*self._entries, *self._tokens], self._patches.kept)
            self._cache.write_videos(self._entries)
            self._written += self._bytes
        self._write_failures()
        self._entries, self._tokens, self._bytes, self._since = [], [], 0, time.monotonic()
        self.seconds += time.perf_counter() - begin

    def rate(self) -> str:
        """The rate that writing alone would reach, as text; empty before the first part."""
        return f"write {self._written / self.seconds / 2**20:.0f} MiB/s" if self._written else ""

    def _write_failures(self) -> None:
        """Write the failures of this run, and those of earlier runs whose videos are still not in the cache."""
        own = {failure.video_id: failure for failure in self.failures}
        # A process that shares the work writes only its own share, since two must not write one file.
        earlier = read_failures(self._cache.path) if self._whole else {}
        gone = {name for name in earlier if name in self._outdated or ("videos", name) in self._cache}
        listed = own | {name: failure for name, failure in earlier.items() if name not in own and name not in gone}
        write_failures(self._file, [listed[name] for name in sorted(listed)])
        if self._whole:
            for shared in self._cache.path.glob(SHARED_FILES):
                shared.unlink(missing_ok=True)
