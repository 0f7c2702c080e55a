"""The query bank of QB-Norm: randomly chosen captions of the training split."""

import numpy as np

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import TextFeatures

BANK_SPLIT = "train"


def load_bank(
    cache: FeatureCache, preset: str, count: int, seed: int, max_words: int | None, memory_budget: int, source: str | None = None
) -> TextFeatures:
    """Features of `count` cached training captions of this protocol, drawn by `seed`, in the order of the annotations.

    `max_words`: tokens to keep of each; see `FeatureCache.texts`. Raises UserError if there are fewer captions.
    """
    table = cache.listings.select(preset, source).captions
    captions = [text for text in table.loc[table["split"] == BANK_SPLIT, "caption"] if ("texts", text) in cache]
    if count < 1 or count > len(captions):
        raise UserError(f"--query-bank {count}: the cache {cache.path} has {len(captions)} training captions: use 1 to {len(captions)}")
    chosen = np.sort(np.random.default_rng(seed).choice(len(captions), count, replace=False))
    return cache.texts([captions[i] for i in chosen], memory_budget, max_words)
