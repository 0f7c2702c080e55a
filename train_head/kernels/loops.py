"""The compiled loops behind `fused.py`: from the two products of a tile of texts with some videos to the four scores, and back.

A vector holds one number for each of LANES videos, so every line below processes LANES pairs at once. All arrays are flat float32; entry i
of an array of vectors is the numbers [i * LANES : (i + 1) * LANES]. Intermediate results of a pair stay in the L1 and L2 caches.
docs/design/method.md has the equations.

Letters: i and k index words, j rows of P, o the dimension that is not pooled, f frames. `d_x` and `gradient_x` are the derivative of the
loss with respect to x.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_head.kernels.lanes import LANES, exp, factor, fill, load, root, store, total, where_greater
from train_head.masking import FAR_BELOW

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., None])


def compiled(function: Function) -> Function:
    """Compile a loop with numba on its first call. Cached on disk if numba finds a writable folder."""
    try:
        loop: Function = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        # With cache=True numba refuses to compile if neither the checkout, the home folder nor NUMBA_CACHE_DIR is writable.
        loop = numba.njit(nogil=True, error_model="numpy")(function)
    return loop


def compilable(features: Tensor) -> bool:
    """Whether the loops take these features: float32 on a CPU."""
    return features.device.type == "cpu" and features.dtype == torch.float32


# Python floats would make the compiled code compute in double precision.
_0, _1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_TINY, _FAR_BELOW, _NOISE = np.float32(1e-30), np.float32(FAR_BELOW), np.float32(1e-5)


class Pooling(NamedTuple):
    """Intermediate results of agg(x; P), kept for its gradient: P x [j, o], unnormalised weights [j, o], 1 / their sum [o], result [o]."""

    product: Floats
    weight: Floats
    inverse: Floats
    result: Floats


class Scratch(NamedTuple):
    """Scratch memory of one thread, for one text and LANES videos."""

    mixture: Floats
    """Weights of the frames [i, f], scaled so that each mixture has norm 1. The last row belongs to the sentence."""
    through_gram: Floats
    """`mixture` times the Gram matrix [i, f]."""
    x: Floats
    x_sum: Floats
    y: Floats
    y_sum: Floats
    z: Floats
    """Z [k, i]."""
    p1: Pooling
    p2: Pooling
    p3: Pooling
    p4: Pooling
    p5: Pooling
    p6: Pooling
    score: Floats
    """The video-sentence score."""
    given: Floats
    """The gradient of one score."""
    gradient_x: Floats
    gradient_y: Floats
    gradient_z: Floats
    gradient_k: Floats
    gradient_i: Floats
    gradient_mixture: Floats
    scaled: Floats
    spare: Floats


def make_scratch(longest: int, frames: int) -> Scratch:
    """Allocate scratch memory for texts of up to `longest` words."""
    line, square, mixture = longest * LANES, longest * longest * LANES, (longest + 1) * frames * LANES

    def floats(count: int) -> Floats:
        # torch aligns memory to cache lines, so that a vector occupies exactly one.
        return torch.empty(count, dtype=torch.float32).numpy()

    def pooling(count: int) -> Pooling:
        return Pooling(floats(longest * count), floats(longest * count), floats(count), floats(count))

    return Scratch(
        mixture=floats(mixture),
        through_gram=floats(mixture),
        x=floats(line),
        x_sum=floats(line),
        y=floats(line),
        y_sum=floats(line),
        z=floats(square),
        p1=pooling(LANES),
        p2=pooling(LANES),
        p3=pooling(line),
        p4=pooling(LANES),
        p5=pooling(line),
        p6=pooling(LANES),
        score=floats(LANES),
        given=floats(LANES),
        gradient_x=floats(line),
        gradient_y=floats(line),
        gradient_z=floats(square),
        gradient_k=floats(line),
        gradient_i=floats(line),
        gradient_mixture=floats(mixture),
        scaled=floats(mixture),
        spare=floats(max(square, frames * frames * LANES)),
    )


@compiled
def _store_four(out: Any, at: int, a: Any, b: Any, c: Any, d: Any) -> None:
    store(out, at, a)
    store(out, at + LANES, b)
    store(out, at + 2 * LANES, c)
    store(out, at + 3 * LANES, d)


@compiled
def multiply(
    x: Any,
    x_start: int,
    x_row: int,
    x_inner: int,
    y: Any,
    y_start: int,
    y_column: int,
    y_inner: int,
    rows: int,
    columns: int,
    inner: int,
    out: Any,
    out_start: int,
    out_row: int,
) -> None:
    """out[row, column] = sum of x[row, inner] * y[column, inner] over `inner`, in every lane.

    `x_row` and so on are strides. `x` may be a tuple of one array of numbers, which are the same for all lanes. Works on four rows by four
    columns at a time: sixteen sums stay in registers, and each loaded vector serves four of them. If rows run out, repeats the last one.
    """
    last = rows - 1
    for row in range(0, rows, 4):
        r1, r2, r3 = min(row + 1, last), min(row + 2, last), min(row + 3, last)
        x0, x1, x2, x3 = x_start + row * x_row, x_start + r1 * x_row, x_start + r2 * x_row, x_start + r3 * x_row
        o0, o1, o2, o3 = out_start + row * out_row, out_start + r1 * out_row, out_start + r2 * out_row, out_start + r3 * out_row
        column = 0
        while column + 4 <= columns:
            y0 = y_start + column * y_column
            y1, y2, y3 = y0 + y_column, y0 + 2 * y_column, y0 + 3 * y_column
            s00 = s01 = s02 = s03 = s10 = s11 = s12 = s13 = fill(_0)
            s20 = s21 = s22 = s23 = s30 = s31 = s32 = s33 = fill(_0)
            for at in range(inner):
                q0, q1, q2, q3 = (
                    load(y, y0 + at * y_inner),
                    load(y, y1 + at * y_inner),
                    load(y, y2 + at * y_inner),
                    load(y, y3 + at * y_inner),
                )
                p = factor(x, x0 + at * x_inner)
                s00, s01, s02, s03 = s00 + p * q0, s01 + p * q1, s02 + p * q2, s03 + p * q3
                p = factor(x, x1 + at * x_inner)
                s10, s11, s12, s13 = s10 + p * q0, s11 + p * q1, s12 + p * q2, s13 + p * q3
                p = factor(x, x2 + at * x_inner)
                s20, s21, s22, s23 = s20 + p * q0, s21 + p * q1, s22 + p * q2, s23 + p * q3
                p = factor(x, x3 + at * x_inner)
                s30, s31, s32, s33 = s30 + p * q0, s31 + p * q1, s32 + p * q2, s33 + p * q3
            _store_four(out, o0 + column * LANES, s00, s01, s02, s03)
            _store_four(out, o1 + column * LANES, s10, s11, s12, s13)
            _store_four(out, o2 + column * LANES, s20, s21, s22, s23)
            _store_four(out, o3 + column * LANES, s30, s31, s32, s33)
            column += 4
        while column < columns:
            y0, c0 = y_start + column * y_column, column * LANES
            s00 = s10 = s20 = s30 = fill(_0)
            for at in range(inner):
                q0 = load(y, y0 + at * y_inner)
                s00 = s00 + factor(x, x0 + at * x_inner) * q0
                s10 = s10 + factor(x, x1 + at * x_inner) * q0
                s20 = s20 + factor(x, x2 + at * x_inner) * q0
                s30 = s30 + factor(x, x3 + at * x_inner) * q0
            store(out, o0 + c0, s00)
            store(out, o1 + c0, s10)
            store(out, o2 + c0, s20)
            store(out, o3 + c0, s30)
            column += 1


@compiled
def _add(x: Any, count: int, out: Any, out_start: int) -> None:
    """out += x, for `count` vectors."""
    for at in range(0, count * LANES, LANES):
        store(out, out_start + at, load(out, out_start + at) + load(x, at))


@compiled
def _mix(raw: Any, start: int, stride: int, rows: int, frames: int, gram: Any, valid: Any, n: int, tau_inverse: Any, s: Any) -> None:
    """The method's alpha and beta, divided by the norms of the mixtures. A mixture whose frames cancel out gets zeros.

    The guard is that of `plain.guided_norm_inverse`, rewritten for weights that do not sum to 1.
    """
    zero, tau_inverse_V = fill(_0), fill(tau_inverse)
    step = frames * LANES
    valid_start, gram_start = n * step, n * frames * step
    for i in range(rows):
        here = start + i * stride
        top = fill(_FAR_BELOW)
        for f in range(0, step, LANES):
            product = where_greater(load(valid, valid_start + f), zero, load(raw, here + f), fill(_FAR_BELOW))
            top = where_greater(product, top, product, top)
        for f in range(0, step, LANES):
            below = (load(raw, here + f) - top) * tau_inverse_V
            store(s.mixture, i * step + f, exp(where_greater(below, zero, zero, below)) * load(valid, valid_start + f))
    multiply(s.mixture, 0, step, LANES, gram, gram_start, step, LANES, rows, frames, frames, s.through_gram, 0, step)
    for i in range(rows):
        square = alone = sums = fill(_0)
        for f in range(frames):
            at = i * step + f * LANES
            weight = load(s.mixture, at)
            square = square + weight * load(s.through_gram, at)
            alone = alone + weight * load(gram, gram_start + f * (step + LANES))
            sums = sums + weight
        least = fill(_NOISE) * alone * sums + fill(_TINY) * sums * sums
        inverse = where_greater(square, least, fill(_1) / root(where_greater(square, least, square, fill(_1))), zero)
        for f in range(0, step, LANES):
            store(s.mixture, i * step + f, load(s.mixture, i * step + f) * inverse)
            store(s.through_gram, i * step + f, load(s.through_gram, i * step + f) * inverse)


@compiled
def pool(x: Any, x_inner: int, x_other: int, others: int, length: int, matrices_6LL: Any, which: int, kappa_inverse: Any, p: Any) -> None:
    """The method's agg(x[:, o]; P) = (softmax(x / kappa) P) . x for every o, where P is the matrix at index `which`."""
    line, width = others * LANES, matrices_6LL.shape[2]
    kappa_inverse_V = fill(kappa_inverse)
    numbers = (matrices_6LL.reshape(-1),)
    multiply(numbers, which * width * width, width, 1, x, 0, x_other, x_inner, length, others, length, p.product, 0, line)
    for o in range(others):
        here, at = o * x_other, o * LANES
        top = load(x, here)
        for j in range(1, length):
            value = load(x, here + j * x_inner)
            top = where_greater(value, top, value, top)
        sums = result = fill(_0)
        for j in range(length):
            weight = exp((load(x, here + j * x_inner) - top) * kappa_inverse_V)
            store(p.weight, j * line + at, weight)
            sums = sums + weight
            result = result + weight * load(p.product, j * line + at)
        inverse = fill(_1) / sums
        store(p.inverse, at, inverse)
        store(p.result, at, result * inverse)


