"""Metrics after correcting the scores for hubs, reported separately because such a ranking reads more than one query.

Dual softmax at inference (Cheng et al. 2021, "Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax
Loss") ranks by

    text to video   S_ab * softmax over texts a of S_ab          video to text   S_ab * softmax over videos b of S_ab

S includes the logit scale, which acts as the inverse temperature: for most CLIPs, S is 100 times a cosine. Dual softmax reads
the whole test matrix.

QB-Norm (Bogolin et al. 2022, "Cross Modal Retrieval with Querybank Normalisation") with dynamic inverted softmax corrects text
to video. If the top video of a query is also the top video of any text in the bank, the query ranks by

    exp(beta c_ab) / sum over bank texts t of exp(beta c_tb)          c = S / logit scale, beta = 20

and otherwise by S. QB-Norm reads a bank of training captions, and one query of the test split at a time.

No score matrix is kept. A first pass accumulates sums of exponentials for each text and video; a second pass ranks by the
corrected scores. The sums are kept as logarithms and rounded to float32, because the order in which blocks arrive changes their
last bits and must not decide ties.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import TextFeatures
from data.compute.processes import ProcessGroup
from data.metrics import RECALL_SUM, TEXT_TO_VIDEO, VIDEO_TO_TEXT, NanScore, RankCounter, Ties, recall_sum
from train_head.heads import Head
from train_head.scoring.pairs import Accumulator, score_all_pairs
from train_head.scoring.splits import Split

BANK_SPLIT = "train"
BETA = 20.0
"""Inverse temperature of QB-Norm on cosines, as in the paper."""

Correction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Maps retrieval scores [A, B], text indices [A] and video indices [B] to corrected scores [A, B]."""


class SoftmaxTotals:
    """Accumulates log sum exp(factor * score), over texts for each video and over videos for each text."""

    def __init__(self, texts: int, videos: int, factor: float = 1.0) -> None:
        self._factor = factor
        self._over_videos_A = torch.full((texts,), -torch.inf, dtype=torch.float64)
        self._over_texts_B = torch.full((videos,), -torch.inf, dtype=torch.float64)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Add the block."""
        score_AB = _retrieval_scores(scores_SAB, texts, videos) * self._factor
        self._over_videos_A[texts] = torch.logaddexp(self._over_videos_A[texts], score_AB.logsumexp(dim=1))
        self._over_texts_B[videos] = torch.logaddexp(self._over_texts_B[videos], score_AB.logsumexp(dim=0))

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: answers are pairs as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        for total in (self._over_videos_A, self._over_texts_B):
            total.copy_(torch.stack(processes.gather(total)).logsumexp(dim=0))

    def over_videos(self) -> Tensor:
        """The logarithm for each text [A]."""
        return self._over_videos_A.float().double()

    def over_texts(self) -> Tensor:
        """The logarithm for each video [B]."""
        return self._over_texts_B.float().double()


class FirstVideos:
    """Accumulates the video with the highest score for each text; of equal ones, the one listed first."""

    def __init__(self, texts: int) -> None:
        self._score_A = torch.full((texts,), -torch.inf, dtype=torch.float64)
        self.video_A = torch.full((texts,), -1, dtype=torch.int64)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take the block into account."""
        score_A, place_A = _retrieval_scores(scores_SAB, texts, videos).max(dim=1)
        # The videos of a block ascend, and max returns the first of equal scores.
        video_A = videos[place_A]
        better_A = (score_A > self._score_A[texts]) | ((score_A == self._score_A[texts]) & (video_A < self.video_A[texts]))
        self._score_A[texts[better_A]], self.video_A[texts[better_A]] = score_A[better_A], video_A[better_A]

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: answers are pairs as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        # Video indices ascend with the rank of the process, and on a CPU max returns the first of equal scores.
        self._score_A, first = torch.stack(processes.gather(self._score_A)).max(dim=0)
        self.video_A = torch.stack(processes.gather(self.video_A)).gather(0, first[None])[0]


