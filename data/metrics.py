"""Retrieval metrics from scores and ground truth, computed block by block.

Each text has one correct video, its answer; a video may be described by several texts. The field's protocol: text to video, every text is
a query over all videos. Video to text, the texts of a video count as one entry with the best of their scores, ranked among the videos that
have texts. Ties get their expected credit over all orders, so constant scores give R@K = K/N and never a perfect score.

Published code counts ties differently, and `ties="reference"` reproduces that, for figures to compare with published ones. There, a query
counts once for its answer and once for each entry that ties with it, at successive ranks, so there are more counts than queries. The
exception is text to video if some video has several texts: each query counts once, ties are ranked in the order of the videos, and the
median rank is the lower of the two middle ranks.

Shape suffixes: A texts, B videos, G videos of a block that have texts, Q queries, R rankings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.compute.processes import ProcessGroup

Metrics = dict[str, Any]
Ties = Literal["expected", "reference"]

RECALLS = (1, 5, 10)
RECALL_NAMES = tuple(f"R@{k}" for k in RECALLS)
MEDIAN_RANK, MEAN_RANK = "MdR", "MnR"
FIGURES = (*RECALL_NAMES, MEDIAN_RANK, MEAN_RANK)
"""The metrics of each direction, in the order of tables."""
RECALL_SUM = "RSum"
"""The metric of both directions: see `recall_sum`."""
TEXT_TO_VIDEO, VIDEO_TO_TEXT = DIRECTIONS = ("text_to_video", "video_to_text")


@dataclass(frozen=True)
class Ranks:
    """The rank, from 1, of the answer to every query of one direction."""

    query_Q: NDArray[np.int64]
    """The queries: indices of texts, or of the videos that have texts."""
    best_Q: NDArray[np.int64]
    """The rank if the answer comes first among its ties."""
    worst_Q: NDArray[np.int64]
    """The rank if the answer comes last among its ties."""

    @property
    def expected(self) -> NDArray[np.float64]:
        """The expected rank: the mean over all orders of the ties."""
        return (self.best_Q + self.worst_Q) / 2

    def recall(self, k: int) -> NDArray[np.float64]:
        """The probability that the answer is among the first k, with all orders of the ties equally likely."""
        recall_Q: NDArray[np.float64] = np.clip((k + 1 - self.best_Q) / (self.worst_Q - self.best_Q + 1), 0, 1)
        return recall_Q


class NanScore(ValueError):
    """A score is NaN; `text` and `video` are the indices of its pair."""

    def __init__(self, text: int, video: int) -> None:
        super().__init__(f"the score of text {text} and video {video} is NaN")
        self.text, self.video = text, video


class RankCounter:
    """Counts, for every query of both directions, the entries that score higher than the answer and those that tie with it.

    Blocks of scores may arrive in any order, each once. The score of an answer comes from its own block. A block whose queries have unknown
    answer scores waits in memory, so blocks that hold answers should come first. All texts of a video must be in the same block, so that in
    the video-to-text direction only their best score has to wait.
    """

    def __init__(
        self, answers: Sequence[int] | NDArray[np.integer] | Tensor, videos: int, ties: Ties = "expected", rankings: int = 1
    ) -> None:
        """answers: [A], the index of each text's video.
        videos: the number of videos, B.
        rankings: the number of scores per pair, R; each is ranked separately.

        Raises ValueError if there are no texts or an index is out of range.
        """
        self.ties = ties
        answer_A = torch.tensor(np.asarray(answers, dtype=np.int64)).reshape(-1)
        if len(answer_A) == 0:
            raise ValueError("there are no texts to rank")
        if answer_A.min() < 0 or answer_A.max() >= videos:
            raise ValueError(f"answers name videos outside of 0 to {videos - 1}")
        self.answer_A = answer_A
        self._texts_of_video_B = torch.bincount(answer_A, minlength=videos)
        self._has_text_B = self._texts_of_video_B > 0
        self._own_RA = torch.full((rankings, len(answer_A)), float("nan"), dtype=torch.float64)
        self._own_RB = torch.full((rankings, videos), float("nan"), dtype=torch.float64)
        self._higher_RA, self._tied_RA, self._tied_before_RA = (torch.zeros(self._own_RA.shape, dtype=torch.int64) for _ in range(3))
        self._higher_RB, self._tied_RB = (torch.zeros(self._own_RB.shape, dtype=torch.int64) for _ in range(2))
        self._texts_waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._videos_waiting: list[tuple[Tensor, Tensor]] = []
        self._seen = 0

    def update(self, scores_RAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Add a block of scores, [R, A, B] or [A, B] for one ranking, of the texts and videos with these indices, [A] and [B].

        Raises NanScore if a score is NaN.
        """
        scores_RAB = scores_RAB.detach().cpu()
        if scores_RAB.ndim == 2:
            scores_RAB = scores_RAB[None]
        if scores_RAB.isnan().any():
            _, a, b = scores_RAB.isnan().nonzero()[0].tolist()
            raise NanScore(int(texts[a]), int(videos[b]))
        answer_A = self.answer_A[texts]
        by_owner = answer_A.argsort(stable=True)
        owner_G, count_G = answer_A[by_owner].unique_consecutive(return_counts=True)
        assert bool((self._texts_of_video_B[owner_G] == count_G).all()), "the texts of a video are split between blocks"
        # The texts of a video count as one entry with their best score.
        first_G = (count_G.cumsum(0) - count_G).numpy()
        best_RGB = torch.from_numpy(np.maximum.reduceat(scores_RAB[:, by_owner].numpy(), first_G, axis=1))
        rows, columns = (answer_A[:, None] == videos).nonzero(as_tuple=True)
        self._own_RA[:, texts[rows]] = scores_RAB[:, rows, columns].double()
        rows, columns = (owner_G[:, None] == videos).nonzero(as_tuple=True)
        self._own_RB[:, videos[columns]] = best_RGB[:, rows, columns].double()
        self._seen += scores_RAB[0].numel()
        self._texts_waiting.append((scores_RAB, texts, videos))
        self._videos_waiting.append((best_RGB, videos))
        self._texts_waiting = [block for block in self._texts_waiting if not self._count_texts(*block)]
        self._videos_waiting = [block for block in self._videos_waiting if not self._count_videos(*block)]

    def _count_texts(self, scores_RAB: Tensor, texts: Tensor, videos: Tensor) -> bool:
        """Count the block for its texts if the scores of all their answers are known."""
        own_RA = self._own_RA[:, texts]
        if own_RA.isnan().any():
            return False
        own_RA1 = own_RA.to(scores_RAB.dtype)[..., None]
        self._higher_RA[:, texts] += (scores_RAB > own_RA1).count_nonzero(dim=2)
        tied_RAB = scores_RAB == own_RA1
        self._tied_RA[:, texts] += tied_RAB.count_nonzero(dim=2)
        if self.ties == "reference":
            self._tied_before_RA[:, texts] += (tied_RAB & (videos < self.answer_A[texts][:, None])).count_nonzero(dim=2)
        return True

    def _count_videos(self, best_RGB: Tensor, videos: Tensor) -> bool:
        """Count a block's best scores for its videos if the best scores of the videos' own texts are all known."""
        own_RB = self._own_RB[:, videos]
        if own_RB[:, self._has_text_B[videos]].isnan().any():
            return False
        own_R1B = own_RB.to(best_RGB.dtype)[:, None]
        self._higher_RB[:, videos] += (best_RGB > own_R1B).count_nonzero(dim=1)
        self._tied_RB[:, videos] += (best_RGB == own_R1B).count_nonzero(dim=1)
        return True

    def share_answers(self, processes: ProcessGroup) -> None:
        """Exchange the scores of answers. Call this when every block that holds answers has been seen by some process."""
        for own in (self._own_RA, self._own_RB):
            # One process has the score of an answer; the others have NaN.
            own.masked_fill_(own.isnan(), -torch.inf)
            processes.maximum(own)
        self._own_RB[:, ~self._has_text_B] = torch.nan
        self._texts_waiting = [block for block in self._texts_waiting if not self._count_texts(*block)]
        self._videos_waiting = [block for block in self._videos_waiting if not self._count_videos(*block)]

    def share_counts(self, processes: ProcessGroup) -> None:
        """Sum the counts of all processes. Call this when every block has been seen by one of them."""
        seen = torch.tensor(self._seen)
        processes.sum(seen, self._higher_RA, self._tied_RA, self._tied_before_RA, self._higher_RB, self._tied_RB)
        self._seen = int(seen)

    def ranks(self, ranking: int = 0) -> tuple[Ranks, Ranks]:
        """The ranks of both directions, text to video first. Call this when every block has been seen."""
        assert self._seen == len(self.answer_A) * len(self._has_text_B), "not every pair was scored"
        assert not self._texts_waiting
        assert not self._videos_waiting
        asking = self._has_text_B.nonzero()[:, 0]

        def ranks(query_Q: Tensor, higher_Q: Tensor, tied_Q: Tensor) -> Ranks:
            # The ties include the answer itself.
            return Ranks(query_Q.numpy(), (higher_Q + 1).numpy(), (higher_Q + tied_Q).numpy())

        text_to_video = ranks(torch.arange(len(self.answer_A)), self._higher_RA[ranking], self._tied_RA[ranking])
        return text_to_video, ranks(asking, self._higher_RB[ranking, asking], self._tied_RB[ranking, asking])

    def metrics(self, ranking: int = 0) -> Metrics:
        """The metrics of both directions: see `retrieval_metrics`. Call this when every block has been seen."""
        ranks = self.ranks(ranking)
        if self.ties == "expected":
            text_to_video, video_to_text = map(summary, ranks)
        else:
            several = bool((self._texts_of_video_B > 1).any())
            placed_A = self._higher_RA[ranking] + self._tied_before_RA[ranking]
            text_to_video = _lower_median(placed_A) if several else _entries(ranks[0])
            video_to_text = _entries(ranks[1])
        return {TEXT_TO_VIDEO: text_to_video, VIDEO_TO_TEXT: video_to_text, RECALL_SUM: recall_sum(text_to_video, video_to_text)}