@compiled
def pool_gradient(
    x: Any,
    x_inner: int,
    x_other: int,
    others: int,
    length: int,
    matrices_6LL: Any,
    which: int,
    kappa_inverse: Any,
    p: Any,
    gradient: Any,
    gradient_x: Any,
    gradient_6LLV: Any,
    spare: Any,
) -> None:
    """Add the gradients of agg(x[:, o]; P) to those of x and P, given the gradient g of each result. Overwrites what `pool` left.

    dx_k = g (sum_j p_j P_jk + p_k ((P x)_k - agg) / kappa), dP_jk = g p_j x_k.
    """
    line, width, longest = others * LANES, matrices_6LL.shape[2], gradient_6LLV.shape[2]
    kappa_inverse_V = fill(kappa_inverse)
    numbers, gradient_matrix = (matrices_6LL.reshape(-1),), gradient_6LLV.reshape(-1)
    for o in range(0, line, LANES):
        inverse, result = load(p.inverse, o), load(p.result, o)
        for j in range(length):
            weight = load(p.weight, j * line + o) * inverse
            store(p.weight, j * line + o, weight)
            store(p.product, j * line + o, weight * kappa_inverse_V * (load(p.product, j * line + o) - result))
    multiply(numbers, which * width * width, 1, width, p.weight, 0, LANES, line, length, others, length, spare, 0, line)
    for o in range(others):
        g = load(gradient, o * LANES)
        for k in range(length):
            at, there = k * line + o * LANES, k * x_inner + o * x_other
            store(gradient_x, there, load(gradient_x, there) + g * (load(spare, at) + load(p.product, at)))
            store(p.weight, at, load(p.weight, at) * g)
    multiply(p.weight, 0, line, LANES, x, 0, x_inner, x_other, length, length, others, spare, 0, length * LANES)
    for j in range(length):
        at = (which * longest + j) * longest * LANES
        for k in range(0, length * LANES, LANES):
            store(gradient_matrix, at + k, load(gradient_matrix, at + k) + load(spare, j * length * LANES + k))


