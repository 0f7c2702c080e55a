"""Figures after the scores are corrected for hubs, in rows of their own: such a ranking reads more than one query and the gallery.

Dual softmax (Cheng et al. 2021, "Improving Video-Text Retrieval by Multi-Stream Corpus Alignment and Dual Softmax Loss"), when scoring:

    text to video   S_ab * softmax over texts a of S_ab          video to text   S_ab * softmax over videos b of S_ab

S holds the logit scale, which is the temperature of both: 100 times a cosine for most CLIPs. It reads the whole test matrix.

QB-Norm (Bogolin et al. 2022, "Cross Modal Retrieval with Querybank Normalisation") with its dynamic inverted softmax, text to video: a
query whose first video is also first for some text of the bank ranks by

    exp(beta c_ab) / sum over texts t of the bank of exp(beta c_tb)          c = S / logit scale, beta = 20

and any other by S. It reads a bank of training captions, and of the test split one query at a time.

No score matrix is kept. A first pass leaves sums of exponentials for each text and video, a second one ranks by the corrected scores.
The sums are kept as logarithms, rounded to float32: the order in which blocks arrive changes their last bits, and must not decide ties.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from data.cache.features import TextFeatures
from data.compute.processes import ProcessGroup
from data.metrics import RECALL_SUM, TEXT_TO_VIDEO, VIDEO_TO_TEXT, NanScore, RankCounter, Ties, recall_sum
from train_head.heads import Head
from train_head.scoring.pairs import Accumulator, score_all_pairs
from train_head.scoring.splits import Split

BETA = 20.0
"""Inverse temperature of QB-Norm on cosines, the paper's."""

Correction = Callable[[Tensor, Tensor, Tensor], Tensor]
"""From retrieval scores [A, B] between these texts [A] and videos [B], by their indices, to what ranks them."""


class SoftmaxTotals:
    """An accumulator of the logarithms of the sums of exp(factor * score): over texts for each video, over videos for each text."""

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
    """An accumulator of the video with the highest score for each text, of equal ones the one listed first."""

    def __init__(self, texts: int) -> None:
        self._score_A = torch.full((texts,), -torch.inf, dtype=torch.float64)
        self.video_A = torch.full((texts,), -1, dtype=torch.int64)

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Look at the block."""
        score_A, place_A = _retrieval_scores(scores_SAB, texts, videos).max(dim=1)
        # Videos of a block ascend, and max gives the first of equal ones.
        video_A = videos[place_A]
        better_A = (score_A > self._score_A[texts]) | ((score_A == self._score_A[texts]) & (video_A < self.video_A[texts]))
        self._score_A[texts[better_A]], self.video_A[texts[better_A]] = score_A[better_A], video_A[better_A]

    def share_answers(self, processes: ProcessGroup) -> None:
        """Nothing: answers are pairs as others here."""

    def share_counts(self, processes: ProcessGroup) -> None:
        # Videos ascend with the processes, and max gives the first of equal ones on a CPU.
        self._score_A, first = torch.stack(processes.gather(self._score_A)).max(dim=0)
        self.video_A = torch.stack(processes.gather(self.video_A)).gather(0, first[None])[0]


class CorrectedScore:
    """An accumulator that ranks by corrected retrieval scores."""

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
    """The rows that were asked for; without any, nothing is accumulated or scored."""

    def __init__(self, head: Head, split: Split, with_dual_softmax: bool, bank: TextFeatures | None, ties: Ties) -> None:
        """`bank`: captions for QB-Norm, None to leave it out."""
        self._head, self._split, self._bank, self._ties = head, split, bank, ties
        texts, videos = len(split.answers), len(split.videos.ids)
        self._totals = SoftmaxTotals(texts, videos) if with_dual_softmax else None
        self._firsts = FirstVideos(texts) if bank is not None else None
        self.accumulators: list[Accumulator] = [one for one in (self._totals, self._firsts) if one is not None]
        """What has to see all pairs of the split before `rows`."""

    def rows(self, memory_budget: int, quiet: bool, processes: ProcessGroup) -> list[dict[str, Any]]:
        """The figures, with what each ranking reads; all pairs are scored once more, and the bank against the gallery."""
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
            reads = "the whole test matrix: all queries of the split at once"
            rows.append({"name": "dual softmax", "reads": reads, **figures, RECALL_SUM: recall_sum(**figures)})
        if self._bank is not None:
            count = len(self._bank.texts)
            reads = f"{count:,} training captions, and of the split one query at a time"
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
    """The correction of one direction, from the sums over all pairs of the split."""
    over_texts_B, over_videos_A = totals.over_texts(), totals.over_videos()

    def correct(score_AB: Tensor, texts: Tensor, videos: Tensor) -> Tensor:
        total = over_texts_B[videos] if direction == "text_to_video" else over_videos_A[texts, None]
        return score_AB * (score_AB - total).exp()

    return correct


def dynamic_inverted_softmax(
    bank: SoftmaxTotals, bank_firsts: FirstVideos, firsts: FirstVideos, logit_scale: float
) -> tuple[Correction, float]:
    """QB-Norm's correction and the share of queries that it changes.

    `bank`: sums over the bank of exp(BETA * score / logit scale); `bank_firsts`, `firsts`: of the bank's texts and of the queries.
    """
    over_bank_B = bank.over_texts()
    hub_B = torch.zeros(len(over_bank_B), dtype=torch.bool)
    hub_B[bank_firsts.video_A] = True
    active_A = hub_B[firsts.video_A]

    def correct(score_AB: Tensor, texts: Tensor, videos: Tensor) -> Tensor:
        # Of the fraction the logarithm, which ranks alike: a query is ranked by one of the two throughout.
        return torch.where(active_A[texts, None], score_AB * (BETA / logit_scale) - over_bank_B[videos], score_AB)

    return correct, float(active_A.double().mean())


def _retrieval_scores(scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> Tensor:
    """The mean of the scores, as float64 on the CPU. Raises NanScore."""
    score_AB = scores_SAB.detach().mean(dim=0).cpu().double()
    if score_AB.isnan().any():
        a, b = score_AB.isnan().nonzero()[0].tolist()
        raise NanScore(int(texts[a]), int(videos[b]))
    return score_AB
