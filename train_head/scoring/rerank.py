"""The second stage: exact scores of some pairs, and the metrics of candidates that an index found.

With a temporal encoder, encoding the videos costs most, so every video is encoded once, however many texts have it as a candidate.
Texts are sorted by their nearest candidate and divided into strips, so that the texts of a strip share candidates. The head scores a
whole strip with all its candidates, because that costs no more than scoring a single text of it (train_head.kernels.fused). A head
whose work is in the pairs (`Head.texts_alone`) has strips of one text, so that it scores hardly more pairs than are asked for.

Shape suffixes: A texts, K candidates, B videos of a bin, P pairs, S scores of a pair, F frames, D joint dimension.
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
from train_head.kernels.blocks import VIDEOS_PER_BLOCK
from train_head.kernels.threads import parallel
from train_head.scoring.pairs import nan_error, videos_per_block

BLOCKS_A_BIN = 2


@dataclass(frozen=True)
class Pairs:
    """Distinct pairs of texts and videos, by their indices: sorted by text, and by video for each text."""

    text_P: NDArray[np.int64]
    video_P: NDArray[np.int64]
    videos: int
    """Number of videos."""

    @classmethod
    def of(cls, texts: NDArray[np.int64], videos: NDArray[np.int64], count: int) -> "Pairs":
        """The pairs of two arrays of one shape; a pair may occur several times. `count`: number of videos."""
        text_P, video_P = np.divmod(np.unique(texts * count + videos), count)
        return cls(text_P, video_P, count)

    def places(self, texts: NDArray[np.int64], videos: NDArray[np.int64]) -> Tensor:
        """Where these pairs are among all, in the shape of the arrays."""
        return torch.from_numpy(np.searchsorted(self.text_P * self.videos + self.video_P, texts * self.videos + videos))


@dataclass(frozen=True)
class _Bin:
    """Ascending indices of some videos, and their frames after the temporal encoder."""

    videos: NDArray[np.int64]
    frames: EncodedFrames


@dataclass(frozen=True)
class _Strip:
    """Texts that are scored together, and their pairs: for each, its place among all pairs and the row of its text in the strip."""

    texts: NDArray[np.int64]
    place_P: NDArray[np.int64]
    row_P: NDArray[np.int64]


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

    `candidate_AK`: video indices, distinct for each text. For the other arguments and the errors see `score_pairs`.
    """
    candidates = candidate_AK.numpy()
    text_AK = np.broadcast_to(np.arange(len(candidates))[:, None], candidates.shape)
    pairs = Pairs.of(text_AK, candidates, len(videos.ids))
    score_P = score_pairs(head, texts, videos, pairs, candidates[:, 0], memory_budget, processes, quiet)
    return score_P[pairs.places(text_AK, candidates)]


