"""Finds the moment of a video that fits a text best: the frame with the largest weight.

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

Measure = Literal["sentence", "words", "cosine", "picture", "mixed"]
MEANING: dict[Measure, str] = {
    "sentence": "weight given the whole sentence (alpha of GLCCL)",
    "words": "mean weight given its words (beta of GLCCL)",
    "cosine": "cosine with the sentence",
    "picture": "cosine with the picture",
    "mixed": "agreement with the words and the picture",
}


@dataclass(frozen=True)
class Moment:
    """The best frame of a video for a text, and the weights of all its frames."""

    frame: int
    """Index among the frames that the head sees."""
    seconds: float
    """Time from the start of the file."""
    seconds_F: list[float]
    weight_F: list[float]


@torch.no_grad()
def find_moments(
    head: Head, text: TextBatch, videos: VideoFeatures, members: Sequence[int] | NDArray[np.int64]
) -> tuple[Measure, list[Moment]]:
    """The best moment of each of these videos for one text, and the measure that weighs their frames.

    Heads with text-guided pooling weigh the frames themselves. For other heads the weight of a frame is its cosine with the
    sentence. That ranks the frames, but the scores are not computed from it. The cosine uses frames after the temporal encoder,
    or before it if the head compares single frames there.
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


def timestamp(seconds: float) -> str:
    """Seconds as h:mm:ss.s: 61.25 is 0:01:01.2."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
