"""Every score of a head, kept.

Shape suffixes: S scores of the head, A texts, B videos.
"""

from typing import Any

import torch
from torch import Tensor

from train_head.heads import Head
from train_head.scoring.pairs import Unshared, score_all_pairs
from train_head.scoring.splits import Split


class AllScores(Unshared):
    """An accumulator that keeps all scores, each of which may come once."""

    def __init__(self, scores: int, texts: int, videos: int) -> None:
        self.score_SAB = torch.full((scores, texts, videos), torch.nan)
        self.mean_AB = torch.full((texts, videos), torch.nan)
        """The retrieval scores as means of blocks: a mean of the whole may have other last bits."""

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        assert self.mean_AB[texts[:, None], videos].isnan().all(), "a pair was scored twice"
        self.score_SAB[:, texts[:, None], videos] = scores_SAB
        self.mean_AB[texts[:, None], videos] = scores_SAB.mean(dim=0)


def all_scores(head: Head, split: Split, texts: Any = None, memory_budget: int = 2**30) -> AllScores:
    """The scores of the texts of a split, or of others, with its videos."""
    asked = split.texts if texts is None else texts
    kept = AllScores(len(head.score_names()), len(asked.texts), len(split.videos.ids))
    score_all_pairs(head, asked, split.videos, split.answers if texts is None else None, [kept], memory_budget)
    assert not kept.score_SAB.isnan().any()
    return kept
