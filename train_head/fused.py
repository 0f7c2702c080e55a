"""GLIM's four scores on a CPU in one pass: two matrix products, and a compiled loop that keeps everything else in cache.

The same mathematics as `glim.score`, for evaluation (it has no gradient). Words of all texts are rows of one matrix, each text with
its real length; videos stand side by side in blocks of LANES, so that the compiled loop treats LANES videos with every instruction. The
products always have the same shape, padded where texts or videos run out, and every lane is computed alike: a score does not depend
on the order of texts and videos, on what is scored beside them, or on the number of threads.

Shape suffixes: A texts, L words of a text, R rows of a tile, F frames, V the LANES videos of a block, N blocks, C columns (all frames of
some blocks), D joint dimension, S the four scores.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray
from torch import Tensor

from train_head.batches import TextBatch
from train_head.glim import KAPPA, TAU, Frames, inverse_norm

LANES = 64
"""Videos side by side: several independent vector instructions a step; a gallery is padded to a multiple of it."""
ROWS = 192
"""Rows of a tile: whole texts, padded to this. A longer text has a tile of its own, padded to a multiple."""
COLUMNS = 3072
"""About so many columns (frames of all videos of a few blocks) meet a tile at once: both products of a tile are then a few MB."""

Floats = NDArray[np.float32]

# Numbers inside the compiled loop; plain Python floats would make it compute in double precision.
_0, _1 = np.float32(0), np.float32(1)
_TINY, _FAR_BELOW, _LOWEST_EXPONENT = np.float32(1e-30), np.float32(-1e30), np.float32(-87)
_NOISE = np.float32(1e-5)
_LOG2_E, _LN_2_HIGH, _LN_2_LOW, _HALF = (np.float32(x) for x in (1.44269504, 0.693359375, -2.12194440e-4, 0.5))
# exp(r) - 1 - r for |r| <= ln(2) / 2, from its Taylor series bent to the smallest largest error.
_C2, _C3, _C4, _C5, _C6, _C7 = (
    np.float32(x) for x in (5.0000001201e-1, 1.6666665459e-1, 4.1665795894e-2, 8.3334519073e-3, 1.3981999507e-3, 1.9875691500e-4)
)


def _bits_to_float(_context: Any, bits: Any) -> Any:
    """Code for: the float32 with these bits."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.int32), generate


_float_of_bits: Any = intrinsic(_bits_to_float)


@numba.njit(inline="always")
def _exp(x: Any) -> Any:
    """exp(x) of x <= 0 to about 1e-7 of its value, in arithmetic that a compiler can do for many lanes at once."""
    x = max(x, _LOWEST_EXPONENT)
    whole = np.floor(x * _LOG2_E + _HALF)
    r = x - whole * _LN_2_HIGH - whole * _LN_2_LOW
    poly = ((((_C7 * r + _C6) * r + _C5) * r + _C4) * r + _C3) * r + _C2
    return (poly * r * r + r + _1) * _float_of_bits(np.int32((np.int32(whole) + np.int32(127)) << np.int32(23)))


@numba.njit(inline="always")
def _dot(a_FV: Any, b_FV: Any, count: int, out_V: Any) -> None:
    """Sum over f of a * b, for every lane. Four f at a time: the sum is fetched and put back once for four products."""
    for v in range(LANES):
        out_V[v] = _0
    whole = count // 4 * 4
    for f in range(0, whole, 4):
        for v in range(LANES):
            first = a_FV[f, v] * b_FV[f, v] + a_FV[f + 1, v] * b_FV[f + 1, v]
            out_V[v] += first + a_FV[f + 2, v] * b_FV[f + 2, v] + a_FV[f + 3, v] * b_FV[f + 3, v]
    for f in range(whole, count):
        for v in range(LANES):
            out_V[v] += a_FV[f, v] * b_FV[f, v]


@numba.njit(inline="always")
def _combine(factor_K: Any, x_KV: Any, count: int, out_V: Any) -> None:
    """Sum over k of a factor times x, for every lane."""
    for v in range(LANES):
        out_V[v] = _0
    whole = count // 4 * 4
    for k in range(0, whole, 4):
        p, q, r, s = factor_K[k], factor_K[k + 1], factor_K[k + 2], factor_K[k + 3]
        for v in range(LANES):
            out_V[v] += p * x_KV[k, v] + q * x_KV[k + 1, v] + r * x_KV[k + 2, v] + s * x_KV[k + 3, v]
    for k in range(whole, count):
        p = factor_K[k]
        for v in range(LANES):
            out_V[v] += p * x_KV[k, v]


