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

from data.features import VideoFeatures
from train_head.glim import TAU, guidance, prepare_videos
from train_head.heads import Head, TextBatch, VideoBatch
from train_head.heads.glccl import GlcclHead

Measure = Literal["attention", "cosine"]
MEANING: dict[Measure, str] = {
    "attention": "weight of the frame under the sentence (alpha of GLCCL)",
    "cosine": "cosine of the frame and the sentence",
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


def measure(head: Head) -> Measure:
    """What tells frames apart: the weights of text-guided pooling where the head has it, else cosines."""
    return "attention" if isinstance(head, GlcclHead) else "cosine"


@torch.no_grad()
def find_moments(head: Head, text: TextBatch, videos: VideoFeatures, members: Sequence[int] | NDArray[np.int64]) -> list[Moment]:
    """The best moment of each of these videos for one text.

    Frames are those behind the temporal encoder where the head has one. Text-guided heads weigh them by softmax(s . v / tau), GLCCL's
    alpha; of others it is the cosine of frame and sentence, which ranks frames but takes no part in their scores.
    """
    if len(members) == 0:
        return []
    device = head.logit_scale.device
    batch = VideoBatch.gather(videos, members, device)
    prepared = prepare_videos(head.frames_in_time(batch), batch.mask_BF)
    if measure(head) == "attention":
        product_ABF = torch.einsum("ad,bfd->abf", text.sentence_AD, prepared.frame_BFD)
        weight_BF = guidance(product_ABF, prepared.mask_BF, TAU)[0]
    else:
        weight_BF = normalize(prepared.frame_BFD, dim=-1) @ normalize(text.sentence_AD[0], dim=-1)
    found = []
    for i, padded_F in zip(members, weight_BF.cpu().numpy(), strict=True):
        seconds_F = videos.seconds[i]
        weight_F = padded_F[: len(seconds_F)]
        best = int(weight_F.argmax())
        found.append(Moment(best, float(seconds_F[best]), seconds_F.tolist(), weight_F.tolist()))
    return found


def clock(seconds: float) -> str:
    """h:mm:ss.s"""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
