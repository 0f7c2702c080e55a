"""All pairs of texts and videos, scored block by block and fed to accumulators.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.errors import UserError
from data.features import TextFeatures, VideoFeatures
from data.metrics import Metrics, NanScore, RankCounter, Ties
from data.progress import Progress
from train_head.heads import Head, TextBatch, VideoBatch

# A head scores so many at once; a strip of texts holds at least so many, and all texts of a video.
TEXTS_A_STRIP = 512
VIDEOS_A_BLOCK = 1024


class Accumulator(Protocol):
    """Something that reads all pairs, a block at a time, in any order, each pair once."""

    def update(self, scores_AB: Tensor, texts: Tensor, videos: Tensor) -> None:
        """Take the retrieval scores between these texts and these videos, given by their indices."""


@torch.no_grad()
def score_all_pairs(
    head: Head,
    texts: TextFeatures,
    videos: VideoFeatures,
    answers: NDArray[np.int64],
    accumulators: Sequence[Accumulator],
    quiet: bool = True,
) -> None:
    """Score every text with every video once and feed the accumulators.

    `answers` [A]: the index of each text's video. The texts of a video stay in one block, and blocks that hold answers come first,
    so that a RankCounter has little to keep.
    """
    device = head.logit_scale.device
    head.eval()
    video_blocks = [np.arange(first, min(first + VIDEOS_A_BLOCK, len(videos.ids))) for first in range(0, len(videos.ids), VIDEOS_A_BLOCK)]
    encoded_videos = [head.encode_videos(VideoBatch.gather(videos, block, device)) for block in video_blocks]
    strips = list(_strips(answers))
    with Progress("scoring", len(strips) * len(video_blocks), "blocks", quiet) as progress:
        for answered in (True, False):
            for strip in strips:
                chosen = [i for i, block in enumerate(video_blocks) if np.isin(answers[strip], block).any() == answered]
                if not chosen:
                    continue
                encoded_texts = head.encode_texts(TextBatch.gather(texts, strip, device))
                for i in chosen:
                    scores_AB = head.scores(encoded_texts, encoded_videos[i]).mean(dim=0)
                    for accumulator in accumulators:
                        accumulator.update(scores_AB, torch.from_numpy(strip), torch.from_numpy(video_blocks[i]))
                    progress.update()


def evaluate_pairs(
    head: Head, texts: TextFeatures, videos: VideoFeatures, answers: NDArray[np.int64], quiet: bool = True, ties: Ties = "expected"
) -> Metrics:
    """Retrieval metrics of a head over all pairs: see `data.metrics.retrieval_metrics`.

    Raises UserError, which names the caption and the video, where the score of a pair is NaN.
    """
    counter = RankCounter(answers, len(videos.ids), ties)
    try:
        score_all_pairs(head, texts, videos, answers, [counter], quiet)
    except NanScore as error:
        raise UserError(
            f"the score of caption {texts.texts[error.text]!r} and video {videos.ids[error.video]} is NaN: look at the features of both, "
            "or train the head again with a lower --lr"
        ) from error
    return counter.metrics()


def _strips(answers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Text indices in the order of their videos, cut between videos into strips of TEXTS_A_STRIP or a little more."""
    order = np.argsort(answers, kind="stable")
    starts = np.flatnonzero(np.diff(answers[order], prepend=-1))
    first = 0
    for start in [*starts[1:], len(order)]:
        if start - first >= TEXTS_A_STRIP or start == len(order):
            yield order[first:start]
            first = start
