"""Measures how sharply texts weigh the frames of their own videos: between all frames alike and one frame alone.

Shape suffixes: A texts, B videos, L words, F frames, N distributions over the frames of a video.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data.base.progress import Progress
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Head
from train_head.scoring.splits import Split

ONE_FRAME = 0.9
"""A frame with more weight than this decides alone: all others together change the mixture by less than a tenth."""
TEXTS_AT_ONCE, MOST_TEXTS = 64, 256
"""Whole videos are weighed together until they have TEXTS_AT_ONCE texts, but never more than MOST_TEXTS texts at once. With fewer, the
temporal encoder mostly runs on padding: it takes a block of videos at a time."""
UNIFORM = 0.99
"""Entropy above which the guidance hardly guides. With 12 frames, it means that weights deviate from 1/12 by a fifth of it on average, so
that the mixture is nearly the mean of the frames."""
SINGLE = 0.5
"""Share above which the guidance is a choice: in most pairs a single frame decides, and nothing is pooled."""
_PATIENCE_S = 3.0


@dataclass
class _Sums:
    """Sums over distributions of weights."""

    entropy: float = 0.0
    one_frame: int = 0
    count: int = 0

    def add(self, weight_NF: Tensor, frames: int) -> None:
        weight_NF = weight_NF.cpu().double()
        self.entropy += float(torch.special.entr(weight_NF).sum()) / float(np.log(frames))
        self.one_frame += int((weight_NF.amax(dim=-1) > ONE_FRAME).sum())
        self.count += len(weight_NF)

    def means(self) -> dict[str, Any]:
        # Rounded, because the number of threads may change the last bits of a product.
        return {"entropy": round(self.entropy / self.count, 4), "one_frame": round(self.one_frame / self.count, 4), "count": self.count}


@torch.no_grad()
def sharpness(head: Head, split: Split, quiet: bool = True) -> dict[str, Any] | None:
    """How sharply each sentence (`sentence`) and each word (`words`) weighs the frames of its own video; None without text guidance.

    `entropy` is the mean entropy of the weights divided by the logarithm of the number of frames: 1 if all frames weigh the same, 0 if one
    frame has all the weight. `one_frame` is the share of sentences, or of words, that give one frame more than 0.9. `count` is their
    number. Words include the start and end tokens. Videos of one frame are left out; `texts_of_one_frame` counts their texts.

    With the authors' padding, padded frames are left out too: the weights of real frames are scaled to a sum of 1.
    """
    head.eval()
    device = head.logit_scale.device
    sums = {"sentence": _Sums(), "words": _Sums()}
    left_out = 0
    with Progress("guidance", len(split.answers), "texts", quiet, delay=_PATIENCE_S) as progress:
        for texts in chunks(split.answers):
            progress.update(len(texts))
            videos, own_A = np.unique(split.answers[texts], return_inverse=True)
            text_batch = TextBatch.gather(split.texts, texts, device)
            weights = head.frame_weights(text_batch, VideoBatch.gather(split.videos, videos, device))
            if weights.sentence_ABF is None and weights.word_ABLF is None:
                return None
            for a, (text, b) in enumerate(zip(texts, own_A, strict=True)):
                frames, words = int(split.videos.frames.length_N[videos[b]]), int(split.texts.words.length_N[text])
                if frames == 1:
                    left_out += 1
                    continue
                if weights.sentence_ABF is not None:
                    sums["sentence"].add(_of_frames(head, weights.sentence_ABF[a, b, None]), frames)
                if weights.word_ABLF is not None:
                    sums["words"].add(_of_frames(head, weights.word_ABLF[a, b, :words]), frames)
    return {name: found.means() for name, found in sums.items() if found.count} | {"texts_of_one_frame": left_out}


def _of_frames(head: Head, weight_NF: Tensor) -> Tensor:
    """The weights of real frames, as distributions. Padding may have all the weight: then they stay 0."""
    return weight_NF / weight_NF.sum(dim=-1, keepdim=True).clamp(min=1e-30) if head.with_padding else weight_NF


def guidance_lines(guidance: Mapping[str, Any] | None) -> Iterator[str]:
    """The figures of `sharpness` as lines for people."""
    for name, who, what in (("sentence", "a sentence", "sentences"), ("words", "a word", "words")):
        found = (guidance or {}).get(name)
        if found:
            yield (
                f"guidance: {who} weighs the frames of its video with entropy {found['entropy']:.2f} (1.00 = all alike, 0.00 = one frame); "
                f"{100 * found['one_frame']:.1f}% of {found['count']:,} {what} give one frame more than {ONE_FRAME}"
            )
    if guidance and guidance["texts_of_one_frame"]:
        yield f"guidance: left out {guidance['texts_of_one_frame']:,} captions of videos with a single frame"


def misfit(guidance: Mapping[str, Any] | None, tau: float) -> str:
    """Why tau evidently does not suit the features, in words; empty if it may."""
    found = [guidance[name] for name in ("sentence", "words") if name in guidance] if guidance else []
    if found and all(one["entropy"] > UNIFORM for one in found):
        return f"tau {tau:g} is too large for these features: every text weighs all frames almost alike"
    if found and all(one["one_frame"] > SINGLE for one in found):
        return f"tau {tau:g} is too small for these features: most texts read a single frame"
    return ""


def chunks(answers: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices of texts, sorted by video, a few whole videos at a time."""
    order = np.argsort(answers, kind="stable")
    starts = [*np.flatnonzero(np.diff(answers[order], prepend=-1)).tolist(), len(order)]
    first = 0
    for start in starts[1:]:
        if start - first >= TEXTS_AT_ONCE or start == len(order):
            for cut in range(first, start, MOST_TEXTS):
                yield order[cut : min(cut + MOST_TEXTS, start)]
            first = start