@compiled
def _score_pairs(
    raw: Any,
    mapped: Any,
    norm_inverse_R: Any,
    first: int,
    length: int,
    stride: int,
    n: int,
    frames: int,
    gram: Any,
    valid: Any,
    matrices_6LL: Any,
    tau_inverse: Any,
    kappa_inverse: Any,
    s: Any,
) -> None:
    """Score a text with the videos of block n. Its words are the rows from `first` on, followed by its sentence."""
    step, line = frames * LANES, length * LANES
    words = first * stride + n * step
    sentence = words + length * stride
    _mix(raw, words, stride, length + 1, frames, gram, valid, n, tau_inverse, s)
    # Global: the sentence guides the video.
    multiply(s.mixture, length * step, 0, LANES, mapped, sentence, 0, LANES, 1, 1, frames, s.score, 0, 0)
    multiply(raw, words, stride, LANES, s.mixture, length * step, 0, LANES, length, 1, frames, s.x_sum, 0, LANES)
    # Local: each word guides a frame feature.
    multiply(s.mixture, 0, step, LANES, raw, sentence, 0, LANES, length, 1, frames, s.y_sum, 0, LANES)
    for i in range(length):
        store(s.x, i * LANES, load(s.x_sum, i * LANES) * fill(norm_inverse_R[first + i]))
        store(s.y, i * LANES, load(s.y_sum, i * LANES) * fill(norm_inverse_R[first + length]))
    pool(s.x, LANES, 0, 1, length, matrices_6LL, 0, kappa_inverse, s.p1)
    pool(s.y, LANES, 0, 1, length, matrices_6LL, 1, kappa_inverse, s.p2)
    multiply(mapped, words, stride, LANES, s.mixture, 0, step, LANES, length, length, frames, s.z, 0, line)
    pool(s.z, line, LANES, length, length, matrices_6LL, 2, kappa_inverse, s.p3)
    pool(s.p3.result, LANES, 0, 1, length, matrices_6LL, 3, kappa_inverse, s.p4)
    pool(s.z, LANES, line, length, length, matrices_6LL, 4, kappa_inverse, s.p5)
    pool(s.p5.result, LANES, 0, 1, length, matrices_6LL, 5, kappa_inverse, s.p6)


