"""Retrieval metrics from scores and explicit answers, counted block by block.

Each text has one video that answers it (`answers`); a video may be described by several texts. The field's protocol: text to video, every
text is a query over all videos; video to text, a video's texts count as one entry with the best of their scores, ranked among the videos
that have texts. Ties are credited by expectation over their orders, so constant scores give R@K = K/N and never a perfect score.

The field counts ties otherwise, and `ties="reference"` does so too, for a figure beside a published one: a query enters once for its answer
and once for all that ties with it, at each of their ranks, so that there are more entries than queries. Only text to video with several
texts a video has an entry a query, ties in the order of the videos, and for its median rank the lower of two middle ones.

Shape suffixes: A texts, B videos, G videos of a block that have texts, Q queries.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.processes import ProcessGroup

Metrics = dict[str, Any]
Ties = Literal["expected", "reference"]

RECALLS = (1, 5, 10)


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

    def __init__(self, answers: Sequence[int] | NDArray[np.integer] | Tensor, videos: int, ties: Ties = "expected") -> None:
        """`answers` [A]: the index of each text's video; `videos`: how many videos there are. Raises ValueError for other indices."""
        self.ties = ties
        answer_A = torch.tensor(np.asarray(answers, dtype=np.int64)).reshape(-1)
        if len(answer_A) == 0:
            raise ValueError("there are no texts to rank")
        if answer_A.min() < 0 or answer_A.max() >= videos:
            raise ValueError(f"answers name videos outside of 0 to {videos - 1}")
        self.answer_A = answer_A
        self._own_A = torch.full((len(answer_A),), float("nan"), dtype=torch.float64)
        self._own_B = torch.full((videos,), float("nan"), dtype=torch.float64)
        self._has_text_B = torch.zeros(videos, dtype=torch.bool)
        self._has_text_B[answer_A] = True
        self._higher_A, self._tied_A, self._tied_before_A = (torch.zeros(len(answer_A), dtype=torch.int64) for _ in range(3))
        self._higher_B, self._tied_B = (torch.zeros(videos, dtype=torch.int64) for _ in range(2))
        self._texts_waiting: list[tuple[Tensor, Tensor, Tensor]] = []
        self._videos_waiting: list[tuple[Tensor, Tensor]] = []
        self._texts_of_video_B = torch.bincount(answer_A, minlength=videos)
        self._seen = 0

    def update(self, scores_AB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take the block of scores between these texts and videos, given by their indices. Raises NanScore at a score that is NaN."""
        scores_AB = scores_AB.detach().cpu()
        if scores_AB.isnan().any():
            a, b = scores_AB.isnan().nonzero()[0].tolist()
            raise NanScore(int(texts[a]), int(videos[b]))
        answer_A = self.answer_A[texts]
        owner_G, group_A, count_G = answer_A.unique(return_inverse=True, return_counts=True)
        assert bool((self._texts_of_video_B[owner_G] == count_G).all()), "the texts of a video are split between blocks"
        # The texts of a video as one entry: the best of their scores.
        best_GB = torch.full((len(owner_G), len(videos)), -torch.inf, dtype=scores_AB.dtype)
        best_GB = best_GB.scatter_reduce(0, group_A[:, None].expand_as(scores_AB), scores_AB, "amax")
        rows, columns = (answer_A[:, None] == videos).nonzero(as_tuple=True)
        self._own_A[texts[rows]] = scores_AB[rows, columns].double()
        rows, columns = (owner_G[:, None] == videos).nonzero(as_tuple=True)
        self._own_B[videos[columns]] = best_GB[rows, columns].double()
        self._seen += scores_AB.numel()
        self._texts_waiting.append((scores_AB, texts, videos))
        self._videos_waiting.append((best_GB, videos))
        self._texts_waiting = [block for block in self._texts_waiting if not self._count_texts(*block)]
        self._videos_waiting = [block for block in self._videos_waiting if not self._count_videos(*block)]

    def _count_texts(self, scores_AB: Tensor, texts: Tensor, videos: Tensor) -> bool:
        """Count the block for its texts if all of their answers are known."""
        own_A = self._own_A[texts]
        if own_A.isnan().any():
            return False
        self._higher_A[texts] += (scores_AB > own_A[:, None]).sum(dim=1)
        tied_AB = scores_AB == own_A[:, None]
        self._tied_A[texts] += tied_AB.sum(dim=1)
        if self.ties == "reference":
            self._tied_before_A[texts] += (tied_AB & (videos < self.answer_A[texts][:, None])).sum(dim=1)
        return True

    def _count_videos(self, best_GB: Tensor, videos: Tensor) -> bool:
        """Count the best scores of a block for its videos if those of their own texts are all known."""
        own_B = self._own_B[videos]
        if own_B[self._has_text_B[videos]].isnan().any():
            return False
        self._higher_B[videos] += (best_GB > own_B).sum(dim=0)
        self._tied_B[videos] += (best_GB == own_B).sum(dim=0)
        return True

    def share_answers(self, processes: ProcessGroup) -> None:
        """Take over the scores of answers that other processes found; when every block that holds answers was seen, by one of them."""
        own_A, own_B = (own.nan_to_num(nan=-torch.inf, neginf=-torch.inf, posinf=torch.inf) for own in (self._own_A, self._own_B))
        processes.maximum(own_A, own_B)
        self._own_A, self._own_B = own_A, own_B.masked_fill(~self._has_text_B, torch.nan)
        self._texts_waiting = [block for block in self._texts_waiting if not self._count_texts(*block)]
        self._videos_waiting = [block for block in self._videos_waiting if not self._count_videos(*block)]

    def share_counts(self, processes: ProcessGroup) -> None:
        """Add up what all processes counted, when every block was seen by one of them."""
        seen = torch.tensor(self._seen)
        processes.sum(seen, self._higher_A, self._tied_A, self._tied_before_A, self._higher_B, self._tied_B)
        self._seen = int(seen)

    def metrics(self) -> Metrics:
        """The figures of both directions, when every block was seen: see `retrieval_metrics`."""
        assert self._seen == len(self._own_A) * len(self._own_B), "not every pair was scored"
        assert not self._texts_waiting
        assert not self._videos_waiting
        asking = self._has_text_B
        # Among the ties is the answer itself.
        tied_A, tied_B = self._tied_A - 1, self._tied_B[asking] - 1
        higher_B = self._higher_B[asking]
        if self.ties == "expected":
            text_to_video, video_to_text = summary(self._higher_A, tied_A), summary(higher_B, tied_B)
        else:
            several = bool((self._texts_of_video_B > 1).any())
            text_to_video = _lower_median(self._higher_A + self._tied_before_A) if several else _entries(self._higher_A, tied_A)
            video_to_text = _entries(higher_B, tied_B)
        recalls = [f"R@{k}" for k in RECALLS]
        return {
            "text_to_video": text_to_video,
            "video_to_text": video_to_text,
            "RSum": sum(direction[name] for direction in (text_to_video, video_to_text) for name in recalls),
        }


def retrieval_metrics(
    scores_AB: Tensor | NDArray[Any], answers: Sequence[int] | NDArray[np.integer] | Tensor, ties: Ties = "expected"
) -> Metrics:
    """Retrieval metrics of a whole score matrix.

    `scores_AB` [A, B]: the score of every text with every video; `answers` [A]: the index of each text's video. Returns
    {"text_to_video": {...}, "video_to_text": {...}, "RSum"} with R@1, R@5, R@10 in percent, median rank MdR and mean rank MnR (from 1).
    `ties`: credited by expectation, or as the field counts them (see the top of this file); then each direction also has "entries", their
    number. Raises ValueError where a score is NaN (NanScore) or an answer names no video.
    """
    scores_AB = torch.as_tensor(scores_AB)
    if scores_AB.ndim != 2 or len(scores_AB) != len(answers):
        raise ValueError(f"scores of shape {tuple(scores_AB.shape)} do not go with {len(answers)} answers")
    counter = RankCounter(answers, scores_AB.shape[1], ties)
    counter.update(scores_AB, torch.arange(scores_AB.shape[0]), torch.arange(scores_AB.shape[1]))
    return counter.metrics()


def summary(higher_Q: Tensor, tied_Q: Tensor) -> Mapping[str, float]:
    """Metrics of one direction, ties credited by expectation.

    `higher_Q`: entries above the answer of each query; `tied_Q`: those that tie with it, itself not counted.
    """
    higher_Q, tied_Q = higher_Q.double(), tied_Q.double()
    rank_Q = 1 + higher_Q + tied_Q / 2
    # Any of the tied + 1 places behind `higher` is equally likely.
    recalls = {f"R@{k}": float(((k - higher_Q) / (tied_Q + 1)).clamp(0, 1).mean()) * 100 for k in RECALLS}
    return recalls | {"MdR": float(np.median(rank_Q.numpy())), "MnR": float(rank_Q.mean())}


def _entries(higher_Q: Tensor, tied_Q: Tensor) -> Mapping[str, float]:
    """The same as the field counts it: an entry for the answer and for each entry that ties with it, at successive ranks."""
    count_Q = tied_Q + 1
    first_of_query = torch.repeat_interleave(count_Q.cumsum(0) - count_Q, count_Q)
    above = torch.repeat_interleave(higher_Q, count_Q) + torch.arange(len(first_of_query)) - first_of_query
    return _of_ranks(above + 1, float(np.median(above.numpy())) + 1)


def _lower_median(above_Q: Tensor) -> Mapping[str, float]:
    """One entry a query; of two middle ranks the lower is the median."""
    return _of_ranks(above_Q + 1, float(above_Q.median()) + 1)


def _of_ranks(rank: Tensor, median: float) -> Mapping[str, float]:
    recalls = {f"R@{k}": float((rank <= k).double().mean()) * 100 for k in RECALLS}
    return recalls | {"MdR": median, "MnR": float(rank.double().mean()), "entries": len(rank)}
