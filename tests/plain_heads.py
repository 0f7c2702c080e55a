"""A plain reading of every head's equations: one pair at a time, in float64, from ragged lists. Nothing here is fast or guarded."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear

from tests.features import patches_of
from tests.glim_reference import agg, reference_scores, unit
from train_head.heads import HEADS, Head
from train_head.heads.base import SCORES
from train_head.heads.tmass import SAMPLES
from train_head.kernels.noise import hash_rows, hash_videos, noise, pair_keys
from train_head.temporal import Block, PositionedBlocks, SeqTransf, TemporalEncoder

Parameters = dict[str, Tensor]


def random_parameters(head: Head, seed: int) -> Parameters:
    """All parameters moved away from where they start, which hides wrong masks and transposed matrices; and what they are, in float64."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in head.named_parameters():
            if name != "logit_scale":
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return {name: parameter.detach().double() for name, parameter in head.named_parameters()}


def plain_temporal(encoder: TemporalEncoder, frame_FD: Tensor, real: int | None = None) -> Tensor:
    """The frames v of one video alone. Frames from `real` on are padding: they read the real frames and are read by none."""
    if isinstance(encoder, SeqTransf):
        return frame_FD + plain_blocks(encoder, frame_FD + encoder.positional_embedding[: len(frame_FD)], real)
    # One cell's equations, frame by frame.
    assert real is None
    p = {name.removeprefix("lstm."): value for name, value in encoder.named_parameters()}
    h, c = torch.zeros_like(frame_FD[0]), torch.zeros_like(frame_FD[0])
    found = []
    for x in frame_FD:
        i, f, g, o = (p["weight_ih_l0"] @ x + p["bias_ih_l0"] + p["weight_hh_l0"] @ h + p["bias_hh_l0"]).split(len(x))
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        found.append(x + h)
    return torch.stack(found)


def plain_blocks(blocks: PositionedBlocks, x_FD: Tensor, real: int | None = None) -> Tensor:
    """One sequence through all blocks, by the modules' own forward. Rows from `real` on are read by none."""
    ignored_F = None if real is None else torch.arange(len(x_FD)) >= real
    for block in blocks.blocks:
        assert isinstance(block, Block)
        y_FD = block.ln_1(x_FD)
        x_FD = x_FD + block.attn(y_FD, y_FD, y_FD, key_padding_mask=ignored_F, need_weights=True)[0]
        hidden = block.mlp.c_fc(block.ln_2(x_FD))
        hidden = hidden * torch.sigmoid(1.702 * hidden) if blocks.activation == "QuickGELU" else gelu(hidden)
        x_FD = x_FD + block.mlp.c_proj(hidden)
    return x_FD


def mean_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    return [unit(s) @ unit(torch.stack([unit(frame) for frame in v]).mean(dim=0))]


def xclip_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters, kappa: float = 0.01) -> list[Tensor]:
    words, frames = [unit(word) for word in w], [unit(frame) for frame in u]
    video = unit(torch.stack([unit(frame) for frame in v]).mean(dim=0))
    z = torch.stack([torch.stack([(word @ p["M_l"]) @ frame for frame in frames]) for word in words])
    first = agg(torch.stack([agg(z[:, j], p["P3"], kappa) for j in range(len(frames))]), p["P4"], kappa)
    second = agg(torch.stack([agg(z[k], p["P5"], kappa) for k in range(len(w))]), p["P6"], kappa)
    return [
        (unit(s) @ p["M_g"]) @ video,
        agg(torch.stack([word @ video for word in words]), p["P1"], kappa),
        agg(torch.stack([unit(s) @ frame for frame in frames]), p["P2"], kappa),
        (first + second) / 2,
    ]


def dp_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    return mean_pair(w[-1], w, u, v, p)


def cosines(w: Tensor, v: Tensor) -> Tensor:
    """Of every word with every frame."""
    return torch.stack([torch.stack([unit(word) @ unit(frame) for frame in v]) for word in w])


def ti_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    cosine = cosines(w, v)
    return [(cosine.amax(dim=1).mean() + cosine.amax(dim=0).mean()) / 2]


def meanmaxsim_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    """MMS_F and MMS_V, of which the paper takes the sum."""
    return [torch.stack([cosines(w, frames).amax(dim=1).mean() for frames in (u, v)]).mean()]


