"""The features of one split of a cache, and how much of the split they are."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.cache import FeatureCache
from data.errors import UserError
from data.features import TextFeatures, VideoFeatures


@dataclass(frozen=True)
class Split:
    """Texts, videos, the video of each text (`answers` [A], indices), and `counts` of what the annotations ask for and what is there."""

    name: str
    texts: TextFeatures
    videos: VideoFeatures
    answers: NDArray[np.int64]
    counts: dict[str, int]


def load_split(
    cache: FeatureCache, name: str, preset: str | None, memory_budget: int, max_frames: int | None = None, allow_missing: bool = False
) -> Split:
    """Load a split from a cache, each caption a text of its own.

    Raises UserError where the cache has no such split, or where features of the split are missing and that is not allowed.
    """
    if max_frames is not None and max_frames < 1:
        raise UserError(f"--max-frames {max_frames}: a number above 0")
    table = cache.table(preset)
    rows = table[table["split"] == name]
    if rows.empty:
        there = ", ".join(table["split"].unique())
        raise UserError(f"the cache {cache.path} has no split {name!r}; it has: {there}")
    present = np.array([("videos", v) in cache and ("texts", t) in cache for v, t in zip(rows["video_id"], rows["caption"], strict=True)])
    counts = {
        "videos_expected": int(rows["video_id"].nunique()),
        "videos": int(rows["video_id"][present].nunique()),
        "captions_expected": len(rows),
        "captions": int(present.sum()),
    }
    if not present.all() and not allow_missing:
        lacking = rows["video_id"][~present].unique()
        raise UserError(
            f"{(~present).sum()} of {len(rows)} captions of split {name!r} have no features in {cache.path}, such as those of video "
            f"{', '.join(lacking[:3])}: run extract again, or go on without them with --allow-missing"
        )
    if not present.any():
        raise UserError(f"the cache {cache.path} has no features of split {name!r}: run extract")
    rows = rows[present]
    video_ids = rows["video_id"].unique().tolist()
    position = {video_id: i for i, video_id in enumerate(video_ids)}
    return Split(
        name=name,
        texts=cache.texts(rows["caption"].tolist(), memory_budget),
        videos=cache.videos(video_ids, memory_budget, max_frames),
        answers=rows["video_id"].map(position).to_numpy(dtype=np.int64),
        counts=counts,
    )
