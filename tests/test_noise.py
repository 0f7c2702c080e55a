"""The noise of a pair (train_head/kernels/noise.py): normal, independent, and a function of content alone."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from train_head.kernels.noise import draw_noise, hash_rows, hash_videos, mix, noise, pair_keys, quantiles, words_of


def keys(texts: int, videos: int) -> Tensor:
    """Of random texts and videos, [B, A]."""
    generator = torch.Generator().manual_seed(0)
    frame_BFD = torch.randn(videos, 3, 16, generator=generator)
    mask_BF = torch.ones(videos, 3, dtype=torch.bool)
    return pair_keys(hash_rows(torch.randn(texts, 16, generator=generator)), hash_videos(frame_BFD, mask_BF))


def test_numbers_are_normal() -> None:
    """Four moments, and the distribution function by Kolmogorov and Smirnov, of a million numbers; bounds are five deviations."""
    numbers = noise(keys(16, 16), 1, 4096).flatten().double()
    count = len(numbers)
    for power, (moment, variance) in enumerate([(0, 1), (1, 2), (0, 15), (3, 96)], start=1):
        assert abs(numbers.pow(power).mean().item() - moment) < 5 * math.sqrt(variance / count), power
    steps = torch.arange(count + 1) / count
    below = torch.special.ndtr(numbers.sort().values)
    distance = max((steps[1:] - below).max().item(), (below - steps[:-1]).max().item())
    # A larger distance has a probability of 2 exp(-2 * 2.5^2) = 7e-6; the table adds its own.
    assert distance < 2.5 / math.sqrt(count) + 2**-17


def test_the_table_is_as_normal_as_said() -> None:
    levels = quantiles().double()
    assert levels.square().mean().item() == pytest.approx(1, abs=1e-6)
    assert levels.abs().max() < 4.4
    place = (torch.arange(len(levels)) + 0.5) / len(levels)
    # Scaling to a variance of 1 and rounding to float32 move no number as far as half a level.
    assert (torch.special.ndtr(levels) - place).abs().max() < 2**-17


def test_pairs_samples_and_dimensions_are_independent() -> None:
    """All pairs of vectors, among them those of one text, of one video, and of neighbouring samples: products of their numbers, and of
    their squares, sum up as those of independent normal numbers do. The bounds are those of the greatest of 130,000 normal numbers."""
    key_BA, d = keys(8, 8), 4096
    vector_ND = torch.stack([noise(key_BA, sample, d) for sample in range(8)]).flatten(0, 2).double()
    squares_ND = (vector_ND.square() - 1) / math.sqrt(2)
    for of_ND in (vector_ND, squares_ND, vector_ND.roll(1, dims=1) * vector_ND.sign()):
        product_NN = of_ND @ of_ND.T / math.sqrt(d)
        apart = product_NN[torch.triu(torch.ones_like(product_NN, dtype=torch.bool), 1)]
        assert apart.abs().max() < 6.5
        # The square of each has a mean of 1 and, near enough, a variance of 2.
        assert abs(apart.square().mean().item() - 1) < 5 * math.sqrt(2.2 / len(apart))
    within_LD = torch.stack([(vector_ND * vector_ND.roll(lag, dims=1)).sum() for lag in range(1, 33)])
    assert within_LD.abs().max() < 5 * math.sqrt(vector_ND.numel())


def test_every_bit_of_a_feature_and_the_order_of_frames_count_and_padding_does_not() -> None:
    generator = torch.Generator().manual_seed(1)
    frame_FD = torch.randn(5, 16, generator=generator)
    mask_F = torch.tensor([True] * 3 + [False] * 2)

    def hashed(frames: Tensor, mask: Tensor = mask_F) -> int:
        return int(hash_videos(frames[None], mask[None])[0])

    whole = hashed(frame_FD)
    assert whole == hashed(frame_FD[:3], mask_F[:3])
    assert whole == hashed(torch.cat([frame_FD[:3], torch.full((9, 16), 7.0)]), torch.tensor([True] * 3 + [False] * 9))
    found = {whole, hashed(frame_FD[[1, 0, 2, 3, 4]]), hashed(frame_FD[:, [1, 0, *range(2, 16)]]), hashed(frame_FD[:2], mask_F[:2])}
    for bit in range(32):
        bits = frame_FD.view(torch.int32).clone()
        bits[1, 4] ^= torch.tensor(1 << bit).to(torch.int32)
        found.add(hashed(bits.view(torch.float32)))
    assert len(found) == 36


def test_keys_differ_between_pairs_and_draws() -> None:
    text_A, video_B = mix(torch.arange(300)), mix(torch.arange(300, 700))
    # A text and a video of one content are two things: their pair's key is not that of the pair turned round.
    found = torch.cat([pair_keys(text_A, video_B, draw).flatten() for draw in (0, 1, 2**61)] + [pair_keys(video_B, text_A).flatten()])
    assert len(found.unique()) == len(found)


@pytest.mark.parametrize("dimension", [1, 16, 18])
def test_the_compiled_noise_has_the_bits_of_the_other(dimension: int) -> None:
    key_BA = keys(3, 2)
    for sample in (0, 19):
        expected = noise(key_BA, sample, dimension)
        for b, a in np.ndindex(2, 3):
            out = np.zeros(4 * words_of(dimension), dtype=np.float32)
            draw_noise(key_BA.numpy().view(np.uint64)[b, a], sample, quantiles().numpy(), words_of(dimension), out)
            assert torch.equal(torch.from_numpy(out)[:dimension], expected[b, a])


def test_mix_is_splitmix64() -> None:
    """The published generator's outputs from the seed 1234567."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    state, found = 1234567, []
    for _ in expected:
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        found.append(int(mix(torch.tensor(state - (state >> 63 << 64)))) % 2**64)
    assert found == expected
