"""The equations of the method read plainly, one pair and one word at a time, in float64. Nothing here is fast or guarded."""

import torch
from torch import Tensor

NAMES = ("P1", "P2", "P3", "P4", "P5", "P6")


def unit(x: Tensor) -> Tensor:
    """A zero vector, which only padding that counts brings here, stays zero."""
    norm: Tensor = x.norm()
    return x / norm if norm > 0 else x


def agg(x: Tensor, p: Tensor, kappa: float) -> Tensor:
    n = len(x)
    weight = (x / kappa).softmax(dim=0)
    total = torch.zeros((), dtype=x.dtype)
    for k in range(n):
        total = total + sum((weight[j] * p[j, k] for j in range(n)), start=torch.zeros((), dtype=x.dtype)) * x[k]
    return total


def pair_scores(s: Tensor, w: Tensor, v: Tensor, head: dict[str, Tensor], tau: float, kappa: float) -> list[Tensor]:
    """The four scores of one text (s [D], w [L, D]) and one video (v [F, D]), without the logit scale."""
    words = range(len(w))
    alpha = (v @ s / tau).softmax(dim=0)
    video = unit(alpha @ v)
    frames = [unit((v @ w[i] / tau).softmax(dim=0) @ v) for i in words]
    video_sentence = (unit(s) @ head["M_g"]) @ video
    video_word = agg(torch.stack([unit(w[i]) @ video for i in words]), head["P1"], kappa)
    sentence_frame = agg(torch.stack([unit(s) @ frames[i] for i in words]), head["P2"], kappa)
    z = torch.stack([torch.stack([(unit(w[k]) @ head["M_l"]) @ frames[i] for i in words]) for k in words])
    first = agg(torch.stack([agg(z[:, i], head["P3"], kappa) for i in words]), head["P4"], kappa)
    second = agg(torch.stack([agg(z[k], head["P5"], kappa) for k in words]), head["P6"], kappa)
    return [video_sentence, video_word, sentence_frame, (first + second) / 2]


def reference_scores(
    sentences: list[Tensor],
    words: list[Tensor],
    frames: list[Tensor],
    head: dict[str, Tensor],
    tau: float = 5.0,
    kappa: float = 0.01,
    scale: float = 100.0,
) -> Tensor:
    """[4, A, B] in float64 from ragged lists of sentences [D], words [L, D] and frames [F, D]."""
    wide = {name: value.double() for name, value in head.items()}
    rows = [
        [torch.stack(pair_scores(s.double(), w.double(), v.double(), wide, tau, kappa)) for v in frames]
        for s, w in zip(sentences, words, strict=True)
    ]
    return scale * torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