class CorrectedScore:
    """Accumulates ranks by corrected retrieval scores."""

    def __init__(self, counter: RankCounter, correct: Correction) -> None:
        self.counter, self._correct = counter, correct

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Count the block."""
        self.counter.update(self._correct(_retrieval_scores(scores_SAB, texts, videos), texts, videos), texts, videos)

    def share_answers(self, processes: ProcessGroup) -> None:
        self.counter.share_answers(processes)

    def share_counts(self, processes: ProcessGroup) -> None:
        self.counter.share_counts(processes)


class PostProcessing:
    """Computes the requested post-processed metrics. If none are requested, it accumulates and scores nothing."""

    def __init__(self, head: Head, split: Split, with_dual_softmax: bool, bank: TextFeatures | None, ties: Ties) -> None:
        """`bank`: captions for QB-Norm; None skips it."""
        self._head, self._split, self._bank, self._ties = head, split, bank, ties
        texts, videos = len(split.answers), len(split.videos.ids)
        self._totals = SoftmaxTotals(texts, videos) if with_dual_softmax else None
        self._firsts = FirstVideos(texts) if bank is not None else None
        self.accumulators: list[Accumulator] = [one for one in (self._totals, self._firsts) if one is not None]
        """Accumulators that must see all pairs of the split before `rows` is called."""

    def rows(self, memory_budget: int, quiet: bool, processes: ProcessGroup) -> list[dict[str, Any]]:
        """The metrics of each ranking, and what it reads. Scores all pairs once more, and the bank with all videos."""
        texts_ranked, videos_ranked, bank_ranked = (self._counter() for _ in range(3))
        second: list[Accumulator] = []
        if self._totals is not None:
            second.append(CorrectedScore(texts_ranked, dual_softmax(self._totals, "text_to_video")))
            second.append(CorrectedScore(videos_ranked, dual_softmax(self._totals, "video_to_text")))
        share = 0.0
        if self._bank is not None and self._firsts is not None:
            correction, share = self._read_bank(self._bank, self._firsts, memory_budget, quiet, processes)
            second.append(CorrectedScore(bank_ranked, correction))
        if second:
            split = self._split
            score_all_pairs(
                self._head, split.texts, split.videos, split.answers, second, memory_budget, quiet, "scoring once more", processes
            )
        rows: list[dict[str, Any]] = []
        if self._totals is not None:
            figures = {
                TEXT_TO_VIDEO: texts_ranked.metrics()[TEXT_TO_VIDEO],
                VIDEO_TO_TEXT: videos_ranked.metrics()[VIDEO_TO_TEXT],
            }
            reads = "the whole test matrix (all queries of the split at once)"
            rows.append({"name": "dual softmax", "reads": reads, **figures, RECALL_SUM: recall_sum(**figures)})
        if self._bank is not None:
            count = len(self._bank.texts)
            reads = f"{count:,} training captions, and one query of the split at a time"
            row = {"name": f"QB-Norm, {count:,} captions", "reads": reads, "beta": BETA, "queries_corrected": share}
            rows.append({**row, TEXT_TO_VIDEO: bank_ranked.metrics()[TEXT_TO_VIDEO]})
        return rows

    def _counter(self) -> RankCounter:
        return RankCounter(self._split.answers, len(self._split.videos.ids), self._ties)

    def _read_bank(
        self, bank: TextFeatures, firsts: FirstVideos, memory_budget: int, quiet: bool, processes: ProcessGroup
    ) -> tuple[Correction, float]:
        scale = self._head.scale().item()
        totals = SoftmaxTotals(len(bank.texts), len(self._split.videos.ids), BETA / scale)
        bank_firsts = FirstVideos(len(bank.texts))
        score_all_pairs(
            self._head, bank, self._split.videos, None, [totals, bank_firsts], memory_budget, quiet, "scoring the query bank", processes
        )
        return dynamic_inverted_softmax(totals, bank_firsts, firsts, scale)


def dual_softmax(totals: SoftmaxTotals, direction: Literal["text_to_video", "video_to_text"]) -> Correction:
    """The dual-softmax correction of one direction; `totals` have seen all pairs of the split."""
    over_texts_B, over_videos_A = totals.over_texts(), totals.over_videos()

    def correct(score_AB: Tensor, texts: Tensor, videos: Tensor) -> Tensor:
        total = over_texts_B[videos] if direction == "text_to_video" else over_videos_A[texts, None]
        return score_AB * (score_AB - total).exp()

    return correct


def dynamic_inverted_softmax(
    bank: SoftmaxTotals, bank_firsts: FirstVideos, firsts: FirstVideos, logit_scale: float
) -> tuple[Correction, float]:
    """QB-Norm's correction, and the fraction of queries that it applies to.

    `bank`: sums of exp(BETA * score / logit scale) over the bank; `bank_firsts` and `firsts`: the top videos of the bank's texts
    and of the queries.
    """
    over_bank_B = bank.over_texts()
    hub_B = torch.zeros(len(over_bank_B), dtype=torch.bool)
    hub_B[bank_firsts.video_A] = True
    active_A = hub_B[firsts.video_A]

    def correct(score_AB: Tensor, texts: Tensor, videos: Tensor) -> Tensor:
        # The logarithm of the fraction ranks in the same order. Each query uses one of the two formulas for all videos.
        return torch.where(active_A[texts, None], score_AB * (BETA / logit_scale) - over_bank_B[videos], score_AB)

    return correct, float(active_A.double().mean())


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


def _retrieval_scores(scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> Tensor:
    """The mean of the head's scores [A, B], as float64 on the CPU. Raises NanScore if one is NaN."""
    score_AB = scores_SAB.detach().mean(dim=0).cpu().double()
    if score_AB.isnan().any():
        a, b = score_AB.isnan().nonzero()[0].tolist()
        raise NanScore(int(texts[a]), int(videos[b]))
    return score_AB
