"""Standard normal noise that is a function of what it is for: the content of a text, the content of a video, and the number of a sample.

No generator has a state. A text and a video are hashed to 64 bits each, a pair's two hashes give its key, and a counter-based generator
(SplitMix64: Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators") turns key and place into 64 bits, which choose four
numbers of a table of 65,536 quantiles:

    word i of sample m = mix(key + (m * ceil(D / 4) + i) * GOLDEN)        numbers 4i ... 4i + 3 = QUANTILE[its four 16-bit parts]

So the noise of a pair has the same bits alone and in any batch, on any number of threads, in any process and on any device. Its numbers are
quantiles of the normal distribution, scaled to a variance of 1: their distribution function differs from the normal one by at most 2^-17,
and none lies beyond 4.4.

Shape suffixes: A texts, B videos, F frames, D joint dimension, W words of 64 bits, ... any shape.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data.compute.staging import to_device
from train_head.kernels.loops import Floats, compiled

LEVELS = 2**16
"""Numbers of the table: one for each value of 16 bits."""
PARTS = 4
"""Numbers that one word of 64 bits gives."""
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The constants of SplitMix64."""
_U_GOLDEN, _U_FIRST, _U_SECOND = np.uint64(_GOLDEN), np.uint64(_FIRST), np.uint64(_SECOND)
_16, _27, _30, _31, _32, _48 = (np.uint64(n) for n in (16, 27, 30, 31, 32, 48))
_LOW = np.uint64(LEVELS - 1)


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned word: torch multiplies int64 modulo 2^64, and has no full uint64."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(word: Tensor, bits: int) -> Tensor:
    """Shift int64 to the right and fill with zeros; torch's shift repeats the sign."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)


def mix(word: Tensor) -> Tensor:
    """SplitMix64's output function on the 64 bits of every int64: a bijection, after which every bit depends on every bit."""
    word = (word ^ _shifted(word, 30)) * _signed(_FIRST)
    word = (word ^ _shifted(word, 27)) * _signed(_SECOND)
    return word ^ _shifted(word, 31)


def _counted(count: int, device: torch.device) -> Tensor:
    """mix(1 * GOLDEN), mix(2 * GOLDEN), ...: `count` different words."""
    return mix(torch.arange(1, count + 1, device=device) * _signed(_GOLDEN))


def hash_rows(row_D: Tensor) -> Tensor:
    """The hash [...] of each row [..., D] of features, rounded to float32: an int64 that depends on all their bits and their places.

    Sums of int64 are exact in any order, so that it does not depend on shapes.
    """
    bits = row_D.detach().float().contiguous().view(torch.int32).to(torch.int64)
    # An odd factor keeps all bits of a number.
    return mix((bits * (_counted(row_D.shape[-1], row_D.device) | 1)).sum(dim=-1))


def hash_videos(frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
    """The hash [B] of each video's real frames and their order. Padding does not count."""
    place_BF = mask_BF.cumsum(dim=1) * _signed(_GOLDEN)
    return mix((mix(hash_rows(frame_BFD) + place_BF) * mask_BF).sum(dim=1))


def pair_keys(text_A: Tensor, video_B: Tensor, draw: Tensor | int = 0) -> Tensor:
    """The keys [B, A] of the noise of all pairs, from the hashes of texts and videos. Another `draw` gives other noise for every pair."""
    of_pair_BA = mix(text_A[None] * _signed(_FIRST) + video_B[:, None])
    if not isinstance(draw, Tensor):
        draw = torch.full((), draw, device=text_A.device)
    return mix(of_pair_BA + draw.to(text_A.device) * _signed(_SECOND))


@cache
def quantiles() -> Tensor:
    """The table [LEVELS]: quantiles of the standard normal distribution at (i + 1/2) / LEVELS, scaled to a variance of 1."""
    quantile: Tensor = torch.special.ndtri((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS)
    return quantile.div(quantile.square().mean().sqrt()).float()


@cache
def _quantiles_on(device: torch.device) -> Tensor:
    return to_device(quantiles(), device)


def words_of(dimension: int) -> int:
    """Words of 64 bits in a sample of this dimension."""
    return -(-dimension // PARTS)


def noise(key: Tensor, sample: int, dimension: int) -> Tensor:
    """Sample number `sample` of the noise [..., dimension] for these keys [...], as float32."""
    words = words_of(dimension)
    place_W = torch.arange(sample * words, (sample + 1) * words, device=key.device) * _signed(_GOLDEN)
    word = mix(key[..., None] + place_W)
    part = torch.stack([_shifted(word, 16 * i) & (LEVELS - 1) for i in range(PARTS)], dim=-1)
    return _quantiles_on(key.device)[part].flatten(-2)[..., :dimension]


@compiled
def draw_noise(key: Any, sample: int, table: Floats, words: int, out: Floats) -> None:
    """Write a sample as `noise` gives it to out[: 4 * words]."""
    state = key + np.uint64(sample * words) * _U_GOLDEN
    for i in range(words):
        word = (state ^ (state >> _30)) * _U_FIRST
        word = (word ^ (word >> _27)) * _U_SECOND
        word = word ^ (word >> _31)
        state += _U_GOLDEN
        out[4 * i] = table[word & _LOW]
        out[4 * i + 1] = table[(word >> _16) & _LOW]
        out[4 * i + 2] = table[(word >> _32) & _LOW]
        out[4 * i + 3] = table[word >> _48]
