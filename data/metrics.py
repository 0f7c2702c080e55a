"""Retrieval metrics from scores and explicit answers, counted block by block.

Each text has one video that answers it (`answers`); a video may be described by several texts. The field's protocol: text to video, every
text is a query over all videos; video to text, a video's texts count as one entry with the best of their scores, ranked among the videos
that have texts. Ties are credited by expectation over their orders, so constant scores give R@K = K/N and never a perfect score.

The field counts ties otherwise, and `ties="reference"` does so too, for a figure beside a published one: a query enters once for its answer
and once for all that ties with it, at each of their ranks, so that there are more entries than queries. Only text to video with several
texts a video has an entry a query, ties in the order of the videos, and for its median rank the lower of two middle ones.

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
"""What each direction has, in the order of tables."""
RECALL_SUM = "RSum"
"""Of both directions together: see `recall_sum`."""
TEXT_TO_VIDEO, VIDEO_TO_TEXT = DIRECTIONS = ("text_to_video", "video_to_text")


@dataclass(frozen=True)
class Ranks:
    """The rank, from 1, of the answer of every query of a direction."""

    query_Q: NDArray[np.int64]
    """The queries: indices of texts, or of the videos that have texts."""
    best_Q: NDArray[np.int64]
    """The rank where the answer is the first of all that ties with it."""
    worst_Q: NDArray[np.int64]
    """And where it is the last."""

    @property
    def expected(self) -> NDArray[np.float64]:
        """The mean of the ranks that it may have."""
        return (self.best_Q + self.worst_Q) / 2

    def recall(self, k: int) -> NDArray[np.float64]:
        """The chance that the answer is among the first k: any of its ranks is equally likely."""
        recall_Q: NDArray[np.float64] = np.clip((k + 1 - self.best_Q) / (self.worst_Q - self.best_Q + 1), 0, 1)
        return recall_Q


class NanScore(ValueError):
    """A score is NaN; `text` and `video` are the indices of its pair."""

    def __init__(self, text: int, video: int) -> None:
        super().__init__(f"the score of text {text} and video {video} is NaN")
        self.text, self.video = text, video


class RankCounter:
    """Counts, for every query of both directions, the entries that score higher than its answer and those that tie with it.

    Blocks of scores may come in any order; each is looked at once, and the score of an answer is taken from its own block. What of a block
    has no known answers yet waits in memory, so blocks that hold answers should come first. All texts of a video have to be in the same
    block: for the videos' direction it is its best scores alone that wait.
    """

    def __init__(
        self, answers: Sequence[int] | NDArray[np.integer] | Tensor, videos: int, ties: Ties = "expected", rankings: int = 1
    ) -> None:
        """`answers` [A]: the index of each text's video; `videos`: how many videos there are. Raises ValueError for other indices.

        `rankings`: so many scores of each pair are ranked, each by itself.
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
        """Take the block of scores [R, A, B], or [A, B] for one ranking, between these texts and videos, given by their indices.

        Raises NanScore at a score that is NaN.
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
        # The texts of a video as one entry: the best of their scores.
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
        """Count the block for its texts if all of their answers are known."""
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
        """Count the best scores of a block for its videos if those of their own texts are all known."""
        own_RB = self._own_RB[:, videos]
        if own_RB[:, self._has_text_B[videos]].isnan().any():
            return False
        own_R1B = own_RB.to(best_RGB.dtype)[:, None]
        self._higher_RB[:, videos] += (best_RGB > own_R1B).count_nonzero(dim=1)
        self._tied_RB[:, videos] += (best_RGB == own_R1B).count_nonzero(dim=1)
        return True

    def share_answers(self, processes: ProcessGroup) -> None:
        """Take over the scores of answers that other processes found; when every block that holds answers was seen by one of them."""
        for own in (self._own_RA, self._own_RB):
            # Of each answer one process has the score; the others have NaN.
            own.masked_fill_(own.isnan(), -torch.inf)
            processes.maximum(own)
        self._own_RB[:, ~self._has_text_B] = torch.nan
        self._texts_waiting = [block for block in self._texts_waiting if not self._count_texts(*block)]
        self._videos_waiting = [block for block in self._videos_waiting if not self._count_videos(*block)]

    def share_counts(self, processes: ProcessGroup) -> None:
        """Add up what all processes counted, when every block was seen by one of them."""
        seen = torch.tensor(self._seen)
        processes.sum(seen, self._higher_RA, self._tied_RA, self._tied_before_RA, self._higher_RB, self._tied_RB)
        self._seen = int(seen)

    def ranks(self, ranking: int = 0) -> tuple[Ranks, Ranks]:
        """The ranks of both directions, text to video first, when every block was seen."""
        assert self._seen == len(self.answer_A) * len(self._has_text_B), "not every pair was scored"
        assert not self._texts_waiting
        assert not self._videos_waiting
        asking = self._has_text_B.nonzero()[:, 0]

        def ranks(query_Q: Tensor, higher_Q: Tensor, tied_Q: Tensor) -> Ranks:
            # Among the ties is the answer itself.
            return Ranks(query_Q.numpy(), (higher_Q + 1).numpy(), (higher_Q + tied_Q).numpy())

        text_to_video = ranks(torch.arange(len(self.answer_A)), self._higher_RA[ranking], self._tied_RA[ranking])
        return text_to_video, ranks(asking, self._higher_RB[ranking, asking], self._tied_RB[ranking, asking])

    def metrics(self, ranking: int = 0) -> Metrics:
        """The figures of both directions, when every block was seen: see `retrieval_metrics`."""
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
    """RSum: R@1, R@5 and R@10 of both directions together."""
    return sum(direction[name] for direction in (text_to_video, video_to_text) for name in RECALL_NAMES)


def retrieval_metrics(
    scores_AB: Tensor | NDArray[Any], answers: Sequence[int] | NDArray[np.integer] | Tensor, ties: Ties = "expected"
) -> Metrics:
    """Retrieval metrics of a whole score matrix.

    `scores_AB` [A, B]: the score of every text with every video; `answers` [A]: the index of each text's video. Returns
    {"text_to_video": {...}, "video_to_text": {...}, "RSum"} with R@1, R@5, R@10 in percent, median rank MdR and mean rank MnR (from 1).
    `ties`: credited by expectation, or as the field counts them (see the top of this file); then each direction also has "entries", their
    number. Raises ValueError if a score is NaN (NanScore) or an answer names no video.
    """
    scores_AB = torch.as_tensor(scores_AB)
    if scores_AB.ndim != 2 or len(scores_AB) != len(answers):
        raise ValueError(f"scores of shape {tuple(scores_AB.shape)} do not go with {len(answers)} answers")
    counter = RankCounter(answers, scores_AB.shape[1], ties)
    counter.update(scores_AB, torch.arange(scores_AB.shape[0]), torch.arange(scores_AB.shape[1]))
    return counter.metrics()


def summary(ranks: Ranks) -> Mapping[str, float]:
    """Metrics of one direction, ties credited by expectation."""
    recalls = {name: float(ranks.recall(k).mean()) * 100 for k, name in zip(RECALLS, RECALL_NAMES, strict=True)}
    return recalls | {MEDIAN_RANK: float(np.median(ranks.expected)), MEAN_RANK: float(ranks.expected.mean())}


def _entries(ranks: Ranks) -> Mapping[str, float]:
    """The same as the field counts it: an entry for the answer and for each entry that ties with it, at successive ranks."""
    count_Q = ranks.worst_Q - ranks.best_Q + 1
    after_first = np.arange(count_Q.sum()) - np.repeat(np.cumsum(count_Q) - count_Q, count_Q)
    rank = np.repeat(ranks.best_Q, count_Q) + after_first
    return _of_ranks(rank, float(np.median(rank)))


def _lower_median(above_Q: Tensor) -> Mapping[str, float]:
    """One entry a query; of two middle ranks the lower is the median."""
    return _of_ranks((above_Q + 1).numpy(), float(above_Q.median()) + 1)


def _of_ranks(rank: NDArray[np.int64], median: float) -> Mapping[str, float]:
    recalls = {name: float((rank <= k).mean()) * 100 for k, name in zip(RECALLS, RECALL_NAMES, strict=True)}
    return recalls | {MEDIAN_RANK: median, MEAN_RANK: float(rank.mean()), "entries": len(rank)}