def wti_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    def weights(tokens: Tensor, kind: str) -> Tensor:
        said = []
        for token in tokens:
            hidden = linear(token, p[f"{kind}_weight.0.weight"], p[f"{kind}_weight.0.bias"]).relu()
            said.append(linear(hidden, p[f"{kind}_weight.2.weight"], p[f"{kind}_weight.2.bias"])[0])
        return torch.stack(said).softmax(dim=0)

    cosine = cosines(w, v)
    text = sum((weights(w, "word")[i] * cosine[i].max() for i in range(len(w))), start=torch.zeros((), dtype=w.dtype))
    video = sum((weights(v, "frame")[j] * cosine[:, j].max() for j in range(len(v))), start=torch.zeros((), dtype=w.dtype))
    return [(text + video) / 2]


def xpool_pooled(s: Tensor, v: Tensor, p: Parameters) -> Tensor:
    """The frames pooled for a sentence, before the cosine."""

    def norm(x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape, p[f"{name}.weight"], p[f"{name}.bias"])

    def project(x: Tensor, name: str) -> Tensor:
        return p[f"{name}.weight"] @ x + p[f"{name}.bias"]

    query = project(norm(s, "norm_in"), "query")
    attention = torch.stack([query @ project(norm(frame, "norm_in"), "key") / len(s) ** 0.5 for frame in v]).softmax(dim=0)
    given_ = torch.stack([project(norm(frame, "norm_in"), "value") for frame in v])
    pooled = norm(project(attention @ given_, "out"), "norm_pooled")
    return norm(project(pooled, "fc") + pooled, "norm_out")


def xpool_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    return [unit(s) @ unit(xpool_pooled(s, v, p))]


def tmass_parts(s: Tensor, v: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """The pooled video and the radius R."""
    log_radius = sum((unit(s) @ unit(frame) * p["radius"][f] for f, frame in enumerate(v)), start=torch.zeros_like(s))
    return xpool_pooled(s, v, p), log_radius.exp()


def tmass_stochastic(s: Tensor, v: Tensor, p: Parameters, noise: Tensor) -> Tensor:
    z, radius = tmass_parts(s, v, p)
    return unit(s + radius * noise) @ unit(z)


def tmass_support(s: Tensor, v: Tensor, p: Parameters) -> Tensor:
    z, radius = tmass_parts(s, v, p)
    return unit(s + (z - s) / (z - s).norm() * radius) @ unit(z)


def tmass_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters, noise: Tensor) -> list[Tensor]:
    return [torch.stack([tmass_stochastic(s, v, p, sample) for sample in noise]).max()]


def tmass_noise(sentences: list[Tensor], frames: list[Tensor], draw: int = 0, samples: int = SAMPLES) -> Tensor:
    """[A, B, samples, D] in float64, of `train_head.kernels.noise`, whose own tests say that it is normal."""
    text = torch.stack([hash_rows(s) for s in sentences])
    video = torch.cat([hash_videos(u[None], torch.ones(1, len(u), dtype=torch.bool)) for u in frames])
    keys = pair_keys(text, video, draw).T
    return torch.stack([noise(keys, sample, len(sentences[0])) for sample in range(samples)], dim=2).double()


def glscl_concepts(x: Tensor, p: Parameters) -> Tensor:
    """What the queries find in these words or frames, [Q, D], of norm 1."""
    d = x.shape[1]
    tokens = layer_norm(x, (d,), p["norm_in.weight"], p["norm_in.bias"])
    found = []
    for query in p["queries"]:
        asked = p["query.weight"] @ query
        weight = torch.stack([asked @ (p["key.weight"] @ token) / d**0.5 for token in tokens]).softmax(dim=0)
        mixed = weight @ torch.stack([p["value.weight"] @ token + p["value.bias"] for token in tokens])
        found.append(layer_norm(query + p["out.weight"] @ mixed + p["out.bias"], (d,), p["norm_out.weight"], p["norm_out.bias"]))
    return torch.stack([unit(concept) for concept in found])


def glscl_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters, tau: float = 5.0) -> list[Tensor]:
    alpha = torch.stack([s @ frame / tau for frame in v]).softmax(dim=0)
    concepts = zip(glscl_concepts(w, p), glscl_concepts(v, p), strict=True)
    local = torch.stack([word_concept @ frame_concept for word_concept, frame_concept in concepts]).mean()
    return [(unit(s) @ unit(alpha @ v) + local) / 2]


def tmvm_masks(tokens: Tensor, p: Parameters) -> Tensor:
    """m [K, N] of the tokens of a video."""
    d = tokens.shape[1]
    said = [[torch.sigmoid(d**0.5 * (w @ unit(t)) + c) for t in tokens] for w, c in zip(p["mask.weight"], p["mask.bias"], strict=True)]
    return torch.stack([torch.stack(row) for row in said])


