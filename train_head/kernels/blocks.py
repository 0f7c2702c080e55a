"""Divides a batch into blocks of texts or videos, which a head encodes and scores together.

On a CPU without gradients, the shape of a block depends on the lengths of its own texts or videos only. Lengths are padded to multiples of
WORDS_STEP or FRAMES_STEP, and a block is filled to a constant number of texts or videos by repeating the first. So the shapes of a head's
products do not depend on what else is in the batch (data/compute/shapes.py says why that matters). With gradients, and on a GPU, blocks are
only as large as their contents.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S the scores of a pair.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from data.compute.device import by_device
from data.compute.shapes import GRAIN
from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch

WORDS_STEP, FRAMES_STEP = 8, 4
TEXTS_PER_BLOCK = GRAIN // 2
"""Texts are rows of a product, where half of GRAIN suffices."""
VIDEOS_PER_BLOCK = GRAIN
LONG_VIDEO = 128
"""A video with more frames than this forms a block by itself."""
TRAINED_TEXTS_PER_BLOCK = {"cpu": 16, "cuda": 64}
"""Texts per block where shapes may vary. A block holds texts of similar length, since the cost of a text is quadratic in its padded
length. On a GPU every block launches the same kernels, whatever is in it."""


@dataclass(frozen=True)
class TextBlock:
    """Some texts of a batch. `rows` holds the batch indices of the first len(rows) texts; the other texts only fill the block."""

    rows: Tensor
    sentence_AD: Tensor
    word_ALD: Tensor
    """A text's last word is repeated as padding. L is 0 for a head that does not read words."""
    mask_AL: Tensor
    """True at words."""


@dataclass(frozen=True)
class VideoBlock:
    """Some videos of a batch. `rows` holds the batch indices of the first len(rows) videos; the other videos only fill the block."""

    rows: Tensor
    frames: EncodedFrames


@dataclass(frozen=True)
class Encoded:
    """A block as encoded by a head, with the batch indices of its texts or videos."""

    rows: Tensor
    block: Any


def constant_shapes(features: Tensor) -> bool:
    """Whether blocks of these features must have shapes that do not depend on the rest of the batch."""
    return features.device.type == "cpu" and not torch.is_grad_enabled()


def text_blocks(batch: TextBatch, *, words: bool, alone: bool, most: int) -> list[TextBlock]:
    """Divide texts into blocks; with `alone`, one text per block. Pads no text beyond `most` words."""
    device = batch.sentence_AD.device
    length_A = batch.length_A if words else torch.zeros_like(batch.length_A)
    size_A, count = length_A, len(length_A)
    if constant_shapes(batch.sentence_AD):
        size_A = _padded(length_A, WORDS_STEP, most)
        filled = 1 if alone else TEXTS_PER_BLOCK
        members = [rows for size in size_A.unique() for rows in (size_A == size).nonzero()[:, 0].split(filled)]
    else:
        filled = 0
        members = list(length_A.argsort(stable=True).split(by_device(TRAINED_TEXTS_PER_BLOCK, device) if words else count))
    real_A = batch.length_A if batch.real_A is None else batch.real_A
    first_A = batch.length_A.cumsum(dim=0) - batch.length_A
    blocks = []
    for rows in members:
        slots = _filled(rows, filled)
        position_L = torch.arange(int(size_A[slots].max()))
        word_AL = first_A[slots, None] + torch.minimum(position_L, batch.length_A[slots, None] - 1)
        mask_AL = position_L < real_A[slots, None]
        blocks.append(
            TextBlock(
                rows, batch.sentence_AD[to_device(slots, device)], batch.word_RD[to_device(word_AL, device)], to_device(mask_AL, device)
            )
        )
    return blocks


def video_blocks(
    batch: EncodedFrames, most: int, whole: bool = False, at_once: int = VIDEOS_PER_BLOCK, long: int = LONG_VIDEO
) -> list[VideoBlock]:
    """Divide videos into blocks of `at_once`; one of more frames than `long` is a block by itself. Pads no video beyond `most` frames; with
    `whole`, every video keeps all positions of the batch."""
    count, frames = batch.mask_BF.shape
    if not constant_shapes(batch.frame_BFD):
        return [VideoBlock(torch.arange(count), batch)]
    # Up to the last real frame, because masks may have holes.
    length_B = (batch.mask_BF * torch.arange(1, frames + 1)).amax(dim=1).clamp(min=1)
    size_B = torch.full_like(length_B, frames) if whole else _padded(length_B, FRAMES_STEP, most)
    blocks = []
    for size in size_B.unique().tolist():
        filled = at_once if size <= long else 1
        for rows in (size_B == size).nonzero()[:, 0].split(filled):
            slots = _filled(rows, filled)

            def resized(tensor: Tensor, slots: Tensor = slots, size: int = size) -> Tensor:
                """Select these videos from [B, F] or [B, F, D], truncated or padded to `size` frames."""
                return pad(tensor[slots, :size], (0, 0) * (tensor.ndim - 2) + (0, max(0, size - frames)))

            blocks.append(VideoBlock(rows, batch.each(resized)))
    return blocks


def _padded(length: Tensor, step: int, most: int) -> Tensor:
    """Round lengths up to a multiple of `step`, but not beyond `most`. A length above `most` stays."""
    return torch.maximum(length, (-(-length // step) * step).clamp(max=most))


def _filled(rows: Tensor, count: int) -> Tensor:
    return torch.cat([rows, rows[:1].expand(count - len(rows))]) if len(rows) < count else rows