def recall_sum(text_to_video: Mapping[str, float], video_to_text: Mapping[str, float]) -> float:
    """RSum: the sum of R@1, R@5 and R@10 over both directions."""
    return sum(direction[name] for direction in (text_to_video, video_to_text) for name in RECALL_NAMES)


def retrieval_metrics(
    scores_AB: Tensor | NDArray[Any], answers: Sequence[int] | NDArray[np.integer] | Tensor, ties: Ties = "expected"
) -> Metrics:
    """Retrieval metrics of a score matrix.

    scores_AB: [A, B], the score of every text with every video.
    answers: [A], the index of each text's video.
    ties: "expected" credit, or "reference" to count as published code does (see the top of this file). With "reference", each direction
        also has "entries", the number of counted ranks.

    Returns {"text_to_video": {...}, "video_to_text": {...}, "RSum": ...}. Each direction has R@1, R@5, R@10 in percent, the median rank MdR
    and the mean rank MnR; ranks start at 1.

    >>> scores_AB = torch.tensor([[0.9, 0.1], [0.8, 0.3]])  # the second text prefers the wrong video
    >>> retrieval_metrics(scores_AB, answers=[0, 1])["text_to_video"]
    {'R@1': 50.0, 'R@5': 100.0, 'R@10': 100.0, 'MdR': 1.5, 'MnR': 1.5}

    Raises ValueError if a score is NaN (NanScore), if the shapes do not match, or if an answer is out of range.
    """
    if not isinstance(scores_AB, Tensor):
        # Torch warns of an array that it may not write to, such as one of a file mapped for reading.
        scores_AB = torch.from_numpy(np.require(scores_AB, requirements="W"))
    if scores_AB.ndim != 2 or len(scores_AB) != len(answers):
        raise ValueError(f"scores of shape {tuple(scores_AB.shape)} do not match {len(answers)} answers")
    counter = RankCounter(answers, scores_AB.shape[1], ties)
    counter.update(scores_AB, torch.arange(scores_AB.shape[0]), torch.arange(scores_AB.shape[1]))
    return counter.metrics()