def tmvm_score(s: Tensor, tokens: Tensor, p: Parameters) -> list[Tensor]:
    """The best of the prototypes of these tokens."""
    units = torch.stack([unit(t) for t in tokens])
    return [torch.stack([unit(s) @ unit(mask @ units) for mask in tmvm_masks(tokens, p)]).max()]


def tmvm_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    return tmvm_score(s, torch.cat([v, *patches_of(u)]), p)


def tmvm_frames_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    return tmvm_score(s, v, p)


def plain_norm(x: Tensor, p: Parameters, name: str, eps: float = 1e-5) -> Tensor:
    return layer_norm(x, x.shape, p[f"{name}.weight"], p[f"{name}.bias"], eps=eps)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def through_blocks(rows: list[Tensor], p: Parameters, blocks: str, heads: int) -> list[Tensor]:
    """A sequence after its positions are added and four blocks are passed, all named `blocks`."""
    return through(4, [row + p[f"{blocks}.positional_embedding"][i] for i, row in enumerate(rows)], p, f"{blocks}.blocks", heads)


def through(count: int, rows: list[Tensor], p: Parameters, blocks: str, heads: int) -> list[Tensor]:
    """A sequence after this many blocks, all named `blocks`."""
    for number in range(count):
        block = f"{blocks}.{number}"
        normed = [plain_norm(row, p, f"{block}.ln_1", 1e-12) for row in rows]
        query, key, value = (
            torch.stack([weight @ row + bias for row in normed]).split(len(rows[0]) // heads, dim=1)
            for weight, bias in zip(p[f"{block}.attn.in_proj_weight"].chunk(3), p[f"{block}.attn.in_proj_bias"].chunk(3), strict=True)
        )
        attention = [(q @ k.T / q.shape[1] ** 0.5).softmax(dim=1) @ x for q, k, x in zip(query, key, value, strict=True)]
        mixed = linear(torch.cat(attention, dim=1), p[f"{block}.attn.out_proj.weight"], p[f"{block}.attn.out_proj.bias"])
        rows = [row + mixed_D for row, mixed_D in zip(rows, mixed, strict=True)]
        inner = [plain_norm(row, p, f"{block}.ln_2", 1e-12) for row in rows]
        hidden = [quick_gelu(linear(row, p[f"{block}.mlp.c_fc.weight"], p[f"{block}.mlp.c_fc.bias"])) for row in inner]
        rows = [row + p[f"{block}.mlp.c_proj.weight"] @ h + p[f"{block}.mlp.c_proj.bias"] for row, h in zip(rows, hidden, strict=True)]
    return rows


def tight_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters, heads: int = 1) -> list[Tensor]:
    first = through_blocks([s, *u], p, "cross", heads)[0]
    pooled = quick_gelu(p["pool_dense.weight"] @ plain_norm(first, p, "pool_norm", 1e-12) + p["pool_dense.bias"])
    return [p["score.weight"][0] @ pooled + p["score.bias"][0]]


def joint_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    def seen(x: Tensor, kind: str) -> Tensor:
        return p[f"projections.{kind}.weight"] @ plain_norm(x, p, f"norms.{kind}", 1e-12)

    rows = [seen(s, "sentence") + p["types.sentence"], *(seen(word, "word") + p["types.word"] for word in w)]
    for f, (frame, patches) in enumerate(zip(u, patches_of(u), strict=True)):
        rows += [seen(patch, "patch") + seen(frame, "frame") + p["times"][f] + p["types.patch"] for patch in patches]
    first = through(3, rows, p, "blocks", heads=1)[0]
    pooled = quick_gelu(p["pool_dense.weight"] @ plain_norm(first, p, "pool_norm", 1e-12) + p["pool_dense.bias"])
    return [p["logit_scale"].exp() * mean_pair(s, w, u, v, p)[0] + p["score.weight"][0] @ pooled + p["score.bias"][0]]


def ts2_token_scores(token_ND: Tensor, p: Parameters) -> list[Tensor]:
    """Of the tokens of a frame, the class token first."""
    own = [gelu(p["selector.into.weight"] @ plain_norm(token, p, "selector.norm")) for token in token_ND]
    hidden = [gelu(p["selector.hidden.weight"] @ torch.cat([h, own[0]])) for h in own]
    return [torch.tanh(p["selector.score.weight"][0] @ h) for h in hidden]


def ts2_frames(frame_FD: Tensor, patch_FMD: Tensor, p: Parameters, heads: int = 1) -> list[Tensor]:
    """The frames x after the Transformer over the chosen tokens."""
    sequence: list[Tensor] = []
    for frame, patches in zip(frame_FD, patch_FMD, strict=True):
        scores = ts2_token_scores(torch.stack([frame, *patches]), p)[1:]
        best = sorted(range(len(scores)), key=lambda m, scores=scores: -float(scores[m]))[:3]  # type: ignore[misc]
        sequence += [frame, *(patches[m] for m in sorted(best))]
    read = through_blocks(sequence, p, "joint", heads)[::4]
    return [frame + z for frame, z in zip(frame_FD, read, strict=True)]


