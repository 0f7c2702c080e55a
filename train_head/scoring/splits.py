"""The features of one split of a cache, and how much of the split they are."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import TextFeatures, VideoFeatures
from data.cache.layout import FAILURES_FILE
from data.datasets import preset_named
from data.datasets.accounting import as_expected, count_listed, difference
from data.datasets.division import OFFER
from data.datasets.types import SPLITS


@dataclass(frozen=True)
class Split:
    """Texts, videos, the video of each text (`answers` [A], indices), the names of their sources in the cache, and `counts` of what is
    expected and what is there.

    `counts`: videos expected (by the protocol), listed (in the annotations), present (as files), decoded and scored; captions expected,
    listed, encoded and scored. A video is scored if one of its captions is, and a caption if both have features.
    """

    name: str
    preset: str
    sources: tuple[str, ...]
    texts: TextFeatures
    videos: VideoFeatures
    answers: NDArray[np.int64]
    counts: dict[str, int]

    def summary(self, verb: str = "scored") -> str:
        """One line of the counts."""
        return counts_line(self.preset, self.name, self.counts, verb)


def counts_line(preset: str, split: str, counts: dict[str, int], verb: str = "scored") -> str:
    """The counts of a split in one line for people."""
    return (
        f"{preset} {split}: {verb} {counts['videos_scored']:,} of {counts['videos_expected']:,} videos expected "
        f"({counts['videos_present']:,} present, {counts['videos_decoded']:,} decoded) "
        f"and {counts['captions_scored']:,} of {counts['captions_expected']:,} captions"
    )


def load_split(
    cache: FeatureCache,
    name: str,
    preset: str | None,
    memory_budget: int,
    max_frames: int | None = None,
    allow_missing: bool = False,
    source: str | None = None,
    max_words: int | None = None,
) -> Split:
    """Load a split from a cache, each caption a text of its own; "train+val" is the two splits together.

    It is that of all sources of the preset, or of the one with the name `source`.

    Of each video and text no more than `max_frames` and `max_words` are read: see `FeatureCache.videos` and `texts`. What fits into
    `memory_budget` bytes is held in memory, frames first, the rest is read when used. Raises UserError where the cache has
    no such split, and where it is not what its protocol has, or features of it are missing, and that is not allowed.
    """
    if max_frames is not None and max_frames < 1:
        raise UserError(f"--max-frames {max_frames} must be at least 1")
    listing = cache.listings.select(preset, source)
    preset, table, listed = listing.preset, listing.captions, listing.videos
    splits = name.split("+")
    rows = table[table["split"].isin(splits)]
    if rows.empty:
        there = list(table["split"].unique())
        raise UserError(f"the cache {cache.path} has no split {name!r}; it has: {', '.join(there)}{_split_remedy(preset, splits, there)}")
    # Features of what failed later are those of another file.
    failed = {*listed.loc[listed["failed"], "video_id"]}
    decoded = np.array([("videos", video_id) in cache and video_id not in failed for video_id in rows["video_id"]])
    encoded = np.array([("texts", text) in cache for text in rows["caption"]])
    whole = decoded & encoded
    counts = count_listed(table, listed, preset_named(preset), splits) | {
        "videos_decoded": int(rows["video_id"][decoded].nunique()),
        "videos_scored": int(rows["video_id"][whole].nunique()),
        "captions_encoded": int(encoded.sum()),
        "captions_scored": int(whole.sum()),
    }
    if not allow_missing and not as_expected(counts):
        raise UserError(
            f"the cache {cache.path}: {difference(preset, name, counts)}: extract with the whole annotation files, or go on with "
            "--allow-missing"
        )
    if not allow_missing and not whole.all():
        lacking = rows["video_id"][~whole].unique().tolist()
        broken = [video_id for video_id in lacking if video_id in failed]
        raise UserError(
            f"{(~whole).sum()} of {len(rows)} captions of split {name!r} have no features in {cache.path}, such as those of video "
            f"{', '.join(lacking[:3])}: {_features_remedy(cache, len(lacking), len(broken))}, or go on without them with --allow-missing",
            [f"failed: {video_id}" for video_id in broken] + [f"without features: {one}" for one in lacking if one not in failed],
        )
    if not whole.any():
        videos_of_split = {*rows["video_id"]}
        remedy = _features_remedy(cache, len(videos_of_split), len(videos_of_split & failed))
        raise UserError(f"the cache {cache.path} has no features of split {name!r}: {remedy}")
    rows = rows[whole]
    video_ids = rows["video_id"].unique().tolist()
    position = {video_id: i for i, video_id in enumerate(video_ids)}
    videos = cache.videos(video_ids, memory_budget, max_frames)
    return Split(
        name=name,
        preset=preset,
        sources=listing.names,
        texts=cache.texts(rows["caption"].tolist(), memory_budget - videos.frames.bytes_held, max_words),
        videos=videos,
        answers=rows["video_id"].map(position).to_numpy(dtype=np.int64),
        counts=counts,
    )


def _split_remedy(preset: str, splits: Sequence[str], there: Sequence[str]) -> str:
    """What to do about splits that are lacking: a table of the user's own can be divided."""
    known = preset_named(preset)
    if known is None or known.files:
        return ": give rows of the annotations that split and run extract again, or use one that is there"
    again = f"run extract again with {OFFER}"
    kept = "features are kept, so this takes seconds"
    if not {*there} & {*SPLITS}:
        return f". The table has no column split: {again}, which divides its videos ({kept})"
    if "train" not in there:
        return ". Only training videos can be divided: add rows of the split to the table, or read another one"
    select = ", or train with --select-on test" if "val" in splits and "test" in there else ""
    return f": {again}, which takes {' and '.join(splits)} from the training videos ({kept}){select}"


def _features_remedy(cache: FeatureCache, lacking: int, failed: int) -> str:
    """What to do about so many videos without features, so many of which failed when they were extracted."""
    if not failed:
        return "run extract again"
    # A merged file has no list of them.
    where = "" if cache.merged else f" ({cache.path / FAILURES_FILE} says why)"
    which = "all of them" if failed == lacking else f"{failed:,} of these {lacking:,} videos"
    return f"{which} failed in the extraction{where}: run extract with --retry-failed"
