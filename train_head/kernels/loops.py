"""The compiled loops behind `fused.py`: from the two products of a tile of texts and some videos to the four scores, and back.

LANES videos stand side by side in a vector, so every line below treats LANES pairs at once. All arrays are flat float32; a block's
frames, words or pairs of words are LANES numbers each. What a pair needs between its products and its scores stays in the first two
levels of cache. docs/design/method.md has the equations.

Letters: i, k words, j a row of P, o what is not pooled, f a frame; `d_` and `gradient_` the derivative of the loss by something.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import torch
from numpy.typing import NDArray

from train_head.kernels.lanes import LANES, exp, factor, fill, load, root, store, total, where_greater
from train_head.masking import FAR_BELOW

Floats = NDArray[np.float32]
Function = TypeVar("Function", bound=Callable[..., None])


def compiled(function: Function) -> Function:
    """The loop as numba compiles it when it is first called, kept on disk where there is a folder for it."""
    try:
        loop: Function = numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:
        # The checkout, the home folder and NUMBA_CACHE_DIR cannot be written: numba would not compile at all.
        loop = numba.njit(nogil=True, error_model="numpy")(function)
    return loop


# Plain Python floats would make the compiled code compute in double precision.
_0, _1, _HALF = np.float32(0), np.float32(1), np.float32(0.5)
_TINY, _FAR_BELOW, _NOISE = np.float32(1e-30), np.float32(FAR_BELOW), np.float32(1e-5)


class Pooling(NamedTuple):
    """What agg(x; P) leaves for its gradient: P x [j, o], weights [j, o] before their division, 1 / their sum [o], the result [o]."""

    product: Floats
    weight: Floats
    inverse: Floats
    result: Floats


class Scratch(NamedTuple):
    """Memory of one thread for one text and LANES videos."""

    mixture: Floats
    """Weights of the frames [i, f], scaled so that the mixture has norm 1; last row the sentence's."""
    through_gram: Floats
    """The same times the Gram matrix [i, f]."""
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
    """Memory for texts of up to `longest` words."""
    line, square, mixture = longest * LANES, longest * longest * LANES, (longest + 1) * frames * LANES

    def floats(count: int) -> Floats:
        # torch gives memory at the start of a cache line: a vector is then one line.
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
def _products(
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
    """out[row, column] = sum of x[row, inner] * y[column, inner] in every lane; `x_row` and so on are the steps from one to the next.

    `x` may be a tuple of an array of numbers, the same for all lanes. Four rows by four columns at a time: sixteen sums stay in
    registers, and a vector that is fetched serves four of them. Behind the last row the last one is done again.
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
    """alpha and beta of the method, divided by the norms of the mixtures; a mixture that cancels to rounding gets zeros.

    The guard is that of plain.py, written for weights that do not sum to 1.
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
    _products(s.mixture, 0, step, LANES, gram, gram_start, step, LANES, rows, frames, frames, s.through_gram, 0, step)
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
def _pool(x: Any, x_inner: int, x_other: int, others: int, length: int, matrices_6LL: Any, which: int, kappa_inverse: Any, p: Any) -> None:
    """agg(x[:, o]; P) of the method for every o, with the matrix P of index `which`: softmax(x / kappa), times P, dotted with x."""
    line, width = others * LANES, matrices_6LL.shape[2]
    kappa_inverse_V = fill(kappa_inverse)
    numbers = (matrices_6LL.reshape(-1),)
    _products(numbers, which * width * width, width, 1, x, 0, x_other, x_inner, length, others, length, p.product, 0, line)
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
def _pool_gradient(
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
    """Of agg(x[:, o]; P), given the gradient of each result: added to those of x and P. Uses up what `_pool` left.

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
    _products(numbers, which * width * width, 1, width, p.weight, 0, LANES, line, length, others, length, spare, 0, line)
    for o in range(others):
        g = load(gradient, o * LANES)
        for k in range(length):
            at, there = k * line + o * LANES, k * x_inner + o * x_other
            store(gradient_x, there, load(gradient_x, there) + g * (load(spare, at) + load(p.product, at)))
            store(p.weight, at, load(p.weight, at) * g)
    _products(p.weight, 0, line, LANES, x, 0, x_inner, x_other, length, length, others, spare, 0, length * LANES)
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
    """The scores of the text whose words are the rows from `first` on, its sentence behind them, with the videos of block n."""
    step, line = frames * LANES, length * LANES
    words = first * stride + n * step
    sentence = words + length * stride
    _mix(raw, words, stride, length + 1, frames, gram, valid, n, tau_inverse, s)
    # Global: the sentence guides the video.
    _products(s.mixture, length * step, 0, LANES, mapped, sentence, 0, LANES, 1, 1, frames, s.score, 0, 0)
    _products(raw, words, stride, LANES, s.mixture, length * step, 0, LANES, length, 1, frames, s.x_sum, 0, LANES)
    # Local: each word guides a frame feature.
    _products(s.mixture, 0, step, LANES, raw, sentence, 0, LANES, length, 1, frames, s.y_sum, 0, LANES)
    for i in range(length):
        store(s.x, i * LANES, load(s.x_sum, i * LANES) * fill(norm_inverse_R[first + i]))
        store(s.y, i * LANES, load(s.y_sum, i * LANES) * fill(norm_inverse_R[first + length]))
    _pool(s.x, LANES, 0, 1, length, matrices_6LL, 0, kappa_inverse, s.p1)
    _pool(s.y, LANES, 0, 1, length, matrices_6LL, 1, kappa_inverse, s.p2)
    _products(mapped, words, stride, LANES, s.mixture, 0, step, LANES, length, length, frames, s.z, 0, line)
    _pool(s.z, line, LANES, length, length, matrices_6LL, 2, kappa_inverse, s.p3)
    _pool(s.p3.result, LANES, 0, 1, length, matrices_6LL, 3, kappa_inverse, s.p4)
    _pool(s.z, LANES, line, length, length, matrices_6LL, 4, kappa_inverse, s.p5)
    _pool(s.p5.result, LANES, 0, 1, length, matrices_6LL, 5, kappa_inverse, s.p6)


@compiled
def _check(starts: Any, frames: int, matrices_6LL: Any, s: Any) -> None:
    """Nothing else looks whether what is loaded and stored is there."""
    longest = 0
    for a in range(len(starts) - 1):
        longest = max(longest, starts[a + 1] - starts[a] - 1)
    assert len(s.z) >= longest * longest * LANES, "scratch is for shorter texts"
    assert len(s.mixture) >= (longest + 1) * frames * LANES, "scratch is for fewer frames"
    assert len(s.spare) >= frames * frames * LANES, "scratch is for fewer frames"
    assert matrices_6LL.shape[1] >= longest, "matrices are for shorter texts"


@compiled
def gram_block(frame_FVD: Any, gram_FFV: Any) -> None:
    """The products of every video's frames with each other, for the LANES videos of a block.

    Here a vector holds LANES channels of one frame, and what D leaves over is added number by number.
    """
    frames, videos, dimension = frame_FVD.shape
    frame, whole = frame_FVD.reshape(-1), dimension - dimension % LANES
    for v in range(videos):
        for f in range(frames):
            one = (f * videos + v) * dimension
            for g in range(f, frames):
                other = (g * videos + v) * dimension
                # Two sums, so that one addition need not wait for the other.
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
    """The four scores [S, A, X] of a tile of texts and N blocks of videos (X = N * LANES), from their products.

    Text a has the rows starts[a] to starts[a + 1]: its words, and last its sentence.
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
    """The gradients of a tile, given that of its scores [S, A, X].

    Those of the products take their places (of the raw ones only `with_raw`). Added to, in every lane: those of 1 / norm of the rows and of
    the Gram matrices (`with_raw`), and those of P1 to P6, in L x L of this tile's longest text.
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
            # The pooling of the scores: first to last in the method, so last to first here.
            m, k, d, spare = matrices_6LL, kappa_inverse, gradient_6LLV, s.spare
            store(s.given, 0, fill(_HALF) * load(given, at + 3 * score_step))
            _pool_gradient(s.p5.result, LANES, 0, 1, length, m, 5, k, s.p6, s.given, s.gradient_k, d, spare)
            _pool_gradient(s.z, LANES, line, length, length, m, 4, k, s.p5, s.gradient_k, s.gradient_z, d, spare)
            _pool_gradient(s.p3.result, LANES, 0, 1, length, m, 3, k, s.p4, s.given, s.gradient_i, d, spare)
            _pool_gradient(s.z, line, LANES, length, length, m, 2, k, s.p3, s.gradient_i, s.gradient_z, d, spare)
            store(s.given, 0, load(given, at + 2 * score_step))
            _pool_gradient(s.y, LANES, 0, 1, length, m, 1, k, s.p2, s.given, s.gradient_y, d, spare)
            store(s.given, 0, load(given, at + score_step))
            _pool_gradient(s.x, LANES, 0, 1, length, m, 0, k, s.p1, s.given, s.gradient_x, d, spare)
            # The products.
            store(s.given, 0, load(given, at))
            words = first * stride + n * step
            if with_raw:
                _raw_gradient(raw, mapped, norm_inverse_R, first, length, words, stride, frames, tau_inverse, s, d_norm)
                _add(spare, frames * frames, d_gram, n * frames * step)
            _products(s.gradient_z, 0, line, LANES, s.mixture, 0, LANES, step, length, frames, length, mapped, words, stride)
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
    """From the gradients of x, y, Z and the video-sentence score: of the raw products, in their place, of the norms (added), and of the
    Gram matrices (left in `s.spare`)."""
    step, line, last = frames * LANES, length * LANES, length * frames * LANES
    sentence = words + length * stride
    sentence_norm, sentence_sum = fill(norm_inverse_R[first + length]), fill(_0)
    # The mixtures of norm 1, for each word and the sentence.
    _products(s.gradient_z, 0, LANES, line, mapped, words, LANES, stride, length, frames, length, s.gradient_mixture, 0, step)
    for f in range(0, step, LANES):
        store(s.gradient_mixture, last + f, load(s.given, 0) * load(mapped, sentence + f))
    for i in range(length):
        dx = load(s.gradient_x, i * LANES) * fill(norm_inverse_R[first + i])
        dy = load(s.gradient_y, i * LANES) * sentence_norm
        for f in range(0, step, LANES):
            here = i * step + f
            store(s.gradient_mixture, here, load(s.gradient_mixture, here) + dy * load(raw, sentence + f))
            store(s.gradient_mixture, last + f, load(s.gradient_mixture, last + f) + dx * load(raw, words + i * stride + f))
    # Their directions, the Gram matrix and the softmax over frames.
    for i in range(length + 1):
        along = fill(_0)
        for f in range(i * step, (i + 1) * step, LANES):
            along = along + load(s.gradient_mixture, f) * load(s.mixture, f)
        for f in range(0, step, LANES):
            here = i * step + f
            across = load(s.gradient_mixture, here) - along * load(s.through_gram, here)
            store(raw, words + i * stride + f, fill(tau_inverse) * load(s.mixture, here) * across)
            store(s.scaled, here, fill(-_HALF) * along * load(s.mixture, here))
    _products(s.scaled, 0, LANES, step, s.mixture, 0, LANES, step, frames, frames, length + 1, s.spare, 0, step)
    # What x and y took from the raw products and from the norms of words and sentence.
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
