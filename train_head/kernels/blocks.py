"""Texts and videos of a batch in blocks, which a head encodes and scores together.

Without gradients on a CPU, the shape of a block follows from the lengths of its own texts or videos: padded to STEP words or frames, and
to a constant number of texts or videos by repeating the first. All products of a head then have shapes that do not depend on what is
scored beside a pair (data/compute/shapes.py says why that matters). With gradients, and on a GPU, blocks are as large as what is in them.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S the scores of a pair.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from data.compute.shapes import GRAIN
from train_head.batches import EncodedFrames, TextBatch

WORDS_STEP, FRAMES_STEP = 8, 4
TEXTS_A_BLOCK = GRAIN // 2
"""Rows of a product: half of GRAIN will do for them."""
VIDEOS_A_BLOCK = GRAIN
LONG_VIDEO = 128
"""A video of more frames is a block alone: nothing is beside it."""
TRAINED_TEXTS_A_BLOCK = 16
"""Where shapes may vary: texts of like length together, for padding a text costs work that grows with the square of its length."""


@dataclass(frozen=True)
class TextBlock:
    """Some texts of a batch: `rows` are the indices of the first len(rows) of A; the others only fill the block."""

    rows: Tensor
    sentence_AD: Tensor
    word_ALD: Tensor
    """Behind its end a text repeats its last word. Without words, for a head that reads none."""
    mask_AL: Tensor


@dataclass(frozen=True)
class VideoBlock:
    """Some videos of a batch: `rows` are the indices of the first len(rows) of B; the others only fill the block."""

    rows: Tensor
    frames: EncodedFrames


@dataclass(frozen=True)
class Encoded:
    """What a head makes of a block, and the indices of its texts or videos in the batch."""

    rows: Tensor
    block: Any


def constant_shapes(features: Tensor) -> bool:
    """Whether blocks of these features have shapes that do not depend on their neighbours."""
    return features.device.type == "cpu" and not torch.is_grad_enabled()


def text_blocks(batch: TextBatch, *, words: bool, alone: bool, most: int) -> list[TextBlock]:
    """The texts in blocks; `alone`: each in its own. A text is padded to `most` words or less, unless it is longer."""
    length_A = batch.length_A if words else torch.zeros_like(batch.length_A)
    size_A, count = length_A, len(length_A)
    if constant_shapes(batch.sentence_AD):
        size_A = _padded(length_A, WORDS_STEP, most)
        filled = 1 if alone else TEXTS_A_BLOCK
        members = [rows for size in size_A.unique() for rows in (size_A == size).nonzero()[:, 0].split(filled)]
    else:
        filled = 0
        members = list(length_A.argsort(stable=True).split(TRAINED_TEXTS_A_BLOCK if words else count))
    first_A = batch.length_A.cumsum(dim=0) - batch.length_A
    device = batch.sentence_AD.device
    blocks = []
    for rows in members:
        slots = _filled(rows, filled)
        position_L = torch.arange(int(size_A[slots].max()))
        word_AL = first_A[slots, None] + torch.minimum(position_L, batch.length_A[slots, None] - 1)
        mask_AL = position_L < batch.length_A[slots, None]
        blocks.append(TextBlock(rows, batch.sentence_AD[slots.to(device)], batch.word_RD[word_AL.to(device)], mask_AL.to(device)))
    return blocks


def video_blocks(batch: EncodedFrames, most: int) -> list[VideoBlock]:
    """The videos in blocks, each padded to `most` frames or less, unless it is longer."""
    count, frames = batch.mask_BF.shape
    if not constant_shapes(batch.frame_BFD):
        return [VideoBlock(torch.arange(count), batch)]
    # Up to the last real frame: masks may have holes.
    length_B = (batch.mask_BF * torch.arange(1, frames + 1)).amax(dim=1).clamp(min=1)
    size_B = _padded(length_B, FRAMES_STEP, most)
    blocks = []
    for size in size_B.unique().tolist():
        filled = VIDEOS_A_BLOCK if size <= LONG_VIDEO else 1
        for rows in (size_B == size).nonzero()[:, 0].split(filled):
            slots = _filled(rows, filled)

            def cut(tensor: Tensor, slots: Tensor = slots, size: int = size) -> Tensor:
                """[B, F] or [B, F, D] of these videos, with `size` frames."""
                return pad(tensor[slots, :size], (0, 0) * (tensor.ndim - 2) + (0, max(0, size - frames)))

            blocks.append(VideoBlock(rows, batch.each(cut)))
    return blocks


def _padded(length: Tensor, step: int, most: int) -> Tensor:
    """The next multiple of `step`, but no more than `most` where the length is not."""
    return torch.maximum(length, (-(-length // step) * step).clamp(max=most))


def _filled(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows, rows[:1].expand(count - len(rows))]) if len(rows) < count else rows