@torch.no_grad()
def score_pairs(
    head: Head,
    texts: TextFeatures,
    videos: VideoFeatures,
    pairs: Pairs,
    nearest_A: NDArray[np.int64],
    memory_budget: int,
    processes: ProcessGroup | None = None,
    quiet: bool = True,
) -> Tensor:
    """The retrieval scores [P] of these pairs. On a CPU, they equal those of scoring all pairs bit for bit.

    `nearest_A`: a video of each text's pairs; texts with the same one are scored together. `memory_budget`: bytes of encoded videos to
    hold at once. Processes share the videos, or with `Head.texts_alone` the texts. Raises UserError if a score is NaN.
    """
    group = processes or ProcessGroup()
    device = head.logit_scale.device
    head.eval()
    score_P = torch.full(pairs.text_P.shape, -torch.inf)
    longest = int(head.counted_frames(videos.frames.length_N).max())
    video_bytes = head.encoded_bytes(longest)
    strips, threads = _strips(texts, pairs, nearest_A, head), 1
    if device.type == "cpu" and len(strips) > 1:
        threads = torch.get_num_threads()
    # A text that is alone shares no candidates, so it is scored with all of its videos that are in memory. They take half of the budget,
    # and the copies that each thread makes of its text's videos, and encodes, the other half.
    most = memory_budget // (2 * video_bytes) if head.texts_alone else None
    at_once = max(VIDEOS_PER_BLOCK, memory_budget // (4 * threads * video_bytes)) if head.texts_alone else len(videos.ids)
    bins = _bins(head, videos, pairs, longest, most)
    if head.texts_alone:
        strips = strips[group.rank :: group.world_size]
    else:
        bins = bins[group.rank :: group.world_size]
    with Progress("re-ranking", len(strips) * len(bins), "blocks", quiet or group.rank > 0) as progress:
        for held in _held(head, videos, bins, memory_budget, longest):

            def score_strip(strip: _Strip, _: None, held: list[_Bin] = held) -> None:
                encoded = head.encode_texts(TextBatch.gather(texts, strip.texts, device))
                for some in held:
                    _score_strip(head, encoded, some, pairs, strip, score_P, at_once)
                    progress.update()

            parallel(threads, score_strip, strips, lambda: None)
    if score_P.isnan().any():
        p = int(score_P.isnan().nonzero()[0])
        raise nan_error(texts, videos, NanScore(int(pairs.text_P[p]), int(pairs.video_P[p])))
    group.maximum(score_P)
    return score_P


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


def _strips(texts: TextFeatures, pairs: Pairs, nearest_A: NDArray[np.int64], head: Head) -> list[_Strip]:
    """Strips of up to WORDS_PER_STRIP words, or of one text. Texts with the same nearest video are adjacent."""
    order = np.argsort(nearest_A, kind="stable")
    words = texts.words.length_N[order] + 1
    members, first, held = [], 0, 0
    for i, length in enumerate(words.tolist()):
        if i > first and held + length > head.WORDS_PER_STRIP:
            members.append(order[first:i])
            first, held = i, 0
        held += length
    members.append(order[first:])
    start_A, stop_A = (np.searchsorted(pairs.text_P, np.arange(len(order)), side=side) for side in ("left", "right"))
    strips = []
    for some in members:
        count = stop_A[some] - start_A[some]
        places = [np.arange(start, stop) for start, stop in zip(start_A[some], stop_A[some], strict=True)]
        strips.append(_Strip(some, np.concatenate(places), np.repeat(np.arange(len(some)), count)))
    return strips


def _bins(head: Head, videos: VideoFeatures, pairs: Pairs, longest: int, most: int | None) -> list[NDArray[np.int64]]:
    """All videos that occur, in bins of about BLOCKS_A_BIN blocks, or of as many videos as `most` says. The `longest` has this many frames.

    The bins do not depend on the number of processes.
    """
    wanted = np.unique(pairs.video_P)
    size = BLOCKS_A_BIN * videos_per_block(head, longest) if most is None else max(VIDEOS_PER_BLOCK, most)
    return [wanted[first : first + size] for first in range(0, len(wanted), size)]


def _held(head: Head, videos: VideoFeatures, bins: list[NDArray[np.int64]], memory_budget: int, longest: int) -> Iterator[list[_Bin]]:
    """Yield encoded bins, at least one at a time and as many as fit into the budget; for texts that are alone, one. The `longest` video has
    this many frames."""
    # With more processes than bins, some processes have none.
    count = 1 if head.texts_alone else max(1, memory_budget // (max(map(len, bins), default=1) * head.encoded_bytes(longest)))
    for first in range(0, len(bins), count):
        held = [_Bin(some, _frames(head, videos, some, longest)) for some in bins[first : first + count]]
        yield held
        # The caller still has the list while the next bins are encoded.
        held.clear()


def _frames(head: Head, videos: VideoFeatures, some: NDArray[np.int64], longest: int) -> EncodedFrames:
    """The frames of some videos after the temporal encoder, padded to those of the longest video. Read in pieces, since reading takes a few
    times the room of what is read."""
    device, whole = head.logit_scale.device, None
    for first in range(0, len(some), VIDEOS_PER_BLOCK):
        piece = head.apply_temporal(VideoBatch.gather(videos, some[first : first + VIDEOS_PER_BLOCK], device))
        if len(some) <= VIDEOS_PER_BLOCK:
            return piece
        if whole is None:
            whole = piece.each(lambda tensor: tensor.new_zeros(len(some), longest, *tensor.shape[2:]))
        for name, tensor in vars(piece).items():
            if tensor is not None:
                getattr(whole, name)[first : first + len(tensor), : tensor.shape[1]] = tensor
    assert whole is not None
    return whole


def _score_strip(head: Head, encoded: Any, some: _Bin, pairs: Pairs, strip: _Strip, score_P: Tensor, at_once: int) -> None:
    """Score a strip with the videos of a bin that are in any of its pairs, and keep the scores of the pairs. `at_once`: most videos that
    are copied out of the bin at a time."""
    video_P = pairs.video_P[strip.place_P]
    # The bins divide the ascending videos, so a bin holds every one between its first and its last.
    here = (video_P >= some.videos[0]) & (video_P <= some.videos[-1])
    if not here.any():
        return
    wanted, column = np.unique(video_P[here], return_inverse=True)
    chosen = torch.from_numpy(np.searchsorted(some.videos, wanted)).to(some.frames.mask_BF.device)
    parts = []
    for rows in chosen.split(at_once):
        videos = head.encode_frames(some.frames.each(lambda tensor, rows=rows: tensor[rows]))  # type: ignore[misc]
        parts.append(head.scores(encoded, videos).mean(dim=0).cpu())
    scores_AB = torch.cat(parts, dim=1)
    score_P[torch.from_numpy(strip.place_P[here])] = scores_AB[torch.from_numpy(strip.row_P[here]), torch.from_numpy(column)]
