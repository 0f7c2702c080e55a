"""Compares a vector, of a picture or of a frame, with the frames of a gallery: a video is as near as its nearest frame, by cosine.

Heads are made for texts, so they have no part in this. The frames are CLIP's own, before any temporal encoder.

Shape suffixes: B videos, F frames of a video, T frames of several videos together, D joint dimension.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from data.cache.features import VideoFeatures
from train_head.kernels.threads import parallel

VIDEOS_AT_ONCE = 256


def nearness(videos: VideoFeatures, vector_D: NDArray[np.float32], members: NDArray[np.int64], threads: int) -> NDArray[np.float32]:
    """The cosine of the vector with the nearest frame of each of these videos [B]."""
    unit_D = normalize(torch.from_numpy(vector_D), dim=0)
    near_B = np.empty(len(members), dtype=np.float32)
    videos.frames.fetch(members)

    def compare(first: int, _: None) -> None:
        some = members[first : first + VIDEOS_AT_ONCE]
        frame_TD, length_B = videos.frames.gather(some)
        cosine_T = (frame_TD @ unit_D.to(frame_TD)) / frame_TD.norm(dim=1).clamp_min(1e-12)
        starts_B = np.cumsum(length_B.numpy()) - length_B.numpy()
        near_B[first : first + len(some)] = np.maximum.reduceat(cosine_T.cpu().numpy(), starts_B)

    firsts = range(0, len(members), VIDEOS_AT_ONCE)
    parallel(1 if len(firsts) == 1 else threads, compare, list(firsts), lambda: None)
    return near_B


def cosines(videos: VideoFeatures, vector_D: NDArray[np.float32], member: int) -> NDArray[np.float32]:
    """The cosine of the vector with every frame of a video [F]."""
    frame_FD, _ = videos.frames.gather([member])
    cosine_F = normalize(frame_FD, dim=1) @ normalize(torch.from_numpy(vector_D), dim=0).to(frame_FD)
    found: NDArray[np.float32] = cosine_F.cpu().numpy()
    return found
