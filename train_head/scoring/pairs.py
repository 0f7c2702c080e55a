"""Scores all pairs of texts and videos block by block, and passes the blocks to accumulators.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base.errors import UserError
from data.base.progress import Progress
from data.cache.features import TextFeatures, VideoFeatures
from data.compute.device import by_device, room_for
from data.compute.processes import ProcessGroup
from data.metrics import Metrics, NanScore, RankCounter, Ties
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.heads.base import picked
from train_head.kernels.blocks import VIDEOS_PER_BLOCK
from train_head.kernels.threads import parallel

FRAMES_PER_BLOCK = {"cpu": 3072, "cuda": 16_384}
"""Most frames, summed over videos, that a head scores at once; patch tokens count as frames. A GPU launches the same kernels for a block,
however large it is. What limits it there is memory: the largest tensor of the method has a number for every two words of a text and every
video, 0.4 GB for 64 texts of 32 words and 16,384 frames, 12 of each video."""
WORDS_PER_STRIP = {"cpu": 0, "cuda": 16_384}
"""The fewest words of a strip of texts, whatever `Head.WORDS_PER_STRIP` says. The scores of a strip and a block of videos are read back
together, which waits for a GPU: 512 texts of 32 words with 1,365 videos are 3 MB a score."""


class Accumulator(Protocol):
    """Receives every pair's scores once, in blocks, in any order."""

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take the scores [S, A, B] of texts [A] and videos [B], which are given by their indices. Scores are on the head's device.

        Their mean over S is the retrieval score. The caller may reuse the block: copy it, or keep only what is computed from it.
        """

    def share_answers(self, processes: ProcessGroup) -> None:
        """Exchange results from the blocks that hold answers. Called after all of those blocks and before any other."""

    def share_counts(self, processes: ProcessGroup) -> None:
        """Merge results from all blocks over the processes. Never exchange the blocks."""


class Unshared:
    """Mix-in for accumulators that work in a single process only."""

    def share_answers(self, processes: ProcessGroup) -> None:
        assert processes.world_size == 1

    def share_counts(self, processes: ProcessGroup) -> None:
        assert processes.world_size == 1


class RankedScores:
    """An accumulator that ranks by the retrieval score, and by means of subsets of a head's scores."""

    def __init__(self, counter: RankCounter, chosen: Sequence[Sequence[int]] = ()) -> None:
        """`chosen` lists the indices of the scores to average, one list per ranking after the first.

        `counter` counts 1 + len(chosen) rankings.
        """
        self._counter, self._chosen = counter, [list(places) for places in chosen]

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Count the block."""
        means = [scores_SAB.mean(dim=0), *(picked(scores_SAB, places).mean(dim=0) for places in self._chosen)]
        self._counter.update(torch.stack(means), texts, videos)

    def share_answers(self, processes: ProcessGroup) -> None:
        self._counter.share_answers(processes)

    def share_counts(self, processes: ProcessGroup) -> None:
        self._counter.share_counts(processes)


@torch.no_grad()
def score_all_pairs(
    head: Head,
    texts: TextFeatures,
    videos: VideoFeatures,
    answers: NDArray[np.int64] | None,
    accumulators: Sequence[Accumulator],
    memory_budget: int,
    quiet: bool = True,
    what: str = "scoring",
    processes: ProcessGroup | None = None,
) -> None:
    """Score every text with every video once and pass the blocks to the accumulators.

    `answers` [A] is the index of each text's video; None if the texts have no videos here. `memory_budget` limits the bytes of encoded
    videos held at once, on CUDA besides half of what is free there; if it is too small for all videos, they are encoded twice. `what`
    labels the progress.

    All texts of a video are in the same block. Blocks that hold answers come first, so that a RankCounter keeps little in memory. Several
    `processes` share the videos, and end with the same accumulators as a single process.

    Raises UserError, naming the caption and the video, if an accumulator finds a score that is NaN.
    """
    processes = processes or ProcessGroup()
    device = head.logit_scale.device
    head.eval()
    if answers is None:
        answers = len(videos.ids) + np.arange(len(texts.texts))
    texts, videos = texts.to(device), videos.to(device)
    strips, groups = (
        _strips(answers, texts, max(head.WORDS_PER_STRIP, by_device(WORDS_PER_STRIP, device))),
        _groups(head, videos, memory_budget, processes),
    )
    held: list[range] = []
    encoded: dict[range, Any] = {}
    one_at_a_time = Lock()
    with Progress(what, len(strips) * sum(map(len, groups)), "blocks", quiet or processes.rank > 0) as progress:

        def work(job: tuple[NDArray[np.int64], list[range]], _: None) -> None:
            strip, blocks = job
            encoded_texts = head.encode_texts(TextBatch.gather(texts, strip, device))
            for block in blocks:
                scores_SAB = head.scores(encoded_texts, encoded[block])
                with one_at_a_time:
                    for accumulator in accumulators:
                        accumulator.update(scores_SAB, torch.from_numpy(strip), torch.arange(block.start, block.stop))
                    progress.update()

        for answered in (True, False):
            # In reverse the second time, because the last group is still encoded.
            for group in groups if answered else reversed(groups):
                jobs = [(strip, [block for block in group if _has_answer(answers[strip], block) == answered]) for strip in strips]
                jobs = [(strip, blocks) for strip, blocks in jobs if blocks]
                if jobs and held != group:
                    encoded.clear()
                    encoded.update((block, head.encode_videos(VideoBatch.gather(videos, block, device))) for block in group)
                    held = group
                try:
                    parallel(1 if device.type != "cpu" else torch.get_num_threads(), work, jobs, lambda: None)
                except NanScore as error:
                    raise nan_error(texts, videos, error) from error
            for accumulator in accumulators:
                if answered:
                    accumulator.share_answers(processes)
                else:
                    accumulator.share_counts(processes)


def nan_error(texts: TextFeatures, videos: VideoFeatures, error: NanScore) -> UserError:
    """The error for a score that is NaN."""
    return UserError(
        f"the score of caption {texts.texts[error.text]!r} and video {videos.ids[error.video]} is NaN: train the head "
        "again with a lower --lr, or extract again if the head is untrained"
    )


def evaluate_pairs(
    head: Head,
    texts: TextFeatures,
    videos: VideoFeatures,
    answers: NDArray[np.int64],
    memory_budget: int,
    quiet: bool = True,
    ties: Ties = "expected",
) -> Metrics:
    """Retrieval metrics of a head over all pairs. See `data.metrics.retrieval_metrics` and `score_all_pairs`."""
    counter = RankCounter(answers, len(videos.ids), ties)
    score_all_pairs(head, texts, videos, answers, [RankedScores(counter)], memory_budget, quiet)
    return counter.metrics()


def videos_per_block(head: Head, longest: int) -> int:
    """How many videos the head scores at once, if the `longest` has this many frames.

    A multiple of VIDEOS_PER_BLOCK, unless there is no room for more than one such block. At least as many as the head encodes at once, if
    those are fewer.
    """
    least = head.videos_at_once if head.videos_at_once < VIDEOS_PER_BLOCK else 1
    size = max(least, by_device(FRAMES_PER_BLOCK, head.logit_scale.device) // (longest * head.frame_vectors))
    return size - size % VIDEOS_PER_BLOCK if size > VIDEOS_PER_BLOCK else size


def _has_answer(answers: NDArray[np.int64], block: range) -> bool:
    return bool(((answers >= block.start) & (answers < block.stop)).any())


def _groups(head: Head, videos: VideoFeatures, memory_budget: int, processes: ProcessGroup) -> list[list[range]]:
    """This rank's share of the videos, as blocks of consecutive videos, in groups that fit into the memory budget once encoded."""
    count, longest = len(videos.ids), int(head.counted_frames(videos.frames.length_N).max())
    size = videos_per_block(head, longest)
    blocks = [range(first, min(first + size, count)) for first in range(0, count, size)]
    blocks = blocks[len(blocks) * processes.rank // processes.world_size : len(blocks) * (processes.rank + 1) // processes.world_size]
    group = max(1, room_for(memory_budget, head.logit_scale.device) // (size * head.encoded_bytes(longest)))
    return [blocks[first : first + group] for first in range(0, len(blocks), group)]


def _strips(answers: NDArray[np.int64], texts: TextFeatures, words_per_strip: int) -> list[NDArray[np.int64]]:
    """Text indices sorted by video, divided into strips that never separate the texts of a video.

    The most words of a strip are a multiple of `words_per_strip`: the smallest that is at least four times the words of any video's texts.
    Strips then end nearly full.
    """
    order = np.argsort(answers, kind="stable")
    starts = np.flatnonzero(np.diff(answers[order], prepend=-1))
    words = np.concatenate([[0], np.cumsum(texts.words.length_N[order] + 1)])
    stops = [*starts[1:].tolist(), len(order)]
    most = -(-4 * int(np.diff(words[[0, *stops]]).max()) // words_per_strip) * words_per_strip
    strips, first = [], 0
    for start, stop in zip(starts.tolist(), stops, strict=True):
        if start > first and words[stop] - words[first] > most:
            strips.append(order[first:start])
            first = start
    return [*strips, order[first:]]
