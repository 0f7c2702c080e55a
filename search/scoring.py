"""Scores the parts of queries with a gallery: all texts of several queries in one pass.

Shape suffixes: A texts, B videos.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache.features import TextFeatures
from search.retrieval.gallery import Gallery
from search.retrieval.near import nearness
from search.retrieval.parts import Part, Plan, combined
from search.retrieval.shortlist import Shortlist
from train_head.heads import TextBatch


class EncodedTexts:
    """The distinct texts of some queries, encoded. `features` is None if there is no text."""

    def __init__(self, texts: Sequence[str], features: TextFeatures | None, device: torch.device) -> None:
        self.features, self._device = features, device
        self._numbers = {text: i for i, text in enumerate(texts)}

    def number(self, text: str) -> int:
        """The index of a text in the features."""
        return self._numbers[text]

    def batch(self, texts: Sequence[str]) -> TextBatch:
        """Some of the texts, on the device."""
        assert self.features is not None
        return TextBatch.gather(self.features, [self._numbers[text] for text in texts], self._device)


def neighbours(candidates: Sequence[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], list[int]]]:
    """Neighbouring queries with the same candidates, which are scored together: the candidates, and the indices of the queries."""
    for _, group in groupby(range(len(candidates)), [videos.tobytes() for videos in candidates].__getitem__):
        together = list(group)
        yield candidates[together[0]], together


def candidates_of_plan(shortlist: Shortlist, plan: Plan, texts: EncodedTexts) -> NDArray[np.int64]:
    """The candidates of all parts that count for a video."""
    lists = [shortlist.for_vector(part.vector_D, plan.within) for part in plan.wanted if part.vector_D is not None]
    if texts.features is not None:
        lists += [shortlist.for_text(texts.features, texts.number(text), plan.within) for text in plan.asked_texts]
    return lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists))


def scores_of(gallery: Gallery, plans: Sequence[Plan], texts: EncodedTexts, videos: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """The scores of these videos for each query [B], all of its texts in one pass over the gallery. Raises UserError if one is NaN."""
    distinct = list(dict.fromkeys(text for plan in plans for text in plan.texts))
    by_text: dict[str, NDArray[np.float32]] = {}
    if distinct:
        by_text = dict(zip(distinct, gallery.scores(texts.batch(distinct), videos), strict=True))
    for text, score_B in by_text.items():
        _require_numbers(text, score_B, gallery, videos)

    def of_part(part: Part) -> NDArray[np.float32]:
        if part.vector_D is not None:
            return nearness(gallery.videos, part.vector_D, videos, gallery.threads)
        scores = [by_text[text] for text in part.texts]
        return scores[0] if len(scores) == 1 else np.mean(np.stack(scores), axis=0, dtype=np.float32)

    return [combined(plan.parts, [of_part(part) for part in plan.parts]) for plan in plans]


def _require_numbers(text: str, score_B: NDArray[np.float32], gallery: Gallery, videos: NDArray[np.int64]) -> None:
    nan_B = np.isnan(score_B)
    if nan_B.any():
        video_id = gallery.ids[videos[int(nan_B.argmax())]]
        raise UserError(
            f"the score of {quote(text)} and video {video_id} is NaN: train the head again with a lower --lr, or, if it is untrained, "
            "extract again"
        )
