"""All pairs of texts and videos, scored block by block and fed to accumulators.

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
from data.compute.processes import ProcessGroup
from data.metrics import Metrics, NanScore, RankCounter, Ties
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.kernels.blocks import VIDEOS_A_BLOCK
from train_head.kernels.threads import parallel

FRAMES_A_BLOCK = 3072
"""Most frames of the videos that a head scores at once."""


class Accumulator(Protocol):
    """Something that reads all pairs, a block at a time, in any order, each pair once."""

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take a head's scores [S, A, B], on its device, between these texts [A] and these videos [B], given by their indices.

        The retrieval score is their mean over S. The block is the caller's: keep a copy, or better only what follows from it.
        """

    def share_answers(self, processes: ProcessGroup) -> None:
        """Exchange with other processes what follows from the blocks that hold answers, when all of those were seen and no others yet."""

    def share_counts(self, processes: ProcessGroup) -> None:
        """Merge with other processes what follows from all blocks; never the blocks."""


class Unshared:
    """What makes an accumulator of one that takes part in no sharing: it works in one process alone."""

    def share_answers(self, processes: ProcessGroup) -> None:
        assert processes.world_size == 1

    def share_counts(self, processes: ProcessGroup) -> None:
        assert processes.world_size == 1


class RankedScores:
    """An accumulator that ranks by the mean of a head's scores, the retrieval score, and by means of some of them."""

    def __init__(self, counter: RankCounter, chosen: Sequence[Sequence[int]] = ()) -> None:
        """`counter`: of 1 + len(chosen) rankings; `chosen`: places of scores among those of the head, for each ranking but the first."""
        self._counter, self._chosen = counter, [list(places) for places in chosen]

    def update(self, scores_SAB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Count the block."""
        means = [scores_SAB.mean(dim=0), *(scores_SAB[places].mean(dim=0) for places in self._chosen)]
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
    """Score every text with every video once and feed the accumulators.

    `answers` [A]: the index of each text's video; None where texts have none among the videos. `memory_budget`: bytes of encoded videos
    to hold at once; where it is too small for all, they are encoded twice. The texts of a video stay in one block, and blocks that hold
    answers come first, so that a RankCounter has little to keep. Raises UserError, which names the caption and the video, where an
    accumulator finds the score of a pair to be NaN. `what` stands before the progress.

    Several `processes` share the videos; their accumulators then have what those of one would have.
    """
    processes = processes or ProcessGroup()
    device = head.logit_scale.device
    head.eval()
    if answers is None:
        answers = len(videos.ids) + np.arange(len(texts.texts))
    texts, videos = texts.to(device), videos.to(device)
    strips, groups = _strips(answers, texts, head.WORDS_A_STRIP), _groups(videos, memory_budget, processes)
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
            # Back through the groups the second time: the last one is still there.
            for group in groups if answered else reversed(groups):
                jobs = [(strip, [block for block in group if _has_answer(answers[strip], block) == answered]) for strip in strips]
                jobs = [(strip, blocks) for strip, blocks in jobs if blocks]
                if jobs and held != group:
                    encoded.clear()
                    encoded.update((block, head.encode_videos(VideoBatch.gather(videos, block, device))) for block in group)
                    held = group
                try:
                    parallel(1 if device.type == "cuda" else torch.get_num_threads(), work, jobs, lambda: None)
                except NanScore as error:
                    raise not_a_number(texts, videos, error) from error
            for accumulator in accumulators:
                if answered:
                    accumulator.share_answers(processes)
                else:
                    accumulator.share_counts(processes)


def not_a_number(texts: TextFeatures, videos: VideoFeatures, error: NanScore) -> UserError:
    """What to tell of a score that is NaN."""
    return UserError(
        f"the score of caption {texts.texts[error.text]!r} and video {videos.ids[error.video]} is NaN: train the head "
        "again with a lower --lr, or extract again if it is an untrained one"
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
    """Retrieval metrics of a head over all pairs: see `data.metrics.retrieval_metrics`, and `score_all_pairs`."""
    counter = RankCounter(answers, len(videos.ids), ties)
    score_all_pairs(head, texts, videos, answers, [RankedScores(counter)], memory_budget, quiet)
    return counter.metrics()


def videos_a_block(longest: int) -> int:
    """How many videos of up to so many frames a head scores at once: a multiple of what their blocks take, if it is enough for one."""
    size = max(1, FRAMES_A_BLOCK // longest)
    return size - size % VIDEOS_A_BLOCK if size > VIDEOS_A_BLOCK else size


def _has_answer(answers: NDArray[np.int64], block: range) -> bool:
    return bool(((answers >= block.start) & (answers < block.stop)).any())


def _groups(videos: VideoFeatures, memory_budget: int, processes: ProcessGroup) -> list[list[range]]:
    """All videos in blocks of one size, of them this process's share, and as many blocks to a group as may be encoded at once."""
    frames, count, longest = videos.frames, len(videos.ids), int(videos.frames.length_N.max())
    size = videos_a_block(longest)
    blocks = [range(first, min(first + size, count)) for first in range(0, count, size)]
    blocks = blocks[len(blocks) * processes.rank // processes.world_size : len(blocks) * (processes.rank + 1) // processes.world_size]
    # Frames and their products with each other, as float32.
    group = max(1, memory_budget // (size * longest * (frames.dimension + longest) * 4))
    return [blocks[first : first + group] for first in range(0, len(blocks), group)]


def _strips(answers: NDArray[np.int64], texts: TextFeatures, words_a_strip: int) -> list[NDArray[np.int64]]:
    """Text indices in the order of their videos, cut between videos into strips of `words_a_strip` words, or some times that.

    So many times that a video's texts are at most a quarter of a strip: little room is left at its end.
    """
    order = np.argsort(answers, kind="stable")
    starts = np.flatnonzero(np.diff(answers[order], prepend=-1))
    words = np.concatenate([[0], np.cumsum(texts.words.length_N[order] + 1)])
    stops = [*starts[1:].tolist(), len(order)]
    most = -(-4 * int(np.diff(words[[0, *stops]]).max()) // words_a_strip) * words_a_strip
    strips, first = [], 0
    for start, stop in zip(starts.tolist(), stops, strict=True):
        if start > first and words[stop] - words[first] > most:
            strips.append(order[first:start])
            first = start
    return [*strips, order[first:]]