@numba.njit(inline="always")
def _aggregate(x_LV: Any, length: int, matrix_LL: Any, kappa_inverse: Any, top_V: Any, sum_V: Any, dot_V: Any, out_V: Any) -> None:
    """agg(x; P) of the method for every lane: softmax(x / kappa), times P, dotted with x."""
    for v in range(LANES):
        top_V[v] = x_LV[0, v]
        sum_V[v] = _0
        out_V[v] = _0
    for j in range(1, length):
        for v in range(LANES):
            top_V[v] = max(top_V[v], x_LV[j, v])
    for j in range(length):
        _combine(matrix_LL[j], x_LV, length, dot_V)
        for v in range(LANES):
            weight = _exp((x_LV[j, v] - top_V[v]) * kappa_inverse)
            sum_V[v] += weight
            out_V[v] += weight * dot_V[v]
    for v in range(LANES):
        out_V[v] = out_V[v] / sum_V[v]


@numba.njit(inline="always")
def _guide(product_FV: Any, valid_FV: Any, gram_FFV: Any, frames: int, tau_inverse: Any, weight_FV: Any, inverse_V: Any, s: Any) -> None:
    """Weights of the frames (up to a factor) and 1 / norm of their mixture, for every lane.

    The guard is that of glim.py, written for weights that do not sum to 1.
    """
    top_V, sum_V, alone_V, square_V, dot_V = s[0], s[1], s[2], s[3], s[4]
    for v in range(LANES):
        top_V[v] = _FAR_BELOW
        sum_V[v] = alone_V[v] = square_V[v] = _0
    for f in range(frames):
        for v in range(LANES):
            top_V[v] = max(top_V[v], product_FV[f, v] if valid_FV[f, v] > _0 else _FAR_BELOW)
    for f in range(frames):
        for v in range(LANES):
            weight = _exp(min((product_FV[f, v] - top_V[v]) * tau_inverse, _0)) * valid_FV[f, v]
            weight_FV[f, v] = weight
            sum_V[v] += weight
            alone_V[v] += weight * gram_FFV[f, f, v]
    for f in range(frames):
        _dot(gram_FFV[f], weight_FV, f, dot_V)
        for v in range(LANES):
            square_V[v] += weight_FV[f, v] * (dot_V[v] + dot_V[v] + gram_FFV[f, f, v] * weight_FV[f, v])
    for v in range(LANES):
        good = square_V[v] > _NOISE * alone_V[v] * sum_V[v] + _TINY * sum_V[v] * sum_V[v]
        inverse_V[v] = _1 / np.sqrt(square_V[v]) if good else _0