@compiled
def _check(starts: Any, frames: int, matrices_6LL: Any, s: Any) -> None:
    """Check the sizes of all memory, because `load` and `store` do not check bounds."""
    longest = 0
    for a in range(len(starts) - 1):
        longest = max(longest, starts[a + 1] - starts[a] - 1)
    assert len(s.z) >= longest * longest * LANES, "scratch is for shorter texts"
    assert len(s.mixture) >= (longest + 1) * frames * LANES, "scratch is for fewer frames"
    assert len(s.spare) >= frames * frames * LANES, "scratch is for fewer frames"
    assert matrices_6LL.shape[1] >= longest, "matrices are for shorter texts"


@compiled
def gram_block(frame_FVD: Any, gram_FFV: Any) -> None:
    """The Gram matrix of each video's frames, for the LANES videos of a block.

    Here a vector holds LANES channels of one frame. The last D % LANES channels are added one by one.
    """
    frames, videos, dimension = frame_FVD.shape
    frame, whole = frame_FVD.reshape(-1), dimension - dimension % LANES
    for v in range(videos):
        for f in range(frames):
            one = (f * videos + v) * dimension
            for g in range(f, frames):
                other = (g * videos + v) * dimension
                # Two independent sums, so that an addition does not wait for the previous one.
                even = odd = fill(_0)
                for at in range(0, whole - LANES, 2 * LANES):
                    even = even + load(frame, one + at) * load(frame, other + at)
                    odd = odd + load(frame, one + at + LANES) * load(frame, other + at + LANES)
                if whole % (2 * LANES):
                    even = even + load(frame, one + whole - LANES) * load(frame, other + whole - LANES)
                product = total(even + odd)
                for at in range(whole, dimension):
                    product += frame[one + at] * frame[other + at]
                gram_FFV[f, g, v] = gram_FFV[g, f, v] = product


