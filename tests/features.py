"""Random features, heads and batches for tests of the scores.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, D joint dimension, X any dimensions.
"""

import torch
from torch import Tensor

from tests.glim_reference import NAMES
from train_head.heads import TextBatch, VideoBatch

D = 16
PATCHES = 4
"""Patch tokens of a frame in `patches_of`."""


def random_head(generator: torch.Generator, max_words: int, dimension: int = D, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Matrices far from the identity and not symmetric: the identity hides wrong masks and transposed matrices."""

    def matrix(n: int) -> Tensor:
        return (torch.eye(n) + 0.3 * torch.randn(n, n, generator=generator)).to(dtype)

    return {"M_g": matrix(dimension), "M_l": matrix(dimension)} | {name: matrix(max_words) for name in NAMES}


def random_features(
    generator: torch.Generator, word_counts: list[int], frame_counts: list[int], norm: float = 6.0
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    def rows(*shape: int) -> Tensor:
        return torch.randn(*shape, D, generator=generator).mul(norm * D**-0.5)

    return [rows() for _ in word_counts], [rows(n) for n in word_counts], [rows(n) for n in frame_counts]


def pad(rows: list[Tensor], extra: int = 0, fill: float = 0.0) -> tuple[Tensor, Tensor]:
    length = max(map(len, rows)) + extra
    padded = torch.full((len(rows), length, rows[0].shape[1]), fill, dtype=rows[0].dtype)
    mask = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, row in enumerate(rows):
        padded[i, : len(row)], mask[i, : len(row)] = row, True
    return padded, mask


def patches_of(frame_XD: Tensor) -> Tensor:
    """Patch tokens [..., PATCHES, D] of frames [..., D], for tests of any head: numbers of the frame in another order, each times another
    number, so that they are as large as the frame's. They depend bit for bit on their own frame alone."""
    generator, dimension = torch.Generator().manual_seed(9), frame_XD.shape[-1]
    order_M = [torch.randperm(dimension, generator=generator) for _ in range(PATCHES)]
    factor_MD = torch.randn(PATCHES, dimension, generator=generator).to(frame_XD.dtype)
    return torch.stack([frame_XD[..., order_D] * factor_D for order_D, factor_D in zip(order_M, factor_MD, strict=True)], dim=-2)


def video_batch(frames: list[Tensor], extra: int = 0, fill: float = 0.0) -> VideoBatch:
    """Videos with their `patches_of`, padded by `pad`; the patch tokens of a padded frame are made of `fill` too."""
    frame_BFD, mask_BF = pad(frames, extra, fill)
    return VideoBatch(frame_BFD, mask_BF, patches_of(frame_BFD))


def text_batch(sentences: list[Tensor], words: list[Tensor]) -> TextBatch:
    return TextBatch(torch.stack(sentences), torch.cat(words), torch.tensor([len(w) for w in words]))


KINDS = [
    "zero sentence",
    "zero word",
    "zero frames",
    "one zero frame",
    "cancelling frames",
    "equal frames",
    "norm 300",
    "one frame, one word",
]


def degenerate(kind: str) -> tuple[Tensor, Tensor, Tensor]:
    """One text and two videos with something that divides by zero in the plain form."""
    generator = torch.Generator().manual_seed(5)
    sentences, words, frames = random_features(generator, [4], [3, 3])
    if kind == "zero sentence":
        sentences[0].zero_()
    elif kind == "zero word":
        words[0][1] = 0
    elif kind == "zero frames":
        frames[0].zero_()
    elif kind == "one zero frame":
        frames[0][1] = 0
    elif kind == "cancelling frames":
        frames[0] = torch.stack([frames[0][0], -frames[0][0]])
        sentences[0].zero_()
        words[0].zero_()
    elif kind == "equal frames":
        frames[0][:] = frames[0][0]
    elif kind == "norm 300":
        frames = [50 * f for f in frames]
    elif kind == "one frame, one word":
        frames[0], words[0] = frames[0][:1], words[0][:1]
    return torch.stack(sentences), words[0][None], pad(frames)[0]
