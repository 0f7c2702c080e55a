"""Caches made from another one, and what to ask of them."""

import io
from pathlib import Path

from PIL import Image

from data.cache import FeatureCache, VideoEntry
from data.span import Span
from tests.conftest import ROOT
from tests.features import patches_of

BUDGET = 10**9
"""Bytes for features: those of the tests' caches fit."""
QUERY = "a small white object resting on the right"
OLD = ROOT / "tests" / "format3"
"""A cache of format 3 with its videos and table."""


def jpeg(shade: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8), shade).save(content, "JPEG")
    return content.getvalue()


def rewritten(source: FeatureCache, path: Path, ids: dict[str, str], thumbnails: bool = False, files: Path | None = None) -> FeatureCache:
    """A cache of some videos of another under new ids, and with pictures for thumbnails, each of a shade of its own; made from `files`."""
    made = FeatureCache.create(path, source.settings, source.clip_parts(), source.provenance)
    videos = source.videos(list(ids), BUDGET)
    entries = []
    for i, name in enumerate(ids.values()):
        frames = videos.frames.gather([i])[0].numpy()
        shades = [jpeg(20 * i + 2 * f) for f in range(len(frames))] if thumbnails else ()
        size = 1 if files is None else (files / f"{videos.ids[i]}.mp4").stat().st_size
        entries.append(VideoEntry(name, frames, videos.seconds[i], size, 1, thumbnails=shades))
    if entries:
        made.write_videos(entries)
    return FeatureCache(path)


def with_patches(cache: FeatureCache, kept: int | None = None) -> FeatureCache:
    """The cache after the patch tokens `patches_of` its frames were written; the first `kept` of them, as --tokens patches:K would."""
    ids = cache.names("videos")
    videos = cache.videos(ids, BUDGET)
    entries = []
    for i, name in enumerate(ids):
        frame_TD, stamp = videos.frames.gather([i])[0], cache.stamp(name)
        entries.append(
            VideoEntry(
                name,
                frame_TD.numpy(),
                videos.seconds[i],
                stamp.file_size,
                stamp.file_mtime_ns,
                stamp.file_digest,
                Span(stamp.start, stamp.end),
                patch_TMD=patches_of(frame_TD)[:, :kept].numpy(),
            )
        )
    cache.write_patches(entries, kept)
    return FeatureCache(cache.path)


def captions_of(cache: FeatureCache, count: int) -> list[str]:
    return cache.table()["caption"].drop_duplicates().tolist()[:count]
