"""Finds the moment of a video that fits a text best: the frame with the largest weight.

Shape suffixes: B videos, F frames, D joint dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from data.cache.features import VideoFeatures
from search.retrieval.near import cosines
from search.retrieval.parts import standard
from train_head.heads import Head, TextBatch, VideoBatch

Measure = Literal["sentence", "words", "cosine", "picture", "mixed"]
MEANING: dict[Measure, str] = {
    "sentence": "weight given the whole sentence (alpha of GLCCL)",
    "words": "mean weight given its words (beta of GLCCL)",
    "cosine": "cosine with the sentence",
    "picture": "cosine with the picture",
    "mixed": "agreement with the words and the picture",
}


@dataclass(frozen=True)
class Moment:
    """The best frame of a video for a text, and the weights of all its frames."""

    frame: int
    """Index among the frames that the head sees."""
    seconds: float
    """Time from the start of the file."""
    seconds_F: list[float]
    weight_F: list[float]


@torch.no_grad()
def find_moments(
    head: Head,
    texts: Sequence[TextBatch],
    videos: VideoFeatures,
    members: Sequence[int] | NDArray[np.int64],
    vectors: Sequence[NDArray[np.float32]] = (),
    weight: float = 0.5,
) -> tuple[Measure, list[Moment]]:
    """The best moment of each of these videos for a query, and the measure that weighs their frames.

    texts: wordings of the query's words, whose weights are averaged. Heads with text-guided pooling weigh the frames themselves. For other
        heads the weight of a frame is its cosine with the sentence. That ranks the frames, but the scores are not computed from it. The
        cosine uses frames after the temporal encoder, or before it if the head compares single frames there.
    vectors: pictures, whose cosines with the frames are averaged.
    weight: of the vectors beside texts. Both are standardised over the frames of a video, and the sum is scaled to 0..1.
    """
    measure: Measure = "picture"
    of_texts: list[NDArray[np.float32]] = []
    if texts:
        batch = VideoBatch.gather(videos, members, head.logit_scale.device)
        weights = [_text_weights(head, text, batch) for text in texts]
        measure, of_texts = weights[0][0], [weight_BF for _, weight_BF in weights]
        if vectors:
            measure = "mixed"
    found = []
    for row, i in enumerate(members):
        seconds_F = videos.seconds[i]
        by_texts = [weight_BF[row, : len(seconds_F)] for weight_BF in of_texts]
        by_vectors = [cosines(videos, vector_D, int(i)) for vector_D in vectors]
        weight_F = _frame_weights(by_texts, by_vectors, weight)
        best = int(weight_F.argmax())
        found.append(Moment(best, float(seconds_F[best]), seconds_F.tolist(), weight_F.tolist()))
    return measure, found


def _text_weights(head: Head, text: TextBatch, batch: VideoBatch) -> tuple[Measure, NDArray[np.float32]]:
    """The measure of one text, and the weight of each frame by it [B, F], padded."""
    weights = head.frame_weights(text, batch)
    measure: Measure
    if weights.sentence_ABF is not None:
        measure, weight_BF = "sentence", weights.sentence_ABF[0]
    elif weights.word_ABLF is not None:
        measure, weight_BF = "words", weights.word_ABLF[0].mean(dim=1)
    else:
        frames = head.apply_temporal(batch)
        frame_BFD = frames.frame_BFD if frames.before_BFD is None else frames.before_BFD
        measure, weight_BF = "cosine", normalize(frame_BFD, dim=-1) @ normalize(text.sentence_AD[0], dim=-1)
    return measure, weight_BF.cpu().numpy()


def _frame_weights(
    by_texts: Sequence[NDArray[np.float32]], by_vectors: Sequence[NDArray[np.float32]], weight: float
) -> NDArray[np.float32]:
    """One weight for each frame [F]."""
    if not by_vectors:
        return _mean(by_texts)
    if not by_texts:
        return _mean(by_vectors)
    mixed_F = np.float32(1 - weight) * standard(_mean(by_texts)) + np.float32(weight) * standard(_mean(by_vectors))
    low, high = float(mixed_F.min()), float(mixed_F.max())
    scaled_F = (mixed_F - low) / (high - low) if high > low else np.ones_like(mixed_F)
    return scaled_F.astype(np.float32)


def _mean(weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean of the weights of each frame [F]."""
    return weights[0] if len(weights) == 1 else np.mean(np.stack(weights), axis=0, dtype=np.float32)


def further_moments(moment: Moment, count: int, apart: float) -> tuple[int, ...]:
    """The frames of up to `count` next best moments, best first, each at least `apart` seconds from the better ones."""
    chosen = [moment.frame]
    for frame in np.argsort(-np.asarray(moment.weight_F), kind="stable").tolist():
        if len(chosen) > count:
            break
        if frame not in chosen and all(abs(moment.seconds_F[frame] - moment.seconds_F[other]) >= apart for other in chosen):
            chosen.append(frame)
    return tuple(chosen[1 : count + 1])


def timestamp(seconds: float) -> str:
    """Seconds as h:mm:ss.s: 61.25 is 0:01:01.2."""
    tenths = round(seconds * 10)
    return f"{tenths // 36000}:{tenths // 600 % 60:02}:{tenths // 10 % 60:02}.{tenths % 10}"
