"""The synthetic cache of the steps: random features in three splits, whose captions resemble a frame of their video."""

from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.synthetic import random_features, seconds_of, write_cache
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry

FRAMES = 6
MOST_WORDS = 16
CAPTIONS_A_VIDEO = 2
CLOSENESS = 0.5
"""Weight of the frame in its caption. Answers then occur at many ranks."""


def make_cache(path: Path, videos: int, dimension: int) -> FeatureCache:
    """Write a cache of this many videos: 60% for training, 20% for validation and 20% for testing, with two captions each."""
    rng = np.random.default_rng(0)
    settings = {"weights": "0" * 64, "max_words": MOST_WORDS, "max_frames": FRAMES, "dtype": "float32", "dimension": dimension}
    clip = ClipParts({"positional_embedding": np.zeros((MOST_WORDS, dimension), dtype=np.float32)}, 100.0, 8, "QuickGELU")
    ids = [f"video{i}" for i in range(videos)]
    frame_NFD = random_features(rng, videos, FRAMES, dimension)
    lengths = rng.integers(2, FRAMES + 1, videos)
    entries = [
        VideoEntry(name, frame_NFD[i, :length], seconds_of(length), 0, 0) for i, (name, length) in enumerate(zip(ids, lengths, strict=True))
    ]
    captions = [f"caption {i} of {name}" for name in ids for i in range(CAPTIONS_A_VIDEO)]

    def text(number: int) -> TextEntry:
        video = number // CAPTIONS_A_VIDEO
        frame_D = CLOSENESS * frame_NFD[video, rng.integers(lengths[video])]
        word_LD = frame_D + random_features(rng, int(rng.integers(4, MOST_WORDS + 1)), dimension)
        return TextEntry(captions[number], word_LD, frame_D + random_features(rng, dimension))

    texts = [text(number) for number in range(len(captions))]
    cache = write_cache(path, settings, clip, entries, texts, count=videos, quiet=True)
    split_of = ["train"] * (videos * 3 // 5) + ["val"] * (videos // 5)
    split_of += ["test"] * (videos - len(split_of))
    table = {"video_id": np.repeat(ids, CAPTIONS_A_VIDEO), "caption": captions, "split": np.repeat(split_of, CAPTIONS_A_VIDEO)}
    cache.write_table("table", pd.DataFrame(table))
    return cache