def ts2_pair(s: Tensor, w: Tensor, u: Tensor, v: Tensor, p: Parameters) -> list[Tensor]:
    cosine = torch.stack([unit(s) @ unit(x) for x in ts2_frames(u, patches_of(u), p)])
    return [(4 * cosine / cosine.norm()).softmax(dim=0) @ cosine]


PLAIN: dict[str, Callable[..., list[Tensor]]] = {
    "mean": mean_pair,
    "xclip": xclip_pair,
    "dp": dp_pair,
    "ti": ti_pair,
    "wti": wti_pair,
    "meanmaxsim": meanmaxsim_pair,
    "xpool": xpool_pair,
    "tmass": tmass_pair,
    "glscl": glscl_pair,
    "tight": tight_pair,
    "ts2": ts2_pair,
    "tmvm": tmvm_pair,
    "tmvm-frames": tmvm_frames_pair,
    "joint": joint_pair,
}


def plain_scores(
    name: str,
    sentences: list[Tensor],
    words: list[Tensor],
    frames: list[Tensor],
    parameters: Parameters,
    temporal: TemporalEncoder | None = None,
    tau: float = 5.0,
    kappa: float = 0.01,
    noise: Tensor | None = None,
) -> Tensor:
    """[S, A, B] without the logit scale. u of the method are the frames, v those after the temporal encoder, in float64.

    `noise` [A, B, samples, D] is that of tmass; None for that of these features.
    """
    before = [u.double() for u in frames]
    after = before if temporal is None else [plain_temporal(temporal, u) for u in before]
    if name in PLAIN:
        pair = partial(PLAIN[name], **{"xclip": {"kappa": kappa}, "glscl": {"tau": tau}}.get(name, {}))
        if name == "tmass" and noise is None:
            noise = tmass_noise(sentences, frames)
        of_pairs = [[{} if noise is None else {"noise": noise[a, b]} for b in range(len(frames))] for a in range(len(sentences))]
        rows = [
            [torch.stack(pair(s.double(), w.double(), u, v, parameters, **of)) for u, v, of in zip(before, after, of_row, strict=True)]
            for s, w, of_row in zip(sentences, words, of_pairs, strict=True)
        ]
        return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    dimension, longest = len(sentences[0]), max(map(len, words))
    size = {"M_g": dimension, "M_l": dimension} | {f"P{i}": longest for i in range(1, 7)}
    matrices = {key: parameters.get(key, torch.eye(n)) for key, n in size.items()}
    chosen = [SCORES.index(score) for score in HEADS[name].offered(name)]
    return reference_scores(sentences, words, after, matrices, tau=tau, kappa=kappa, scale=1.0)[chosen]


def rounding(
    name: str,
    sentences: list[Tensor],
    words: list[Tensor],
    frames: list[Tensor],
    parameters: Parameters,
    temporal: TemporalEncoder | None = None,
    tau: float = 5.0,
    kappa: float = 0.01,
) -> Tensor:
    """How far float32 may move each score [S, A, B], from its own conditioning.

    A dot product of D numbers in float32, in any order, is the exact one of factors changed by up to D * 2^-24 of themselves, and a cosine
    takes three: the product and two norms. So a score may move as far as such changes of the features move it in float64: three times the
    worst of three draws, since no draw is the worst there is, and the same share of the score itself for what follows the products. Where
    a softmax at temperature 0.01 is undecided, that is much more than where it is not.
    """
    generator = torch.Generator().manual_seed(0)
    share = 3 * len(sentences[0]) * 2.0**-24

    def changed(rows: list[Tensor]) -> list[Tensor]:
        return [x.double() * (1 + share * (2 * torch.rand(x.shape, generator=generator, dtype=torch.float64) - 1)) for x in rows]

    # The noise of tmass does not round: it belongs to the bits of the features.
    noise = tmass_noise(sentences, frames) if name == "tmass" else None
    exact = plain_scores(name, sentences, words, frames, parameters, temporal, tau, kappa, noise)
    moved = torch.zeros_like(exact)
    for _ in range(3):
        other = plain_scores(name, changed(sentences), changed(words), changed(frames), parameters, temporal, tau, kappa, noise)
        moved = torch.maximum(moved, (other - exact).abs())
    return 3 * moved + share * (1 + exact.abs())
