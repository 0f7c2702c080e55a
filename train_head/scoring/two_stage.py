"""Two stages of scoring a split: a first head scores all pairs and hands on its best, and a second one scores these.

Shape suffixes: A texts, B videos, K candidates, P pairs.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup
from data.metrics import DIRECTIONS, RECALL_SUM, Metrics, RankCounter, Ranks, recall_sum, summary
from train_head.heads import Head
from train_head.scoring.candidates import CandidateCollector, Candidates
from train_head.scoring.pairs import Accumulator, RankedScores, score_all_pairs
from train_head.scoring.ranks import two_stage_ranks
from train_head.scoring.rerank import Pairs
from train_head.scoring.splits import Split


@dataclass(frozen=True)
class FirstPass:
    """What the first stage says of a split: the ranks of both directions, text to video first, and the candidates."""

    answers: NDArray[np.int64]
    videos: int
    """Number of videos."""
    ranks: tuple[Ranks, Ranks]
    candidates: Candidates

    @classmethod
    def of(
        cls, head: Head, split: Split, k: int, memory_budget: int, quiet: bool = True, processes: ProcessGroup | None = None
    ) -> "FirstPass":
        """Score all pairs of the split with the first head, and keep the K best of every query."""
        texts, videos = len(split.answers), len(split.videos.ids)
        counter, collector = RankCounter(split.answers, videos), CandidateCollector(texts, videos, k)
        accumulators: list[Accumulator] = [RankedScores(counter), collector]
        score_all_pairs(
            head, split.texts, split.videos, split.answers, accumulators, memory_budget, quiet, f"first stage, {split.name}", processes
        )
        return cls(split.answers, videos, counter.ranks(), collector.candidates())

    @cached_property
    def pairs(self) -> Pairs:
        """The pairs that the second stage scores: every query with its candidates, each pair once."""
        texts, videos = self._text_queries(), self._video_queries()
        return Pairs.of(
            np.concatenate([texts.ravel(), self.candidates.text_BK.ravel()]),
            np.concatenate([self.candidates.video_AK.ravel(), videos.ravel()]),
            self.videos,
        )

    def metrics(self, score_P: Tensor | None = None) -> Metrics:
        """The metrics of both directions with the scores of `pairs` by the second stage, or those of the first stage alone."""
        ranks = self.ranks if score_P is None else self.reranked(score_P)
        text_to_video, video_to_text = map(summary, ranks)
        return {**dict(zip(DIRECTIONS, (text_to_video, video_to_text), strict=True)), RECALL_SUM: recall_sum(text_to_video, video_to_text)}

    def reranked(self, score_P: Tensor) -> tuple[Ranks, Ranks]:
        """The ranks of both directions with the scores of `pairs` by the second stage."""
        of_texts, of_videos = self.ranks
        video_AK, text_BK, asking = self.candidates.video_AK, self.candidates.text_BK, of_videos.query_Q
        score_AK = score_P[self.pairs.places(self._text_queries(), video_AK)].numpy()
        score_BK = score_P[self.pairs.places(text_BK, self._video_queries())].numpy()
        return (
            two_stage_ranks(of_texts, video_AK, score_AK, self.answers),
            two_stage_ranks(of_videos, self.answers[text_BK[asking]], score_BK[asking], asking),
        )

    def _text_queries(self) -> NDArray[np.int64]:
        """The text of each candidate video [A, K]."""
        return np.broadcast_to(np.arange(len(self.answers))[:, None], self.candidates.video_AK.shape)

    def _video_queries(self) -> NDArray[np.int64]:
        """The video of each candidate text [B, K]."""
        return np.broadcast_to(np.arange(self.videos)[:, None], self.candidates.text_BK.shape)