@numba.njit(nogil=True, cache=True, fastmath={"contract"}, error_model="numpy")
def _score_tile(
    raw_RNFV: Any,
    mapped_RNFV: Any,
    starts: Any,
    norm_inverse_R: Any,
    gram_NFFV: Any,
    valid_NFV: Any,
    matrices_6LL: Any,
    tau_inverse: Any,
    kappa_inverse: Any,
    out_SAX: Any,
) -> None:
    """The four scores [S, A, X] of a tile of texts and N blocks of videos (X = N * LANES), from their products.

    Text a has the rows starts[a] to starts[a + 1]: its words, and last its sentence.
    """
    texts = len(starts) - 1
    blocks, frames = valid_NFV.shape[0], valid_NFV.shape[1]
    longest = 0
    for a in range(texts):
        longest = max(longest, starts[a + 1] - starts[a] - 1)
    alpha_FV = np.empty((frames, LANES), np.float32)
    beta_LFV = np.empty((longest, frames, LANES), np.float32)
    inverse_LV = np.empty((longest, LANES), np.float32)
    x_LV = np.empty((longest, LANES), np.float32)
    y_LV = np.empty((longest, LANES), np.float32)
    z_KLV = np.empty((longest, longest, LANES), np.float32)
    z_LKV = np.empty((longest, longest, LANES), np.float32)
    over_k_LV = np.empty((longest, LANES), np.float32)
    over_i_KV = np.empty((longest, LANES), np.float32)
    s = np.empty((5, LANES), np.float32)
    inverse_V, sum_V, result_V = np.empty(LANES, np.float32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    for a in range(texts):
        first = starts[a]
        length = starts[a + 1] - first - 1
        sentence = first + length
        for n in range(blocks):
            valid_FV, gram_FFV = valid_NFV[n], gram_NFFV[n]
            column = n * LANES
            # Global: the sentence guides the video.
            _guide(raw_RNFV[sentence, n], valid_FV, gram_FFV, frames, tau_inverse, alpha_FV, inverse_V, s)
            _dot(alpha_FV, mapped_RNFV[sentence, n], frames, sum_V)
            for v in range(LANES):
                out_SAX[0, a, column + v] = sum_V[v] * inverse_V[v]
            for i in range(length):
                row = first + i
                _dot(alpha_FV, raw_RNFV[row, n], frames, sum_V)
                for v in range(LANES):
                    x_LV[i, v] = sum_V[v] * inverse_V[v] * norm_inverse_R[row]
            _aggregate(x_LV, length, matrices_6LL[0], kappa_inverse, s[0], s[1], s[2], result_V)
            for v in range(LANES):
                out_SAX[1, a, column + v] = result_V[v]
            # Local: each word guides a frame feature.
            for i in range(length):
                beta_FV, inverse_iV = beta_LFV[i], inverse_LV[i]
                _guide(raw_RNFV[first + i, n], valid_FV, gram_FFV, frames, tau_inverse, beta_FV, inverse_iV, s)
                _dot(beta_FV, raw_RNFV[sentence, n], frames, sum_V)
                for v in range(LANES):
                    y_LV[i, v] = sum_V[v] * inverse_iV[v] * norm_inverse_R[sentence]
            _aggregate(y_LV, length, matrices_6LL[1], kappa_inverse, s[0], s[1], s[2], result_V)
            for v in range(LANES):
                out_SAX[2, a, column + v] = result_V[v]
            for k in range(length):
                mapped_FV = mapped_RNFV[first + k, n]
                for i in range(length):
                    _dot(mapped_FV, beta_LFV[i], frames, sum_V)
                    for v in range(LANES):
                        z = sum_V[v] * inverse_LV[i, v]
                        z_KLV[k, i, v] = z
                        z_LKV[i, k, v] = z
            for i in range(length):
                _aggregate(z_LKV[i], length, matrices_6LL[2], kappa_inverse, s[0], s[1], s[2], over_k_LV[i])
                _aggregate(z_KLV[i], length, matrices_6LL[4], kappa_inverse, s[0], s[1], s[2], over_i_KV[i])
            _aggregate(over_k_LV, length, matrices_6LL[3], kappa_inverse, s[0], s[1], s[2], result_V)
            _aggregate(over_i_KV, length, matrices_6LL[5], kappa_inverse, s[0], s[1], s[2], sum_V)
            for v in range(LANES):
                out_SAX[3, a, column + v] = (result_V[v] + sum_V[v]) * _HALF


@dataclass(frozen=True)
class _Tile:
    """Some texts as rows of the products: the words of each, then its sentence; padded with zero rows to a multiple of ROWS."""

    texts: NDArray[np.int64]
    """Their indices in the batch."""
    starts: NDArray[np.int64]
    """First row of each text, and the end of the last."""


@dataclass(frozen=True)
class TiledTexts:
    """A batch of texts and their division into tiles, which are filled only when they are used: together they would be large."""

    batch: TextBatch
    length_A: NDArray[np.int64]
    tiles: list[_Tile]


@dataclass(frozen=True)
class LanedVideos:
    """Videos in blocks of LANES side by side, the number of blocks padded to a multiple of `chunk`."""

    frame_CD: Tensor
    """The columns of the products, C = N * F * LANES."""
    gram_NFFV: Floats
    valid_NFV: Floats
    chunk: int
    """Blocks that meet a tile at once."""
    count: int


def tile_texts(batch: TextBatch) -> TiledTexts:
    """Texts of like length together, as many to a tile as there is room for."""
    length_A = batch.mask_AL.sum(dim=1).numpy()
    tiles: list[_Tile] = []
    chosen: list[int] = []
    rows = 0
    for a in [*np.argsort(length_A, kind="stable").tolist(), None]:
        if chosen and (a is None or rows + length_A[a] + 1 > ROWS):
            texts = np.array(chosen)
            tiles.append(_Tile(texts, np.concatenate([[0], np.cumsum(length_A[texts] + 1)])))
            chosen, rows = [], 0
        if a is not None:
            chosen.append(a)
            rows += int(length_A[a]) + 1
    return TiledTexts(batch, length_A, tiles)


def _fill(texts: TiledTexts, tile: _Tile, head: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Floats]:
    """The rows of both products (raw; of norm 1 and mapped by M_l or M_g) and 1 / norm of each.

    Every product here has the same shape too, so that a row does not depend on what else is in the tile.
    """
    size = -(-int(tile.starts[-1]) // ROWS) * ROWS
    owner_R = np.repeat(tile.texts, np.diff(tile.starts))
    position_R = np.arange(len(owner_R)) - np.repeat(tile.starts[:-1], np.diff(tile.starts))
    sentence_rows = torch.from_numpy(tile.starts[1:] - 1)
    # A sentence's row is filled with a word for a moment: its position is one behind the text's last word.
    position_R = np.minimum(position_R, texts.length_A[owner_R] - 1)
    raw_RD = torch.zeros(size, texts.batch.word_ALD.shape[2])
    raw_RD[: len(owner_R)] = texts.batch.word_ALD[torch.from_numpy(owner_R), torch.from_numpy(position_R)]
    raw_RD[sentence_rows] = texts.batch.sentence_AD[torch.from_numpy(tile.texts)]
    norm_inverse_R = inverse_norm(raw_RD.square().sum(dim=-1))
    unit_RD = raw_RD * norm_inverse_R[:, None]
    mapped_RD = unit_RD @ head["M_l"]
    mapped_RD[sentence_rows] = (unit_RD @ head["M_g"])[sentence_rows]
    return raw_RD, mapped_RD, norm_inverse_R.numpy()


def lane_videos(videos: Frames) -> LanedVideos:
    """Prepared videos as columns of the products."""
    count, frames, dimension = videos.frame_BFD.shape
    chunk = max(1, COLUMNS // (frames * LANES))
    blocks = -(-count // (chunk * LANES)) * chunk
    gram_NFFV = torch.zeros(blocks, frames, frames, LANES)
    valid_NFV = torch.zeros(blocks, frames, LANES)
    frame_NFVD = torch.zeros(blocks, frames, LANES, dimension)
    for n, members in enumerate(torch.arange(count).split(LANES)):
        lanes = slice(0, len(members))
        gram_NFFV[n, :, :, lanes] = videos.gram_BFF[members].movedim(0, -1)
        valid_NFV[n, :, lanes] = videos.mask_BF[members].float().T
        frame_NFVD[n, :, lanes] = videos.frame_BFD[members].transpose(0, 1)
    return LanedVideos(frame_NFVD.flatten(0, 2), gram_NFFV.numpy(), valid_NFV.numpy(), chunk, count)


def fused_score(texts: TiledTexts, videos: LanedVideos, head: Mapping[str, Tensor], *, tau: float = TAU, kappa: float = KAPPA) -> Tensor:
    """The four scores [S, A, B] before the logit scale: what `glim.score` gives, for texts and videos in float32 on the CPU.

    `head`: the learned matrices. Runs on as many threads as torch uses, a tile of texts and some chunks of videos at a time on each.
    """
    blocks, frames, _ = videos.valid_NFV.shape
    matrices_6LL = torch.stack([head[f"P{i}"] for i in range(1, 7)]).numpy()
    scores_SAB = torch.empty(4, len(texts.length_A), videos.count)

    def work(tile: _Tile, chunks: range) -> None:
        raw_RD, mapped_RD, norm_inverse_R = _fill(texts, tile, head)
        shape = (len(raw_RD), videos.chunk, frames, LANES)
        raw_RC, mapped_RC = (torch.empty(len(raw_RD), videos.chunk * frames * LANES) for _ in range(2))
        out_SAX = np.empty((4, len(tile.texts), videos.chunk * LANES), np.float32)
        index_A = torch.from_numpy(tile.texts)
        for first in chunks:
            last = first + videos.chunk
            frame_CD = videos.frame_CD[first * frames * LANES : last * frames * LANES]
            torch.mm(raw_RD, frame_CD.T, out=raw_RC)
            torch.mm(mapped_RD, frame_CD.T, out=mapped_RC)
            _score_tile(
                raw_RC.numpy().reshape(shape),
                mapped_RC.numpy().reshape(shape),
                tile.starts,
                norm_inverse_R,
                videos.gram_NFFV[first:last],
                videos.valid_NFV[first:last],
                matrices_6LL,
                np.float32(1 / tau),
                np.float32(1 / kappa),
                out_SAX,
            )
            columns = slice(first * LANES, min(last * LANES, videos.count))
            scores_SAB[:, index_A, columns] = torch.from_numpy(out_SAX[:, :, : columns.stop - columns.start])

    threads = torch.get_num_threads()
    every = range(0, blocks, videos.chunk)
    # Few tiles are shared out by videos as well, so that every thread has some.
    shares = -(-2 * threads // len(texts.tiles))
    size = -(-len(every) // shares)
    tasks = [(tile, every[first : first + size]) for tile in texts.tiles for first in range(0, len(every), size)]
    # Each worker multiplies alone: threads within a product would wait for each other between the products.
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for done in [pool.submit(torch.no_grad()(work), *task) for task in tasks]:
                done.result()
    finally:
        torch.set_num_threads(threads)
    return scores_SAB
