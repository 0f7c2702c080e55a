"""Cosines of stochastic and support texts with videos, for the head `tmass`: one pass over the D numbers of a pair, and one back.

A pair has a text t, a video z and the logarithm l of a radius R = exp(l). With noise e, and products of vectors number by number:

    stochastic = cos(t + R e, z)          support = cos(t + R (z - t) / |z - t|, z)

z and l of a pair are sums over few vectors, z = sum_k w_k n_k and l = sum_f s_f W_f, with n_k of the video alone. So they are made block by
block, by two products, for as many pairs as stay in cache. No array [texts, videos, D] is ever held: the backward pass makes the blocks
again. The compiled loops are for float32 on a CPU; `plain_cosines` and `plain_best` are the same in torch, for CUDA and float64.

Shape suffixes: A texts, B videos, V the videos of a block, K vectors n of a video, F frames, D joint dimension, N pairs of a block (V x A,
texts change first), S the two cosines (stochastic, support). c1 ... c9 are the nine sums over D that both cosines are made of.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from train_head.kernels.lanes import LANES, exp, fill, load, store, total, where_greater
from train_head.kernels.loops import Floats, compilable, compiled
from train_head.kernels.noise import draw_noise, noise, quantiles
from train_head.kernels.plain import inverse_norm
from train_head.kernels.threads import parallel

PAIRS_PER_BLOCK = 512
"""Pairs whose z and l are made at once: 2 MiB at D = 512."""
MOST_LOG_RADIUS = 60.0
"""l is limited to it, so that squares of R stay finite in float32."""
_MOST, _TINY, _0, _1, _2, _HALF = (np.float32(x) for x in (MOST_LOG_RADIUS, 1e-30, 0, 1, 2, 0.5))


class Pairs(NamedTuple):
    """What all pairs of some texts and videos are made of."""

    text_AD: Tensor
    mixture_BAK: Tensor
    """The weights w."""
    basis_BKD: Tensor
    """The vectors n."""
    cosine_BAF: Tensor
    """s, 0 at padding."""
    radius_FD: Tensor
    """W."""


def cosines(pairs: Pairs, key_BA: Tensor) -> Tensor:
    """The two cosines [S, A, B] with sample 0 of the noise of these keys. Has first derivatives."""
    if not compilable(pairs.text_AD):
        return plain_cosines(pairs, noise(key_BA, 0, pairs.text_AD.shape[1]).to(pairs.text_AD.dtype))
    found: Tensor = _Cosines.apply(key_BA, pairs.text_AD.shape[1], *_padded(pairs))
    return found


def best_of(pairs: Pairs, key_BA: Tensor, samples: int) -> Tensor:
    """The greatest stochastic cosine [A, B] of this many samples. Without gradients on a CPU, its bits depend on the pair alone."""
    if not compilable(pairs.text_AD) or torch.is_grad_enabled():
        return plain_best(pairs, key_BA, samples)
    return _best(_padded(pairs), key_BA, samples, pairs.text_AD.shape[1])


def plain_cosines(pairs: Pairs, noise_BAD: Tensor) -> Tensor:
    """`cosines` in torch, with the noise given."""
    text_AD, z_BAD, radius_BAD = _expanded(pairs)
    toward_BAD = z_BAD - text_AD
    toward_BAD = toward_BAD * inverse_norm(toward_BAD.square().sum(dim=-1, keepdim=True))
    return torch.stack([_cosine(text_AD + radius_BAD * x_BAD, z_BAD).T for x_BAD in (noise_BAD, toward_BAD)])


def plain_best(pairs: Pairs, key_BA: Tensor, samples: int) -> Tensor:
    """`best_of` in torch."""
    text_AD, z_BAD, radius_BAD = _expanded(pairs)
    best_BA = None
    for sample in range(samples):
        noise_BAD = noise(key_BA, sample, text_AD.shape[1]).to(text_AD.dtype)
        cosine_BA = _cosine(text_AD + radius_BAD * noise_BAD, z_BAD)
        best_BA = cosine_BA if best_BA is None else torch.maximum(best_BA, cosine_BA)
    assert best_BA is not None
    return best_BA.T


def _expanded(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    radius_BAD = (pairs.cosine_BAF @ pairs.radius_FD).clamp(max=MOST_LOG_RADIUS).exp()
    return pairs.text_AD, pairs.mixture_BAK @ pairs.basis_BKD, radius_BAD


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=-1) * inverse_norm(x.square().sum(dim=-1)) * inverse_norm(y.square().sum(dim=-1))


def _padded(pairs: Pairs) -> Pairs:
    """With D filled up with zeros to whole vectors. Noise is zero there, so that the sums stay as they are."""
    more = -pairs.text_AD.shape[1] % LANES
    if not more:
        return pairs
    text_AD, basis_BKD, radius_FD = (pad(x, (0, more)) for x in (pairs.text_AD, pairs.basis_BKD, pairs.radius_FD))
    return Pairs(text_AD, pairs.mixture_BAK, basis_BKD, pairs.cosine_BAF, radius_FD)


def _blocks(pairs: Pairs) -> list[slice]:
    """Some videos each, with all texts."""
    videos, texts = pairs.mixture_BAK.shape[:2]
    size = max(1, PAIRS_PER_BLOCK // max(1, texts))
    return [slice(first, min(first + size, videos)) for first in range(0, videos, size)]


def _made(pairs: Pairs, videos: slice) -> tuple[Tensor, Tensor]:
    """z and l [V, A, D] of a block."""
    z_VAD = pairs.mixture_BAK[videos] @ pairs.basis_BKD[videos]
    cosine_NF = pairs.cosine_BAF[videos].flatten(0, 1)
    return z_VAD, (cosine_NF @ pairs.radius_FD).view_as(z_VAD)


def _keys(key_BA: Tensor, videos: slice) -> NDArray[np.uint64]:
    return key_BA[videos].contiguous().numpy().view(np.uint64)


def _best(pairs: Pairs, key_BA: Tensor, samples: int, dimension: int) -> Tensor:
    """As `best_of`, in the calling thread: heads score blocks on all threads already."""
    (videos, texts), width = key_BA.shape, pairs.text_AD.shape[1]
    best_BA = pairs.text_AD.new_empty(videos, texts)
    scratch = torch.zeros(4, width).numpy()
    text_AD, table = pairs.text_AD.contiguous().numpy(), quantiles().numpy()
    # One video at a time: shapes of products must depend on nothing else.
    for b in range(videos):
        z_VAD, l_VAD = _made(pairs, slice(b, b + 1))
        out = best_BA[b].numpy()
        best_block(text_AD, z_VAD[0].numpy(), l_VAD[0].numpy(), _keys(key_BA, slice(b, b + 1))[0], samples, dimension, table, scratch, out)
    return best_BA.T


class _Cosines(torch.autograd.Function):
    """Keeps its inputs alone, and makes z, l and the noise again in the backward pass."""

    @staticmethod
    def forward(ctx: Any, key_BA: Tensor, dimension: int, *inputs: Tensor) -> Tensor:
        pairs = Pairs(*inputs)
        text_AD, table = pairs.text_AD.contiguous().numpy(), quantiles().numpy()
        cosine_SBA = pairs.text_AD.new_empty(2, *key_BA.shape)

        def work(videos: slice, scratch: Floats) -> None:
            z_VAD, l_VAD = _made(pairs, videos)
            arrays = z_VAD.flatten(0, 1).numpy(), l_VAD.flatten(0, 1).numpy(), _keys(key_BA, videos).reshape(-1)
            cosine_SN = torch.empty(2, len(arrays[0])).numpy()
            cosine_block(text_AD, *arrays, dimension, table, scratch, cosine_SN)
            cosine_SBA[:, videos] = torch.from_numpy(cosine_SN).view(2, *z_VAD.shape[:2])

        parallel(torch.get_num_threads(), work, _blocks(pairs), lambda: _scratch(text_AD))
        ctx.save_for_backward(key_BA, *inputs)
        ctx.dimension = dimension
        return cosine_SBA.transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, given_SAB: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the compiled cosines have no derivatives of their gradients (create_graph=True): use float64")
        key_BA, *inputs = ctx.saved_tensors
        pairs, dimension = Pairs(*inputs), ctx.dimension
        text_AD, table = pairs.text_AD.contiguous().numpy(), quantiles().numpy()
        given_SBA = given_SAB.transpose(1, 2).contiguous()
        d_mixture_BAK, d_basis_BKD, d_cosine_BAF = (torch.empty_like(x) for x in (pairs.mixture_BAK, pairs.basis_BKD, pairs.cosine_BAF))
        blocks = _blocks(pairs)
        of_blocks: dict[int, tuple[Tensor, Tensor]] = {}

        def work(videos: slice, scratch: Floats) -> None:
            z_VAD, l_VAD = _made(pairs, videos)
            d_text_AD = torch.zeros_like(pairs.text_AD)
            arrays = z_VAD.flatten(0, 1).numpy(), l_VAD.flatten(0, 1).numpy(), _keys(key_BA, videos).reshape(-1)
            given_SN = given_SBA[:, videos].flatten(1).contiguous().numpy()
            gradient_block(text_AD, *arrays, dimension, table, scratch, given_SN, d_text_AD.numpy())
            # The loop has put the gradients of z and l in their places.
            d_mixture_BAK[videos] = z_VAD @ pairs.basis_BKD[videos].transpose(1, 2)
            d_basis_BKD[videos] = pairs.mixture_BAK[videos].transpose(1, 2) @ z_VAD
            d_l_ND = l_VAD.flatten(0, 1)
            d_cosine_BAF[videos] = (d_l_ND @ pairs.radius_FD.T).view(*z_VAD.shape[:2], -1)
            of_blocks[videos.start] = d_text_AD, pairs.cosine_BAF[videos].flatten(0, 1).T @ d_l_ND

        parallel(torch.get_num_threads(), work, blocks, lambda: _scratch(text_AD))
        # Summed in a fixed order, so that results do not depend on which thread finished first.
        d_text_AD, d_radius_FD = torch.zeros_like(pairs.text_AD), torch.zeros_like(pairs.radius_FD)
        for videos in blocks:
            of_text, of_radius = of_blocks[videos.start]
            d_text_AD += of_text
            d_radius_FD += of_radius
        return None, None, d_text_AD, d_mixture_BAK, d_basis_BKD, d_cosine_BAF, d_radius_FD


def _scratch(text_AD: NDArray[np.float32]) -> Floats:
    """Memory of one thread for the noise and the radius of a pair; the noise of padded dimensions stays zero."""
    return torch.zeros(4, text_AD.shape[1]).numpy()


@compiled
def _inverse(square: Any) -> Any:
    """1 / sqrt(square), or 0 where that has no direction."""
    return _1 / np.sqrt(square) if square > _TINY else _0


@compiled
def _draw(key: Any, sample: int, table: Any, dimension: int, noise_D: Any) -> None:
    words = (dimension + 3) // 4
    draw_noise(key, sample, table, words, noise_D)
    for i in range(dimension, len(noise_D)):
        noise_D[i] = _0


@compiled
def _sums(text_D: Any, z_D: Any, l_D: Any, noise_D: Any, radius_D: Any) -> Any:
    """|t|^2 and |z|^2, c1 to c4 of the stochastic text, |z - t|^2 and c7 to c9 of the support text. Writes R."""
    tt, zz, qq = fill(_0), fill(_0), fill(_0)
    c1, c2, c3, c4, c7, c8, c9 = fill(_0), fill(_0), fill(_0), fill(_0), fill(_0), fill(_0), fill(_0)
    most = fill(_MOST)
    for i in range(0, len(text_D), LANES):
        t, z, l, e = load(text_D, i), load(z_D, i), load(l_D, i), load(noise_D, i)  # noqa: E741
        r = exp(where_greater(l, most, most, l))
        store(radius_D, i, r)
        d, n = z - t, r * e
        s = r * d
        tt, zz, qq = tt + t * t, zz + z * z, qq + d * d
        c1, c2, c3, c4 = c1 + t * z, c2 + n * z, c3 + n * t, c4 + n * n
        c7, c8, c9 = c7 + s * z, c8 + s * t, c9 + s * s
    return total(tt), total(zz), total(qq), total(c1), total(c2), total(c3), total(c4), total(c7), total(c8), total(c9)


@compiled
def cosine_block(text_AD: Any, z_ND: Any, l_ND: Any, key_N: Any, dimension: int, table: Any, scratch: Any, cosine_SN: Any) -> None:
    """Write the two cosines of every pair."""
    texts = len(text_AD)
    for n in range(len(z_ND)):
        _draw(key_N[n], 0, table, dimension, scratch[0])
        tt, zz, qq, c1, c2, c3, c4, c7, c8, c9 = _sums(text_AD[n % texts], z_ND[n], l_ND[n], scratch[0], scratch[1])
        inverse_z, h = _inverse(zz), _inverse(qq)
        cosine_SN[0, n] = (c1 + c2) * _inverse(tt + _2 * c3 + c4) * inverse_z
        cosine_SN[1, n] = (c1 + h * c7) * _inverse(tt + _2 * h * c8 + h * h * c9) * inverse_z


@compiled
def gradient_block(
    text_AD: Any,
    z_ND: Any,
    l_ND: Any,
    key_N: Any,
    dimension: int,
    table: Any,
    scratch: Any,
    given_SN: Any,
    d_text_AD: Any,
) -> None:
    """Replace z and l of every pair by their gradients, and add those of the texts to d_text_AD."""
    texts = len(text_AD)
    for n in range(len(z_ND)):
        a = n % texts
        text_D, z_D, l_D, d_text_D, noise_D, radius_D = text_AD[a], z_ND[n], l_ND[n], d_text_AD[a], scratch[0], scratch[1]
        _draw(key_N[n], 0, table, dimension, noise_D)
        tt, zz, qq, c1, c2, c3, c4, c7, c8, c9 = _sums(text_D, z_D, l_D, noise_D, radius_D)
        inverse_z, h = _inverse(zz), _inverse(qq)
        inverse_u, inverse_s = _inverse(tt + _2 * c3 + c4), _inverse(tt + _2 * h * c8 + h * h * c9)
        of_dot, of_support_dot = given_SN[0, n] * inverse_u * inverse_z, given_SN[1, n] * inverse_s * inverse_z
        stochastic, support = of_dot * (c1 + c2), of_support_dot * (c1 + h * c7)
        # Derivatives by the squared norms of both texts and of z, and by |z - t|^2.
        b1, b2 = -_HALF * stochastic * inverse_u * inverse_u, -_HALF * support * inverse_s * inverse_s
        of_zz = -_HALF * (stochastic + support) * inverse_z * inverse_z
        of_qq = -_HALF * h * h * h * (of_support_dot * c7 + _2 * b2 * (c8 + h * c9))
        a1, a2, a3, a4 = fill(of_dot + of_support_dot), fill(of_dot), fill(_2 * b1), fill(_2 * b1)
        a7, a8, a9 = fill(of_support_dot * h), fill(_2 * b2 * h), fill(_2 * b2 * h * h)
        of_t, of_z, of_d = fill(_2 * (b1 + b2)), fill(_2 * of_zz), fill(_2 * of_qq)
        for i in range(0, len(text_D), LANES):
            t, z, e, r = load(text_D, i), load(z_D, i), load(noise_D, i), load(radius_D, i)
            d, ne = z - t, r * e
            s, both = r * d, a7 * z + a8 * t
            d_d = of_d * d + r * both + a9 * r * s
            store(z_D, i, a1 * t + a2 * ne + a7 * s + of_z * z + d_d)
            store(d_text_D, i, load(d_text_D, i) + a1 * z + a3 * ne + a8 * s + of_t * t - d_d)
            store(l_D, i, ne * (a2 * z + a3 * t + a4 * ne) + s * (both + a9 * s))


@compiled
def best_block(text_AD: Any, z_AD: Any, l_AD: Any, key_A: Any, samples: int, dimension: int, table: Any, scratch: Any, best_A: Any) -> None:
    """Write the greatest stochastic cosine of every text with one video."""
    noise_D, radius_D, with_z_D, with_t_D = scratch[0], scratch[1], scratch[2], scratch[3]
    for a in range(len(text_AD)):
        text_D, z_D = text_AD[a], z_AD[a]
        _draw(key_A[a], 0, table, dimension, noise_D)
        tt, zz, _, c1, c2, c3, c4, _, _, _ = _sums(text_D, z_D, l_AD[a], noise_D, radius_D)
        best, inverse_z = (c1 + c2) * _inverse(tt + _2 * c3 + c4), _inverse(zz)
        for i in range(0, len(text_D), LANES):
            r = load(radius_D, i)
            store(with_z_D, i, r * load(z_D, i))
            store(with_t_D, i, r * load(text_D, i))
        for sample in range(1, samples):
            _draw(key_A[a], sample, table, dimension, noise_D)
            v2, v3, v4 = fill(_0), fill(_0), fill(_0)
            for i in range(0, len(text_D), LANES):
                e, n = load(noise_D, i), load(noise_D, i) * load(radius_D, i)
                v2, v3, v4 = v2 + e * load(with_z_D, i), v3 + e * load(with_t_D, i), v4 + n * n
            best = max(best, (c1 + total(v2)) * _inverse(tt + _2 * total(v3) + total(v4)))
        best_A[a] = best * inverse_z
