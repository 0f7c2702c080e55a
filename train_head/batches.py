"""What goes into a head: batches of cached features on a device.

Shape suffixes: A texts, B videos, R words of all texts (or frames of all videos) of a batch together, F frames, D joint dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.cache.features import TextFeatures, VideoFeatures


@dataclass(frozen=True)
class TextBatch:
    """Texts as they come from the cache: sentences [A, D], the words of one text after the other [R, D], and how many each has."""

    sentence_AD: Tensor
    word_RD: Tensor
    length_A: Tensor
    """On the CPU, wherever the features are: it decides how the work is divided."""

    @classmethod
    def gather(cls, features: TextFeatures, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> "TextBatch":
        """The texts with these indices, on the device, as float32."""
        word_RD, length_A = features.words.gather(indices, device)
        return cls(features.sentences.gather(indices, device)[0], word_RD, length_A)


@dataclass(frozen=True)
class VideoBatch:
    """Videos as they come from the cache: frames [B, F, D], zero behind the last, and which of them are real [B, F]."""

    frame_BFD: Tensor
    mask_BF: Tensor

    @classmethod
    def gather(cls, features: VideoFeatures, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> "VideoBatch":
        """The videos with these indices, on the device, as float32."""
        return cls.of_rows(*features.frames.gather(indices, device))

    @classmethod
    def of_rows(cls, rows_RD: Tensor, length_B: Tensor) -> "VideoBatch":
        """Videos of so many frames each, whose frames are given one video after the other [R, D]."""
        mask_BF = (torch.arange(int(length_B.max())) < length_B[:, None]).to(rows_RD.device)
        if bool((length_B == length_B[0]).all()):
            return cls(rows_RD.unflatten(0, mask_BF.shape), mask_BF)
        frame_BFD = rows_RD.new_zeros(*mask_BF.shape, rows_RD.shape[1])
        frame_BFD[mask_BF] = rows_RD
        return cls(frame_BFD, mask_BF)


@dataclass(frozen=True)
class EncodedFrames(VideoBatch):
    """Videos whose frames went through a head's temporal encoder, if it has one."""

    before_BFD: Tensor | None = None
    """The frames before it, for a head that reads both."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "EncodedFrames":
        """The same videos with every tensor changed alike."""
        before_BFD = None if self.before_BFD is None else change(self.before_BFD)
        return EncodedFrames(change(self.frame_BFD), change(self.mask_BF), before_BFD)
