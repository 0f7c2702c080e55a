"""X-CLIP's aggregations with their gradients on a CPU, from its matrix products, in the compiled loops of `loops.py`.

Serves training alone. Columns are interleaved as in `fused.py`: a vector of the loops holds one number for each of LANES videos.

Shape suffixes: A texts, B videos, L words, F frames, V the LANES videos of a vector, N blocks of them, X = N * V videos, C = N * F * V
frames, P the three matrices over words or over frames, S the three scores that aggregate. Letters in the loops as in `loops.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from train_head.kernels.lanes import LANES, exp, fill, load, store, where_greater
from train_head.kernels.loops import Floats, Pooling, compiled, multiply, pool, pool_gradient
from train_head.kernels.threads import parallel
from train_head.masking import FAR_BELOW

TEXTS_PER_JOB = 4
"""Texts that a thread takes at once. Constant, so that sums do not depend on the number of threads."""

_0, _1, _HALF, _FAR_BELOW = np.float32(0), np.float32(1), np.float32(0.5), np.float32(FAR_BELOW)


class _Scratch(NamedTuple):
    """Scratch memory of one thread, for one text and LANES videos. Cosines of words i with frames f, with the video, of the sentence."""

    z: Floats
    """Word-frame [i, f]."""
    x: Floats
    """Video-word [i]."""
    y: Floats
    """Sentence-frame [f]."""
    p1: Pooling
    p2: Pooling
    p3: Pooling
    p4: Pooling
    p5: Pooling
    p6: Pooling
    given: Floats
    gradient_z: Floats
    gradient_x: Floats
    gradient_y: Floats
    gradient_i: Floats
    gradient_f: Floats
    spare: Floats


def _make_scratch(length: int, frames: int) -> _Scratch:
    def floats(vectors: int) -> Floats:
        return torch.empty(vectors * LANES, dtype=torch.float32).numpy()

    def pooling(size: int, others: int) -> Pooling:
        return Pooling(floats(size * others), floats(size * others), floats(others), floats(others))

    return _Scratch(
        z=floats(length * frames),
        x=floats(length),
        y=floats(frames),
        p1=pooling(length, 1),
        p2=pooling(frames, 1),
        p3=pooling(length, frames),
        p4=pooling(frames, 1),
        p5=pooling(frames, length),
        p6=pooling(length, 1),
        given=floats(1),
        gradient_z=floats(length * frames),
        gradient_x=floats(length),
        gradient_y=floats(frames),
        gradient_i=floats(length),
        gradient_f=floats(frames),
        spare=floats(max(length, frames) ** 2),
    )


def laned(frame_BFD: Tensor) -> Tensor:
    """The frames as columns [C, D] of a product: frame 0 of videos 0 to 15, frame 1 of videos 0 to 15, ... Zeros fill the last block."""
    more = -len(frame_BFD) % LANES
    column_CD: Tensor = pad(frame_BFD, (0, 0, 0, 0, 0, more)).unflatten(0, (-1, LANES)).transpose(1, 2).flatten(0, 2)
    return column_CD


def aggregate_pairs(
    z_ALC: Tensor, y_AC: Tensor, x_ALB: Tensor, length_A: Tensor, mask_BF: Tensor, words_PLL: Tensor, frames_PFF: Tensor, kappa: float
) -> Tensor:
    """The scores video-word, sentence-frame and word-frame [S, A, B] of X-CLIP, with gradients.

    z, y, x: cosines of words with frames, sentences with frames, and words with videos; frames in the order of `laned`. `words_PLL` are P1,
    P3 and P6 and `frames_PFF` P2, P4 and P5, not smaller than texts and videos are long. Cosines with masked frames must be 0.
    """
    count = len(mask_BF)
    more = -count % LANES
    # A video without frames, as those that fill the last block, aggregates zeros.
    valid_XF = pad(mask_BF | ~mask_BF.any(dim=1, keepdim=True), (0, 0, 0, more), value=True)
    valid_NFV = valid_XF.unflatten(0, (-1, LANES)).transpose(1, 2).float().contiguous()
    cosines = z_ALC, y_AC, pad(x_ALB, (0, more))
    scores_SAX: Tensor = _Aggregate.apply(length_A, valid_NFV, np.float32(1 / kappa), *cosines, words_PLL, frames_PFF)
    return scores_SAX[:, :, :count]


class _Aggregate(torch.autograd.Function):
    """The three scores. The backward pass computes everything again from the cosines. Has first derivatives only."""

    @staticmethod
    def forward(ctx: Any, length_A: Tensor, valid_NFV: Tensor, kappa_inverse: np.float32, *inputs: Tensor) -> Tensor:
        inputs = tuple(tensor.contiguous() for tensor in inputs)
        ctx.shape = length_A, valid_NFV, kappa_inverse
        ctx.save_for_backward(*inputs)
        scores_SAX = inputs[0].new_empty(3, len(length_A), len(valid_NFV) * LANES)

        def work(rows: Tensor, scratch: _Scratch) -> None:
            some, out_SAX = _some(rows, inputs), torch.empty(3, len(rows), scores_SAX.shape[2])
            _score_texts(*some, length_A[rows].numpy(), valid_NFV.numpy(), kappa_inverse, scratch, out_SAX.numpy())
            scores_SAX[:, rows] = out_SAX

        _run(work, length_A, valid_NFV)
        return scores_SAX

    @staticmethod
    def backward(ctx: Any, gradient_SAX: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the compiled scores have no derivatives of their gradients (create_graph=True): use float64")
        length_A, valid_NFV, kappa_inverse = ctx.shape
        inputs = ctx.saved_tensors
        gradients = [torch.zeros_like(tensor) for tensor in inputs]
        parts: dict[int, tuple[Tensor, Tensor]] = {}

        def work(rows: Tensor, scratch: _Scratch) -> None:
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            length, frames = inputs[0].shape[1], valid_NFV.shape[1]
            d_words_PLLV, d_frames_PFFV = torch.zeros(3, length, length, LANES), torch.zeros(3, frames, frames, LANES)
            _gradient_of_texts(
                *_some(rows, inputs),
                length_A[rows].numpy(),
                valid_NFV.numpy(),
                kappa_inverse,
                scratch,
                gradient_SAX[:, rows].contiguous().numpy(),
                gradients[0][part].numpy(),
                gradients[1][part].numpy(),
                gradients[2][part].numpy(),
                d_words_PLLV.numpy(),
                d_frames_PFFV.numpy(),
            )
            parts[int(rows[0])] = d_words_PLLV.sum(dim=-1), d_frames_PFFV.sum(dim=-1)

        _run(work, length_A, valid_NFV)
        # Summed in a fixed order, so that results do not depend on which thread finished first.
        for first in sorted(parts):
            for gradient, part in zip(gradients[3:], parts[first], strict=True):
                gradient[:, : part.shape[1], : part.shape[2]] += part
        return (None, None, None, *gradients)


def _some(rows: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Any, Any, Any, Any, Any]:
    """The cosines of these texts, and all matrices."""
    z_ALC, y_AC, x_ALX, words_PLL, frames_PFF = inputs
    part = slice(int(rows[0]), int(rows[-1]) + 1)
    return z_ALC[part].numpy(), y_AC[part].numpy(), x_ALX[part].numpy(), words_PLL.numpy(), frames_PFF.numpy()


def _run(work: Callable[[Tensor, _Scratch], None], length_A: Tensor, valid_NFV: Tensor) -> None:
    jobs = torch.arange(len(length_A)).split(TEXTS_PER_JOB)
    parallel(torch.get_num_threads(), work, jobs, lambda: _make_scratch(int(length_A.max()), valid_NFV.shape[1]))


@compiled
def _pool_frames(
    x: Any,
    x_inner: int,
    x_other: int,
    others: int,
    frames: int,
    valid: Any,
    valid_start: int,
    matrices_PFF: Any,
    which: int,
    kappa_inverse: Any,
    p: Any,
) -> None:
    """`pool` over frames, where only those with `valid` get weights. The others must be 0 in x."""
    line, width, zero = others * LANES, matrices_PFF.shape[2], fill(_0)
    numbers = (matrices_PFF.reshape(-1),)
    multiply(numbers, which * width * width, width, 1, x, 0, x_other, x_inner, frames, others, frames, p.product, 0, line)
    for o in range(others):
        here, at = o * x_other, o * LANES
        top = fill(_FAR_BELOW)
        for j in range(frames):
            value = where_greater(load(valid, valid_start + j * LANES), zero, load(x, here + j * x_inner), fill(_FAR_BELOW))
            top = where_greater(value, top, value, top)
        sums = result = zero
        for j in range(frames):
            below = (load(x, here + j * x_inner) - top) * fill(kappa_inverse)
            # A frame that does not count may be above those that do.
            weight = exp(where_greater(below, zero, zero, below)) * load(valid, valid_start + j * LANES)
            store(p.weight, j * line + at, weight)
            sums = sums + weight
            result = result + weight * load(p.product, j * line + at)
        inverse = fill(_1) / sums
        store(p.inverse, at, inverse)
        store(p.result, at, result * inverse)


@compiled
def _score_pairs(
    z: Any,
    y: Any,
    x: Any,
    a: int,
    length: int,
    n: int,
    frames: int,
    blocks: int,
    longest: int,
    valid: Any,
    words_PLL: Any,
    frames_PFF: Any,
    kappa_inverse: Any,
    s: Any,
) -> None:
    """Score text a with the videos of block n."""
    step = frames * LANES
    for i in range(length):
        store(s.x, i * LANES, load(x, ((a * longest + i) * blocks + n) * LANES))
        start = ((a * longest + i) * blocks + n) * step
        for f in range(0, step, LANES):
            store(s.z, i * step + f, load(z, start + f))
    for f in range(0, step, LANES):
        store(s.y, f, load(y, (a * blocks + n) * step + f))
    here = n * step
    pool(s.x, LANES, 0, 1, length, words_PLL, 0, kappa_inverse, s.p1)
    _pool_frames(s.y, LANES, 0, 1, frames, valid, here, frames_PFF, 0, kappa_inverse, s.p2)
    pool(s.z, step, LANES, frames, length, words_PLL, 1, kappa_inverse, s.p3)
    _pool_frames(s.p3.result, LANES, 0, 1, frames, valid, here, frames_PFF, 1, kappa_inverse, s.p4)
    _pool_frames(s.z, LANES, step, length, frames, valid, here, frames_PFF, 2, kappa_inverse, s.p5)
    pool(s.p5.result, LANES, 0, 1, length, words_PLL, 2, kappa_inverse, s.p6)


@compiled
def _check(z_ALC: Any, y_AC: Any, x_ALX: Any, length_A: Any, valid_NFV: Any, words_PLL: Any, frames_PFF: Any, s: Any) -> None:
    """Check the sizes of all memory, because `load` and `store` do not check bounds."""
    blocks, frames = valid_NFV.shape[0], valid_NFV.shape[1]
    longest = 1
    for a in range(len(length_A)):
        longest = max(longest, length_A[a])
    assert z_ALC.shape[1] >= longest, "cosines of shorter texts"
    assert x_ALX.shape[1] == z_ALC.shape[1], "cosines of other texts"
    assert min(len(z_ALC), len(y_AC), len(x_ALX)) >= len(length_A), "cosines of fewer texts"
    assert z_ALC.shape[2] == blocks * frames * LANES, "cosines of other videos"
    assert y_AC.shape[1] == blocks * frames * LANES, "cosines of other videos"
    assert x_ALX.shape[2] == blocks * LANES, "cosines of other videos"
    assert words_PLL.shape[1] >= longest, "matrices are for shorter texts"
    assert frames_PFF.shape[1] >= frames, "matrices are for fewer frames"
    assert len(s.z) >= longest * frames * LANES, "scratch is for shorter texts or fewer frames"


@compiled
def _score_texts(
    z_ALC: Any,
    y_AC: Any,
    x_ALX: Any,
    words_PLL: Any,
    frames_PFF: Any,
    length_A: Any,
    valid_NFV: Any,
    kappa_inverse: Any,
    s: Any,
    out_SAX: Any,
) -> None:
    """The three scores of some texts with all videos."""
    _check(z_ALC, y_AC, x_ALX, length_A, valid_NFV, words_PLL, frames_PFF, s)
    blocks, frames, longest = valid_NFV.shape[0], valid_NFV.shape[1], z_ALC.shape[1]
    z, y, x, valid, out = z_ALC.reshape(-1), y_AC.reshape(-1), x_ALX.reshape(-1), valid_NFV.reshape(-1), out_SAX.reshape(-1)
    score_step, half = out_SAX.shape[1] * out_SAX.shape[2], fill(_HALF)
    for a in range(len(length_A)):
        for n in range(blocks):
            _score_pairs(z, y, x, a, length_A[a], n, frames, blocks, longest, valid, words_PLL, frames_PFF, kappa_inverse, s)
            at = (a * blocks + n) * LANES
            store(out, at, load(s.p1.result, 0))
            store(out, at + score_step, load(s.p2.result, 0))
            store(out, at + 2 * score_step, half * (load(s.p4.result, 0) + load(s.p6.result, 0)))


@compiled
def _gradient_of_texts(
    z_ALC: Any,
    y_AC: Any,
    x_ALX: Any,
    words_PLL: Any,
    frames_PFF: Any,
    length_A: Any,
    valid_NFV: Any,
    kappa_inverse: Any,
    s: Any,
    given_SAX: Any,
    d_z_ALC: Any,
    d_y_AC: Any,
    d_x_ALX: Any,
    d_words_PLLV: Any,
    d_frames_PFFV: Any,
) -> None:
    """Write the gradients of the cosines of some texts, and add, in every lane, to those of the matrices."""
    _check(z_ALC, y_AC, x_ALX, length_A, valid_NFV, words_PLL, frames_PFF, s)
    blocks, frames, longest = valid_NFV.shape[0], valid_NFV.shape[1], z_ALC.shape[1]
    z, y, x, valid, given = z_ALC.reshape(-1), y_AC.reshape(-1), x_ALX.reshape(-1), valid_NFV.reshape(-1), given_SAX.reshape(-1)
    d_z, d_y, d_x = d_z_ALC.reshape(-1), d_y_AC.reshape(-1), d_x_ALX.reshape(-1)
    score_step, step, zero = given_SAX.shape[1] * given_SAX.shape[2], frames * LANES, fill(_0)
    for a in range(len(length_A)):
        length = length_A[a]
        for n in range(blocks):
            _score_pairs(z, y, x, a, length, n, frames, blocks, longest, valid, words_PLL, frames_PFF, kappa_inverse, s)
            for i in range(0, length * LANES, LANES):
                store(s.gradient_x, i, zero)
                store(s.gradient_i, i, zero)
            for f in range(0, step, LANES):
                store(s.gradient_y, f, zero)
                store(s.gradient_f, f, zero)
            for i in range(0, length * step, LANES):
                store(s.gradient_z, i, zero)
            at = (a * blocks + n) * LANES
            w, m, k, d_w, d_m, spare = words_PLL, frames_PFF, kappa_inverse, d_words_PLLV, d_frames_PFFV, s.spare
            store(s.given, 0, fill(_HALF) * load(given, at + 2 * score_step))
            pool_gradient(s.p5.result, LANES, 0, 1, length, w, 2, k, s.p6, s.given, s.gradient_i, d_w, spare)
            pool_gradient(s.z, LANES, step, length, frames, m, 2, k, s.p5, s.gradient_i, s.gradient_z, d_m, spare)
            pool_gradient(s.p3.result, LANES, 0, 1, frames, m, 1, k, s.p4, s.given, s.gradient_f, d_m, spare)
            pool_gradient(s.z, step, LANES, frames, length, w, 1, k, s.p3, s.gradient_f, s.gradient_z, d_w, spare)
            store(s.given, 0, load(given, at + score_step))
            pool_gradient(s.y, LANES, 0, 1, frames, m, 0, k, s.p2, s.given, s.gradient_y, d_m, spare)
            store(s.given, 0, load(given, at))
            pool_gradient(s.x, LANES, 0, 1, length, w, 0, k, s.p1, s.given, s.gradient_x, d_w, spare)
            for i in range(length):
                store(d_x, ((a * longest + i) * blocks + n) * LANES, load(s.gradient_x, i * LANES))
                start = ((a * longest + i) * blocks + n) * step
                for f in range(0, step, LANES):
                    store(d_z, start + f, load(s.gradient_z, i * step + f))
            for f in range(0, step, LANES):
                store(d_y, (a * blocks + n) * step + f, load(s.gradient_y, f))