def summary(ranks: Ranks) -> Mapping[str, float]:
    """Metrics of one direction, with expected credit for ties."""
    recalls = {name: float(ranks.recall(k).mean()) * 100 for k, name in zip(RECALLS, RECALL_NAMES, strict=True)}
    return recalls | {MEDIAN_RANK: float(np.median(ranks.expected)), MEAN_RANK: float(ranks.expected.mean())}


def _entries(ranks: Ranks) -> Mapping[str, float]:
    """Metrics as published code counts them: once for the answer and once for each of its ties, at successive ranks."""
    count_Q = ranks.worst_Q - ranks.best_Q + 1
    after_first = np.arange(count_Q.sum()) - np.repeat(np.cumsum(count_Q) - count_Q, count_Q)
    rank = np.repeat(ranks.best_Q, count_Q) + after_first
    return _of_ranks(rank, float(np.median(rank)))


def _lower_median(above_Q: Tensor) -> Mapping[str, float]:
    """Metrics with one rank per query; the median is the lower of two middle ranks."""
    return _of_ranks((above_Q + 1).numpy(), float(above_Q.median()) + 1)


def _of_ranks(rank: NDArray[np.int64], median: float) -> Mapping[str, float]:
    recalls = {name: float((rank <= k).mean()) * 100 for k, name in zip(RECALLS, RECALL_NAMES, strict=True)}
    return recalls | {MEDIAN_RANK: median, MEAN_RANK: float(rank.mean()), "entries": len(rank)}
