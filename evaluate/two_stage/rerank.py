"""The second stage: exact scores of the candidates, and their metrics.

With a temporal encoder, encoding the videos costs most, so every video is encoded once, however many texts have it as a candidate.
Texts are sorted by their nearest candidate and divided into strips, so that the texts of a strip share candidates. The head scores a
whole strip with all its candidates, because that costs no more than scoring a single text of it (train_head.kernels.fused).

Shape suffixes: A texts, K candidates, B videos of a bin, S scores of a pair, F frames, D joint dimension.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base.progress import Progress
from data.cache.features import TextFeatures, VideoFeatures
from data.compute.processes import ProcessGroup
from data.metrics import NanScore, Ranks, summary
from train_head.batches import EncodedFrames
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.kernels.threads import parallel
from train_head.scoring.pairs import nan_error, videos_per_block

BLOCKS_A_BIN = 2


@dataclass(frozen=True)
class _Bin:
    """Ascending indices of some videos, and their frames after the temporal encoder."""

    videos: NDArray[np.int64]
    frames: EncodedFrames


@torch.no_grad()
def rerank(
    head: Head,
    texts: TextFeatures,
    videos: VideoFeatures,
    candidate_AK: Tensor,
    memory_budget: int,
    processes: ProcessGroup | None = None,
    quiet: bool = True,
) -> Tensor:
    """The retrieval scores [A, K] of every text with its candidates. On a CPU, they equal those of scoring all pairs bit for bit.

    `candidate_AK`: video indices, distinct for each text. `memory_budget`: bytes of encoded videos to hold at once. Processes share
    the videos. Raises UserError if a score is NaN.
    """
    group = processes or ProcessGroup()
    device = head.logit_scale.device
    head.eval()
    candidates = candidate_AK.numpy()
    score_AK = torch.full(candidate_AK.shape, -torch.inf)
    strips = _strips(texts, candidates, head.WORDS_PER_STRIP)
    bins = _bins(head, videos, candidates)[group.rank :: group.world_size]
    with Progress("re-ranking", len(strips) * len(bins), "blocks", quiet or group.rank > 0) as progress:
        for held in _held(head, videos, bins, memory_budget, device):

            def rerank_strip(strip: NDArray[np.int64], _: None, held: list[_Bin] = held) -> None:
                encoded = head.encode_texts(TextBatch.gather(texts, strip, device))
                for some in held:
                    _score_strip(head, encoded, some, candidates[strip], strip, score_AK)
                    progress.update()

            threads = 1 if device.type != "cpu" or len(strips) == 1 else torch.get_num_threads()
            parallel(threads, rerank_strip, strips, lambda: None)
    if score_AK.isnan().any():
        a, k = score_AK.isnan().nonzero()[0].tolist()
        raise nan_error(texts, videos, NanScore(a, int(candidates[a, k])))
    group.maximum(score_AK)
    return score_AK


def candidate_metrics(candidate_AK: Tensor, score_AK: Tensor, answers: NDArray[np.int64], videos: int) -> dict[str, Any]:
    """Text-to-video metrics of re-ranked candidates, and the percentage of answers among the candidates.

    An answer that is not a candidate gets the last rank, `videos`. Ties are credited by expectation over their orders, as in
    `data.metrics`.
    """
    own_AK = candidate_AK == torch.tensor(answers)[:, None]
    there_A = own_AK.any(dim=1)
    own_A = torch.where(own_AK, score_AK, -torch.inf).amax(dim=1)
    best_A = torch.where(there_A, 1 + (score_AK > own_A[:, None]).sum(dim=1), videos)
    worst_A = torch.where(there_A, (score_AK >= own_A[:, None]).sum(dim=1), videos)
    ranks = Ranks(np.arange(len(answers)), best_A.numpy(), worst_A.numpy())
    return {"text_to_video": summary(ranks), "answers_among_candidates": float(there_A.double().mean()) * 100}


def _strips(texts: TextFeatures, candidates: NDArray[np.int64], words_per_strip: int) -> list[NDArray[np.int64]]:
    """Indices of texts in strips of up to `words_per_strip` words. Texts with the same nearest video are adjacent."""
    order = np.argsort(candidates[:, 0], kind="stable")
    strips, first, words = [], 0, 0
    for i, length in enumerate((texts.words.length_N[order] + 1).tolist()):
        if i > first and words + length > words_per_strip:
            strips.append(order[first:i])
            first, words = i, 0
        words += length
    return [*strips, order[first:]]


def _bins(head: Head, videos: VideoFeatures, candidates: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """All distinct candidates, in bins of about BLOCKS_A_BIN blocks. The bins do not depend on the number of processes."""
    wanted = np.unique(candidates)
    size = BLOCKS_A_BIN * videos_per_block(int(head.counted_frames(videos.frames.length_N).max()))
    return [wanted[first : first + size] for first in range(0, len(wanted), size)]


def _held(
    head: Head, videos: VideoFeatures, bins: list[NDArray[np.int64]], memory_budget: int, device: torch.device
) -> Iterator[list[_Bin]]:
    """Yield encoded bins, at least one at a time and as many as fit into the budget."""
    frames = videos.frames
    # With more processes than bins, some processes have none.
    longest = int(head.counted_frames(frames.length_N).max())
    bin_bytes = max(map(len, bins), default=1) * longest * frames.dimension * 4 * (2 if head.READS_BEFORE else 1)
    count = max(1, memory_budget // bin_bytes)
    for first in range(0, len(bins), count):
        held = []
        for some in bins[first : first + count]:
            held.append(_Bin(some, head.apply_temporal(VideoBatch.gather(videos, some, device))))
        yield held


def _score_strip(head: Head, encoded: Any, some: _Bin, candidates: NDArray[np.int64], strip: NDArray[np.int64], score_AK: Tensor) -> None:
    """Score a strip with the videos of a bin that are candidates of any of its texts, and keep the scores of candidates."""
    place = np.searchsorted(some.videos, candidates).clip(max=len(some.videos) - 1)
    row, column = np.nonzero(some.videos[place] == candidates)
    if not len(row):
        return
    wanted, position = np.unique(place[row, column], return_inverse=True)
    chosen = torch.from_numpy(wanted).to(some.frames.mask_BF.device)
    videos = head.encode_frames(some.frames.each(lambda tensor: tensor[chosen]))
    scores_AB = head.scores(encoded, videos).mean(dim=0).cpu()
    score_AK[torch.from_numpy(strip[row]), torch.from_numpy(column)] = scores_AB[torch.from_numpy(row), torch.from_numpy(position)]
