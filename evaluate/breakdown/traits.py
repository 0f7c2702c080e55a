"""What queries are grouped by. Rank tables hold these as columns, so that results can be broken down without scoring again.

Shape suffixes: A texts, B videos, F frames of a video.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from data.cache import FeatureCache
from data.datasets.kinds import agreed
from search.query.lengths import seconds_covered

KIND, WORDS, SECONDS = TRAITS = ("kind", "words", "seconds")


def video_seconds(cache: FeatureCache, ids: Sequence[str]) -> NDArray[np.float64]:
    """The length of each video [B] in seconds: see `seconds_covered`."""
    return seconds_covered(cache.videos(ids, memory_budget=0).seconds, cache)


def traits_of_texts(
    captions: Sequence[str], kinds: Sequence[str] | None, answers: NDArray[np.int64], seconds: NDArray[np.float64]
) -> pd.DataFrame:
    """Columns kind, words and seconds of every text: its kind ("" for none), its words between white space, and the length of its video.

    kinds: None if no text has a kind.
    answers [A]: the index of each text's video. seconds [B]: see `video_seconds`.
    """
    words = [len(caption.split()) for caption in captions]
    return pd.DataFrame({KIND: [""] * len(captions) if kinds is None else list(kinds), WORDS: words, SECONDS: seconds[answers]})


def traits_of_videos(of_texts: pd.DataFrame, answers: NDArray[np.int64]) -> pd.DataFrame:
    """The same of every video that has texts, by its index: the kind if all of its texts agree, and their mean number of words."""
    by_video = of_texts.groupby(answers)
    return pd.DataFrame({KIND: by_video[KIND].agg(agreed), WORDS: by_video[WORDS].mean(), SECONDS: by_video[SECONDS].first()})
