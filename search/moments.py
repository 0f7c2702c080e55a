"""Where in a video a text is: the frame that speaks most for it.

Shape suffixes: B videos, F frames, D joint dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from data.cache.features import VideoFeatures
from train_head.heads import Head, TextBatch, VideoBatch

Measure = Literal["sentence", "words", "cosine"]
MEANING: dict[Measure, str] = {
    "sentence": "weight under the whole sentence (alpha of GLCCL)",
    "words": "weight under its words, on average (beta of GLCCL)",
    "cosine": "cosine with the sentence",
}


@dataclass(frozen=True)
class Moment:
    """The best frame of a video for a text, and how all its frames compare."""

    frame: int
    """Which of the frames that the head sees."""
    seconds: float
    """Its time from the start of the file."""
    seconds_F: list[float]
    weight_F: list[float]


@torch.no_grad()
def find_moments(
    head: Head, text: TextBatch, videos: VideoFeatures, members: Sequence[int] | NDArray[np.int64]
) -> tuple[Measure, list[Moment]]:
    """The best moment of each of these videos for one text, and what tells their frames apart.

    Heads with text-guided pooling weigh frames themselves. For others it is the cosine of the sentence and the frame, which ranks frames
    but is not what the scores are made of. The frame is taken after the temporal encoder, or before it if the head compares single frames
    from there.
    """
    batch = VideoBatch.gather(videos, members, head.logit_scale.device)
    weights = head.frame_weights(text, batch)
    measure: Measure
    if weights.sentence_ABF is not None:
        measure, weight_BF = "sentence", weights.sentence_ABF[0]
    elif weights.word_ABLF is not None:
        measure, weight_BF = "words", weights.word_ABLF[0].mean(dim=1)
    else:
        frames = head.apply_temporal(batch)
        frame_BFD = frames.frame_BFD if frames.before_BFD is None else frames.before_BFD
        measure, weight_BF = "cosine", normalize(frame_BFD, dim=-1) @ normalize(text.sentence_AD[0], dim=-1)
    found = []
    for i, padded_F in zip(members, weight_BF.cpu().numpy(), strict=True):
        seconds_F = videos.seconds[i]
        weight_F = padded_F[: len(seconds_F)]
        best = int(weight_F.argmax())
        found.append(Moment(best, float(seconds_F[best]), seconds_F.tolist(), weight_F.tolist()))
    return measure, found


def clock(seconds: float) -> str:
    """h:mm:ss.s"""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