@compiled
def score_tile(
    raw_RC: Any,
    mapped_RC: Any,
    starts: Any,
    norm_inverse_R: Any,
    gram_NFFV: Any,
    valid_NFV: Any,
    matrices_6LL: Any,
    tau_inverse: Any,
    kappa_inverse: Any,
    scratch: Any,
    out_SAX: Any,
) -> None:
    """The four scores [S, A, X] of a tile of texts with N blocks of videos (X = N * LANES), from their products.

    Text a owns the rows starts[a]:starts[a + 1]: its words, then its sentence.
    """
    blocks, frames = valid_NFV.shape[0], valid_NFV.shape[1]
    _check(starts, frames, matrices_6LL, scratch)
    assert raw_RC.shape[0] >= starts[-1], "products of another shape"
    assert raw_RC.shape[1] >= blocks * frames * LANES, "products of another shape"
    raw, mapped, gram, valid = raw_RC.reshape(-1), mapped_RC.reshape(-1), gram_NFFV.reshape(-1), valid_NFV.reshape(-1)
    out = out_SAX.reshape(-1)
    score_step, half = out_SAX.shape[1] * out_SAX.shape[2], fill(_HALF)
    for a in range(len(starts) - 1):
        length = starts[a + 1] - starts[a] - 1
        for n in range(blocks):
            _score_pairs(
                raw,
                mapped,
                norm_inverse_R,
                starts[a],
                length,
                raw_RC.shape[1],
                n,
                frames,
                gram,
                valid,
                matrices_6LL,
                tau_inverse,
                kappa_inverse,
                scratch,
            )
            at = a * out_SAX.shape[2] + n * LANES
            store(out, at, load(scratch.score, 0))
            store(out, at + score_step, load(scratch.p1.result, 0))
            store(out, at + 2 * score_step, load(scratch.p2.result, 0))
            store(out, at + 3 * score_step, half * (load(scratch.p4.result, 0) + load(scratch.p6.result, 0)))


@compiled
def gradient_tile(
    raw_RC: Any,
    mapped_RC: Any,
    starts: Any,
    norm_inverse_R: Any,
    gram_NFFV: Any,
    valid_NFV: Any,
    matrices_6LL: Any,
    tau_inverse: Any,
    kappa_inverse: Any,
    s: Any,
    gradient_SAX: Any,
    with_raw: bool,
    gradient_norm_RV: Any,
    gradient_gram_NFFV: Any,
    gradient_6LLV: Any,
) -> None:
    """The gradients of a tile, given the gradient of its scores [S, A, X].

    Overwrites the products with their gradients (the raw products only if `with_raw`). Adds, in every lane, to the gradients of P1 to P6,
    whose L is that of the tile's longest text, and, if `with_raw`, to those of the rows' 1 / norm and of the Gram matrices.
    """
    blocks, frames, stride = valid_NFV.shape[0], valid_NFV.shape[1], raw_RC.shape[1]
    _check(starts, frames, matrices_6LL, s)
    assert raw_RC.shape[0] >= starts[-1], "products of another shape"
    assert stride >= blocks * frames * LANES, "products of another shape"
    raw, mapped, gram, valid = raw_RC.reshape(-1), mapped_RC.reshape(-1), gram_NFFV.reshape(-1), valid_NFV.reshape(-1)
    given, d_norm, d_gram = gradient_SAX.reshape(-1), gradient_norm_RV.reshape(-1), gradient_gram_NFFV.reshape(-1)
    score_step, step = gradient_SAX.shape[1] * gradient_SAX.shape[2], frames * LANES
    zero = fill(_0)
    for a in range(len(starts) - 1):
        first = starts[a]
        length = starts[a + 1] - first - 1
        line = length * LANES
        for n in range(blocks):
            _score_pairs(
                raw, mapped, norm_inverse_R, first, length, stride, n, frames, gram, valid, matrices_6LL, tau_inverse, kappa_inverse, s
            )
            at = a * gradient_SAX.shape[2] + n * LANES
            for i in range(0, line, LANES):
                store(s.gradient_x, i, zero)
                store(s.gradient_y, i, zero)
                store(s.gradient_k, i, zero)
                store(s.gradient_i, i, zero)
            for i in range(0, length * line, LANES):
                store(s.gradient_z, i, zero)
            # The poolings, in reverse order.
            m, k, d, spare = matrices_6LL, kappa_inverse, gradient_6LLV, s.spare
            store(s.given, 0, fill(_HALF) * load(given, at + 3 * score_step))
            pool_gradient(s.p5.result, LANES, 0, 1, length, m, 5, k, s.p6, s.given, s.gradient_k, d, spare)
            pool_gradient(s.z, LANES, line, length, length, m, 4, k, s.p5, s.gradient_k, s.gradient_z, d, spare)
            pool_gradient(s.p3.result, LANES, 0, 1, length, m, 3, k, s.p4, s.given, s.gradient_i, d, spare)
            pool_gradient(s.z, line, LANES, length, length, m, 2, k, s.p3, s.gradient_i, s.gradient_z, d, spare)
            store(s.given, 0, load(given, at + 2 * score_step))
            pool_gradient(s.y, LANES, 0, 1, length, m, 1, k, s.p2, s.given, s.gradient_y, d, spare)
            store(s.given, 0, load(given, at + score_step))
            pool_gradient(s.x, LANES, 0, 1, length, m, 0, k, s.p1, s.given, s.gradient_x, d, spare)
            # The products.
            store(s.given, 0, load(given, at))
            words = first * stride + n * step
            if with_raw:
                _raw_gradient(raw, mapped, norm_inverse_R, first, length, words, stride, frames, tau_inverse, s, d_norm)
                _add(spare, frames * frames, d_gram, n * frames * step)
            multiply(s.gradient_z, 0, line, LANES, s.mixture, 0, LANES, step, length, frames, length, mapped, words, stride)
            for f in range(0, step, LANES):
                store(mapped, words + length * stride + f, load(s.given, 0) * load(s.mixture, length * step + f))


