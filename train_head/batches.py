"""What goes into a head: padded batches of cached features on a device.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.features import TextFeatures, VideoFeatures


@dataclass(frozen=True)
class TextBatch:
    """Texts as they come from the cache: sentence [A, D], words [A, L, D] and which of them are real [A, L]."""

    sentence_AD: Tensor
    word_ALD: Tensor
    mask_AL: Tensor

    @classmethod
    def gather(cls, features: TextFeatures, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> "TextBatch":
        """The texts with these indices, on the device, as float32."""
        word_ALD, length_A = features.words.gather(indices)
        sentence_A1D, _ = features.sentences.gather(indices)
        mask_AL = np.arange(word_ALD.shape[1]) < length_A[:, None]
        return cls(*(torch.from_numpy(array).to(device) for array in (sentence_A1D[:, 0], word_ALD, mask_AL)))


@dataclass(frozen=True)
class VideoBatch:
    """Videos as they come from the cache: frames [B, F, D] and which of them are real [B, F]."""

    frame_BFD: Tensor
    mask_BF: Tensor

    @classmethod
    def gather(cls, features: VideoFeatures, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> "VideoBatch":
        """The videos with these indices, on the device, as float32."""
        frame_BFD, length_B = features.frames.gather(indices)
        mask_BF = np.arange(frame_BFD.shape[1]) < length_B[:, None]
        return cls(torch.from_numpy(frame_BFD).to(device), torch.from_numpy(mask_BF).to(device))
