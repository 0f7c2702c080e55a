"""Loads the features of one split of a cache, and counts what is missing."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import TextFeatures, VideoFeatures
from data.cache.layout import FAILURES_FILE
from data.cache.sources import Selection
from data.datasets import preset_named
from data.datasets.accounting import as_expected, count_listed, difference
from data.datasets.division import OFFER
from data.datasets.types import SPLITS


@dataclass(frozen=True)
class Split:
    """The texts and videos of a split, and the ground truth.

    `answers` [A] holds the index of each text's video. `sources` names the sources in the cache. `counts` has the numbers of videos
    expected (by the protocol), listed (in the annotations), present (as files), decoded and scored, and of captions expected, listed,
    encoded and scored, as in `counts["videos_listed"]`. A caption is scored if it and its video have features; a video, if any of its
    captions is. `kinds` holds the kind of each text, "" for none (see `data.datasets.kinds`); None if no text of the split has one.
    """

    name: str
    preset: str
    sources: tuple[str, ...]
    texts: TextFeatures
    videos: VideoFeatures
    answers: NDArray[np.int64]
    counts: dict[str, int]
    kinds: tuple[str, ...] | None = None

    def summary(self, verb: str = "scored") -> str:
        """The counts in one line for people."""
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
    patches: bool = False,
) -> Split:
    """Load a split from a cache. Every caption is a separate text. A name such as "train+val" joins splits.

    >>> split = load_split(FeatureCache(Path("runs/cache")), "test", preset=None, memory_budget=2**30)
    >>> split.videos.ids[split.answers[0]]  # the video of the first caption

    Takes the split from all sources of the preset, or from the one with the name `source`. Reads at most `max_frames` frames per video and
    `max_words` words per text: see `FeatureCache.videos` and `texts`. `patches`: read the patch tokens of the frames too. Features are held
    in memory up to `memory_budget` bytes, frames first and patch tokens last; the rest is read from disk on use.

    Raises UserError if the cache has no such split or no features of it. Unless `allow_missing`, also raises UserError if the split differs
    from its protocol or some features are missing.
    """
    if max_frames is not None and max_frames < 1:
        raise UserError(f"--max-frames {max_frames} must be at least 1")
    listing = cache.listings.select(preset, source)
    found = _find(cache, listing, name)
    counts = _counts(listing, name.split("+"), found)
    if not allow_missing:
        _require_complete(cache, listing.preset, name, found, counts)
    if not found.whole.any():
        videos_of_split = {*found.rows["video_id"]}
        remedy = _features_remedy(cache, len(videos_of_split), len(videos_of_split & found.failed))
        raise UserError(f"the cache {cache.path} has no features of split {name!r}: {remedy}")
    rows = found.rows[found.whole]
    video_ids = rows["video_id"].unique().tolist()
    position = {video_id: i for i, video_id in enumerate(video_ids)}
    videos = cache.videos(video_ids, memory_budget, max_frames)
    texts = cache.texts(rows["caption"].tolist(), memory_budget - videos.bytes_held, max_words)
    if patches:
        # Last, because they take most of the room.
        left = memory_budget - videos.bytes_held - texts.words.bytes_held - texts.sentences.bytes_held
        videos = replace(videos, patches=cache.patches(video_ids, left, max_frames))
    return Split(
        name=name,
        preset=listing.preset,
        sources=listing.names,
        texts=texts,
        videos=videos,
        answers=rows["video_id"].map(position).to_numpy(dtype=np.int64, copy=True),  # pandas's own array is read-only
        counts=counts,
        kinds=tuple(rows["kind"].tolist()) if "kind" in rows and (rows["kind"] != "").any() else None,
    )


def split_digest(cache: FeatureCache, name: str, preset: str | None = None, source: str | None = None) -> str:
    """SHA-256 of what `load_split` would load with `allow_missing`: captions, their videos and kinds, in order, whatever their features.

    Raises UserError if the cache has no such split.
    """
    found = _find(cache, cache.listings.select(preset, source), name)
    rows = found.rows[found.whole]
    columns = [rows[column].tolist() for column in ("video_id", "caption", "kind") if column in rows]
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()


@dataclass(frozen=True)
class _Found:
    """The captions of a split, and which of them have features in the cache."""

    rows: pd.DataFrame
    """One row per caption."""
    decoded: NDArray[np.bool_]
    """True where the video of a row has features."""
    encoded: NDArray[np.bool_]
    """True where the caption of a row has features."""
    failed: set[str]
    """Videos of all splits whose latest extraction failed."""

    @property
    def whole(self) -> NDArray[np.bool_]:
        """True where both have features."""
        return self.decoded & self.encoded


def _find(cache: FeatureCache, listing: Selection, name: str) -> _Found:
    """Look up the captions of a split. Raises UserError if the cache has none."""
    table, listed = listing.captions, listing.videos
    splits = name.split("+")
    rows = table[table["split"].isin(splits)]
    if rows.empty:
        there = list(table["split"].unique())
        raise UserError(
            f"the cache {cache.path} has no split {name!r}; it has: {', '.join(there)}"
            f"{_split_remedy('data.import_features' if cache.imported else 'extract', listing.preset, splits, there)}"
        )
    # If the latest extraction of a video failed, its features belong to an earlier file.
    failed = {*listed.loc[listed["failed"], "video_id"]}
    decoded = np.array([("videos", video_id) in cache and video_id not in failed for video_id in rows["video_id"]])
    encoded = np.array([("texts", text) in cache for text in rows["caption"]])
    return _Found(rows, decoded, encoded, failed)


def _counts(listing: Selection, splits: Sequence[str], found: _Found) -> dict[str, int]:
    """The `counts` of a `Split`."""
    return count_listed(listing.captions, listing.videos, preset_named(listing.preset), splits) | {
        "videos_decoded": int(found.rows["video_id"][found.decoded].nunique()),
        "videos_scored": int(found.rows["video_id"][found.whole].nunique()),
        "captions_encoded": int(found.encoded.sum()),
        "captions_scored": int(found.whole.sum()),
    }


def _require_complete(cache: FeatureCache, preset: str, name: str, found: _Found, counts: dict[str, int]) -> None:
    """Raise UserError if the split differs from its protocol, or any of its captions or videos lacks features."""
    if not as_expected(counts):
        raise UserError(
            f"the cache {cache.path}: {difference(preset, name, counts)}: extract with the whole annotation files, or continue with "
            "--allow-missing"
        )
    rows, whole = found.rows, found.whole
    if not whole.all():
        lacking = rows["video_id"][~whole].unique().tolist()
        broken = [video_id for video_id in lacking if video_id in found.failed]
        raise UserError(
            f"{(~whole).sum()} of {len(rows)} captions of split {name!r} have no features in {cache.path}, such as those of video "
            f"{', '.join(lacking[:3])}: {_features_remedy(cache, len(lacking), len(broken))}, or leave them out with --allow-missing",
            [f"failed: {video_id}" for video_id in broken] + [f"without features: {one}" for one in lacking if one not in found.failed],
        )


def _split_remedy(command: str, preset: str, splits: Sequence[str], there: Sequence[str]) -> str:
    """The remedy for missing splits: to run `command` again. Annotations of a user's own can be divided into splits."""
    known = preset_named(preset)
    if known is None or known.files:
        return f": give rows of the annotations that split and run {command} again, or use a split that exists"
    again = f"run {command} again with {OFFER}"
    kept = "features are kept, so this takes seconds"
    if not {*there} & {*SPLITS}:
        return f". The table has no column split: {again}, which divides its videos ({kept})"
    if "train" not in there:
        return ". Only training videos can be divided: add rows of the split to the table, or read another one"
    select = ", or train with --select-on test" if "val" in splits and "test" in there else ""
    return f": {again}, which takes {' and '.join(splits)} from the training videos ({kept}){select}"


def _features_remedy(cache: FeatureCache, lacking: int, failed: int) -> str:
    """The remedy for `lacking` videos without features, `failed` of which failed in the extraction."""
    if not failed:
        return "run extract again"
    # A merged file has no list of failures.
    where = "" if cache.merged else f" ({cache.path / FAILURES_FILE} says why)"
    which = "all of them" if failed == lacking else f"{failed:,} of these {lacking:,} videos"
    return f"{which} failed in the extraction{where}: run extract with --retry-failed"