@compiled
def _raw_gradient(
    raw: Any,
    mapped: Any,
    norm_inverse_R: Any,
    first: int,
    length: int,
    words: int,
    stride: int,
    frames: int,
    tau_inverse: Any,
    s: Any,
    gradient_norm: Any,
) -> None:
    """From the gradients of x, y, Z and the video-sentence score, compute those of the raw products, the norms and the Gram matrices.

    Overwrites the raw products, adds to `gradient_norm`, and leaves the gradients of the Gram matrices in `s.spare`.
    """
    step, line, last = frames * LANES, length * LANES, length * frames * LANES
    sentence = words + length * stride
    sentence_norm, sentence_sum = fill(norm_inverse_R[first + length]), fill(_0)
    # Gradients of the normalised mixtures, for each word and the sentence.
    multiply(s.gradient_z, 0, LANES, line, mapped, words, LANES, stride, length, frames, length, s.gradient_mixture, 0, step)
    for f in range(0, step, LANES):
        store(s.gradient_mixture, last + f, load(s.given, 0) * load(mapped, sentence + f))
    for i in range(length):
        dx = load(s.gradient_x, i * LANES) * fill(norm_inverse_R[first + i])
        dy = load(s.gradient_y, i * LANES) * sentence_norm
        for f in range(0, step, LANES):
            here = i * step + f
            store(s.gradient_mixture, here, load(s.gradient_mixture, here) + dy * load(raw, sentence + f))
            store(s.gradient_mixture, last + f, load(s.gradient_mixture, last + f) + dx * load(raw, words + i * stride + f))
    # Through the normalisation, the Gram matrix and the softmax over frames.
    for i in range(length + 1):
        along = fill(_0)
        for f in range(i * step, (i + 1) * step, LANES):
            along = along + load(s.gradient_mixture, f) * load(s.mixture, f)
        for f in range(0, step, LANES):
            here = i * step + f
            across = load(s.gradient_mixture, here) - along * load(s.through_gram, here)
            store(raw, words + i * stride + f, fill(tau_inverse) * load(s.mixture, here) * across)
            store(s.scaled, here, fill(-_HALF) * along * load(s.mixture, here))
    multiply(s.scaled, 0, LANES, step, s.mixture, 0, LANES, step, frames, frames, length + 1, s.spare, 0, step)
    # Direct gradients of x and y with respect to the raw products and the norms of words and sentence.
    for i in range(length):
        dx, dy = load(s.gradient_x, i * LANES), load(s.gradient_y, i * LANES)
        norm = (first + i) * LANES
        store(gradient_norm, norm, load(gradient_norm, norm) + dx * load(s.x_sum, i * LANES))
        sentence_sum = sentence_sum + dy * load(s.y_sum, i * LANES)
        dx, dy = dx * fill(norm_inverse_R[first + i]), dy * sentence_norm
        for f in range(0, step, LANES):
            here = words + i * stride + f
            store(raw, here, load(raw, here) + dx * load(s.mixture, last + f))
            store(raw, sentence + f, load(raw, sentence + f) + dy * load(s.mixture, i * step + f))
    norm = (first + length) * LANES
    store(gradient_norm, norm, load(gradient_norm, norm) + sentence_sum)
