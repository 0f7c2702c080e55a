"""The inputs of a head: batches of cached features on a device.

Shape suffixes: A texts, B videos, L words of a text, R words of all texts (or frames of all videos) of a batch, F frames, M patch tokens
of a frame, D joint dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from data.cache.features import TextFeatures, VideoFeatures
from data.compute.staging import to_device
from data.sampling import choose_words


@dataclass(frozen=True)
class TextBatch:
    """Texts as cached: sentences [A, D], the words of all texts concatenated [R, D], and each text's number of words [A]."""

    sentence_AD: Tensor
    word_RD: Tensor
    length_A: Tensor
    """Always on the CPU: Python code divides the work by it."""
    real_A: Tensor | None = None
    """For texts that carry their padding: how many of each text's rows, counted from the first, are words [A], on the CPU. None if all are.
    Heads read the padding only with `padding="authors"` in their configuration."""

    @classmethod
    def gather(cls, features: TextFeatures, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> "TextBatch":
        """The texts at these indices, on the device, as float32."""
        word_RD, length_A = features.words.gather(indices, device)
        return cls(features.sentences.gather(indices, device)[0], word_RD, length_A)

    def without_padding(self) -> "TextBatch":
        """The same texts with their words alone."""
        if self.real_A is None:
            return self
        place_R = torch.cat([torch.arange(length) for length in self.length_A.tolist()])
        row_R = (place_R < self.real_A.repeat_interleave(self.length_A)).nonzero()[:, 0]
        return TextBatch(self.sentence_AD, self.word_RD[to_device(row_R, self.word_RD.device)], self.real_A)

    def cut_to(self, most_words: int | None) -> "TextBatch":
        """The same texts with at most this many words each: see `choose_words`. For texts without padding."""
        assert self.real_A is None
        if most_words is None or int(self.length_A.max()) <= most_words:
            return self
        kept = [choose_words(length, most_words) for length in self.length_A.tolist()]
        first_A = self.length_A.cumsum(dim=0) - self.length_A
        row_R = torch.cat([first + torch.from_numpy(rows) for first, rows in zip(first_A.tolist(), kept, strict=True)])
        return TextBatch(self.sentence_AD, self.word_RD[to_device(row_R, self.word_RD.device)], torch.tensor([len(rows) for rows in kept]))

    def padded_to(self, words: int) -> "TextBatch":
        """The same texts with `words` rows each: zero rows follow those that a text has. No text may have more."""
        assert int(self.length_A.max()) <= words
        filled_AL = torch.arange(words) < self.length_A[:, None]
        word_RD = self.word_RD.new_zeros(filled_AL.numel(), self.word_RD.shape[1])
        word_RD[_places(filled_AL, self.word_RD.device)] = self.word_RD
        length_A = torch.full_like(self.length_A, words)
        return TextBatch(self.sentence_AD, word_RD, length_A, self.length_A if self.real_A is None else self.real_A)


@dataclass(frozen=True)
class VideoBatch:
    """Videos as cached: frames [B, F, D], padded with zeros, and a mask [B, F], True at real frames."""

    frame_BFD: Tensor
    mask_BF: Tensor
    patch_BFMD: Tensor | None = None
    """The patch tokens of every frame, padded with zeros; None unless they were loaded."""

    @classmethod
    def gather(cls, features: VideoFeatures, indices: Sequence[int] | NDArray[np.int64], device: torch.device) -> "VideoBatch":
        """The videos at these indices, on the device, as float32."""
        patch_RMD = None if features.patches is None else features.patches.gather(indices, device)[0]
        return cls.of_rows(*features.frames.gather(indices, device), patch_RMD)

    @classmethod
    def of_rows(cls, rows_RD: Tensor, length_B: Tensor, patch_RMD: Tensor | None = None) -> "VideoBatch":
        """Pad videos given as concatenated frames [R, D] and frame counts [B], and their patch tokens if any."""
        mask_BF = torch.arange(int(length_B.max())) < length_B[:, None]
        place_R = None if mask_BF.all() else _places(mask_BF, rows_RD.device)

        def padded(rows_R: Tensor) -> Tensor:
            if place_R is None:
                return rows_R.view(*mask_BF.shape, *rows_R.shape[1:])
            padded_R: Tensor = rows_R.new_zeros(mask_BF.numel(), *rows_R.shape[1:])
            padded_R[place_R] = rows_R
            return padded_R.view(*mask_BF.shape, *rows_R.shape[1:])

        return cls(padded(rows_RD), to_device(mask_BF, rows_RD.device), None if patch_RMD is None else padded(patch_RMD))

    def padded_to(self, frames: int) -> "VideoBatch":
        """The same videos with at least `frames` positions each: zero frames follow those of the batch."""
        more = max(0, frames - self.mask_BF.shape[1])
        if not more:
            return self
        patch_BFMD = None if self.patch_BFMD is None else pad(self.patch_BFMD, (0, 0, 0, 0, 0, more))
        return VideoBatch(pad(self.frame_BFD, (0, 0, 0, more)), pad(self.mask_BF, (0, more)), patch_BFMD)


@dataclass(frozen=True)
class EncodedFrames(VideoBatch):
    """Videos after a head's temporal encoder, if it has one. It leaves patch tokens as they are."""

    before_BFD: Tensor | None = None
    """The frames before the temporal encoder, for heads that read both."""

    def each(self, change: Callable[[Tensor], Tensor]) -> "EncodedFrames":
        """Apply `change` to every tensor."""
        patch_BFMD, before_BFD = (None if tensor is None else change(tensor) for tensor in (self.patch_BFMD, self.before_BFD))
        return EncodedFrames(change(self.frame_BFD), change(self.mask_BF), patch_BFMD, before_BFD)


def _places(mask: Tensor, device: torch.device) -> Tensor:
    """The places of True in a mask on the CPU, counted through all its dimensions, as a tensor on the device. Indexing with a mask on the
    device would wait for the number of them."""
    return to_device(mask.flatten().nonzero()[:, 0], device)
