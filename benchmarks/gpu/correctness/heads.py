"""Scores and gradients of every head on the device, against the same weights in float64 on the CPU.

float32 has a bound, from the problem's own conditioning. A sum of K products in float32, in any order, is the exact one of factors
changed by up to K * 2^-24 of themselves. So float32 may move a result as far as such changes of features and weights move it in float64:
three times the worst of DRAWS draws, since no draw is the worst there is, and the same share of the largest entry for what follows the
products. The gradient of each parameter has a bound of its own: see `gradient_bound`. bf16 and TF32 are stated without a bound. Errors are
relative to the largest score, and to the largest entry of the gradient.

Shape suffixes: A texts, B videos, R words of all texts (or frames of all videos), M patch tokens of a frame, D joint dimension, S scores.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.correctness.bounds import ROUNDING_ONLY, gradient_bound, largest, most
from benchmarks.gpu.place import Outcome, Place
from train_head.heads import HEADS, Execution, Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.losses import contrastive_loss, csc_loss

DRAWS = 3
PATCHES = 4
LSTM_HEADS = ("mean", "glccl")
"""Heads to try behind seq-lstm. The encoder does not depend on the head."""
NOISY_HEADS = ("tmass", "ts2")
"""Heads whose noise belongs to the bits of the features: with other features it is another, so that only weights are changed."""
CSC_WEIGHT = 0.5


@dataclass(frozen=True)
class Features:
    """As many texts as videos, text i belonging to video i, as in `TextBatch` and `VideoBatch.of_rows`."""

    sentence_AD: Tensor
    word_RD: Tensor
    words_A: Tensor
    frame_RD: Tensor
    frames_B: Tensor
    patch_RMD: Tensor

    def each(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """Apply `change` to every feature."""
        changed = (change(self.frame_RD), change(self.patch_RMD))
        return Features(change(self.sentence_AD), change(self.word_RD), self.words_A, changed[0], self.frames_B, changed[1])

    def batches(self) -> tuple[TextBatch, VideoBatch]:
        """The inputs of a head."""
        return TextBatch(self.sentence_AD, self.word_RD, self.words_A), VideoBatch.of_rows(self.frame_RD, self.frames_B, self.patch_RMD)


@dataclass(frozen=True)
class Size:
    """Texts, which is also the number of videos; the most words and frames of each; and D."""

    entries: int
    words: int
    frames: int
    dimension: int

    def features(self, seed: int) -> Features:
        """Random features of norms near CLIP's, ragged."""
        generator = torch.Generator().manual_seed(seed)

        def rows(*shape: int) -> Tensor:
            return torch.randn(*shape, self.dimension, generator=generator).mul(10 * self.dimension**-0.5)

        words_A = torch.randint(3, self.words + 1, (self.entries,), generator=generator)
        frames_B = torch.randint(1, self.frames + 1, (self.entries,), generator=generator)
        frames = int(frames_B.sum())
        return Features(rows(self.entries), rows(int(words_A.sum())), words_A, rows(frames), frames_B, rows(frames, PATCHES))

    def head(self, name: str, temporal: str, execution: Execution) -> Head:
        """The head in float32 on the CPU, with random weights far from those that it starts at."""
        config = HeadConfig(self.dimension, self.words, logit_scale=20.0, max_frames=self.frames, patches=PATCHES, temporal=temporal)
        config = replace(config, temporal_positions=HEADS[name].block_positions(self.frames), temporal_heads=2)
        torch.manual_seed(0)
        head = make_head(name, config, execution)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter_name, parameter in head.named_parameters():
                if parameter_name != "logit_scale":
                    parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        return head

    @property
    def longest_sum(self) -> int:
        """The most products in one sum: the hidden width of a Transformer block, or the words of all texts in a gradient."""
        return max(4 * self.dimension, self.entries * self.words)


def sizes(small: bool) -> Size:
    """The size of the comparison."""
    return Size(4, 6, 3, 16) if small else Size(24, 12, 8, 64)


@dataclass(frozen=True)
class Result:
    """Scores [S, A, B], and the gradient of the loss in every parameter, in float64 on the CPU."""

    scores_SAB: Tensor
    gradients: dict[str, Tensor]

    def moved(self, other: "Result") -> tuple[float, dict[str, float]]:
        """The largest differences: of the scores, and of the gradient of each parameter."""
        assert self.gradients.keys() == other.gradients.keys(), "other parameters have gradients"
        gradients = {name: largest(gradient - other.gradients[name]) for name, gradient in self.gradients.items()}
        return largest(self.scores_SAB - other.scores_SAB), gradients

    def largest(self) -> tuple[float, float]:
        """The largest score and the largest entry of the gradient, in absolute value."""
        return largest(self.scores_SAB), most(map(largest, self.gradients.values()))


def result(head: Head, features: Features) -> Result:
    """Forward and backward, where head and features are."""
    head.train().zero_grad()
    texts, videos = features.batches()
    frames = head.apply_temporal(videos)
    scores_SAB = head.scores(head.encode_texts(texts), head.encode_frames(frames))
    loss = contrastive_loss(scores_SAB.mean(dim=0))
    if len(scores_SAB) > 1:
        loss = loss + CSC_WEIGHT * csc_loss(scores_SAB)
    loss = loss + sum(head.extra_losses(texts, frames).values())
    loss.backward()
    gradients = {name: value.grad.cpu().double() for name, value in head.named_parameters() if value.grad is not None}
    return Result(scores_SAB.detach().cpu().double(), gradients)


def changed(head: Head, features: Features, share: float, seed: int) -> tuple[Head, Features]:
    """Copies whose weights and features are changed at random by up to `share` of themselves."""
    generator = torch.Generator().manual_seed(seed)

    def change(x: Tensor) -> Tensor:
        return x * (1 + share * (2 * torch.rand(x.shape, generator=generator, dtype=x.dtype) - 1))

    copy = deepcopy(head)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.copy_(change(parameter))
    return copy, features if head.name in NOISY_HEADS else features.each(change)


@dataclass(frozen=True)
class Reference:
    """The exact result, and how far float32 may move it."""

    exact: Result
    scores_bound: float
    gradient_bounds: dict[str, float]

    @classmethod
    def of(cls, head: Head, features: Features, share: float) -> "Reference":
        """From the head and features in float32 on the CPU. `share`: of the factors, see the file's text."""
        wide, wide_features = deepcopy(head).double(), features.each(Tensor.double)
        exact = result(deepcopy(wide), wide_features)
        draws = [exact.moved(result(*changed(wide, wide_features, share, seed))) for seed in range(DRAWS)]
        largest_score, largest_gradient = exact.largest()
        gradients = {
            name: gradient_bound(largest(gradient), most(of_gradients[name] for _, of_gradients in draws), largest_gradient, share)
            for name, gradient in exact.gradients.items()
        }
        reference = cls(exact, 3 * most(of_scores for of_scores, _ in draws) + share * largest_score, gradients)
        assert math.isfinite(most([reference.scores_bound, *gradients.values()])), "the exact result is not finite"
        return reference

    @property
    def rounding_only(self) -> list[str]:
        """The parameters whose exact gradient is zero, such as a bias in front of a softmax: their bound is of the whole gradient."""
        _, largest_gradient = self.exact.largest()
        return [name for name, gradient in self.exact.gradients.items() if largest(gradient) <= ROUNDING_ONLY * largest_gradient]

    @property
    def wide(self) -> list[str]:
        """The other parameters whose bound is as large as their gradient, so that a wrong scale could go unnoticed."""
        skipped = self.rounding_only
        return [name for name, x in self.exact.gradients.items() if name not in skipped and largest(x) <= self.gradient_bounds[name]]

    def errors(self, found: Result) -> dict[str, float]:
        """The errors of scores and gradient, relative to their largest entries, and as shares of their bounds."""
        of_scores, of_gradients = self.exact.moved(found)
        largest_score, largest_gradient = self.exact.largest()
        return {
            "scores": of_scores / largest_score,
            "gradient": most(of_gradients.values()) / largest_gradient,
            "scores by bound": of_scores / self.scores_bound,
            "gradient by bound": most(error / self.gradient_bounds[name] for name, error in of_gradients.items()),
        }


@contextmanager
def tf32() -> Iterator[None]:
    """Allow TF32 for all products on CUDA."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def reference_of(head: Head, size: Size) -> tuple[Reference, Features]:
    """The reference of a head in float32 on the CPU, and the features that it is of."""
    features = size.features(seed=2)
    return Reference.of(head, features, share=size.longest_sum * 2.0**-24), features


def compare(name: str, temporal: str, size: Size, device: torch.device) -> tuple[dict[str, dict[str, float]], Reference]:
    """The errors of one head by precision, float32, bf16 and on CUDA tf32, and what they are relative to."""
    head = size.head(name, temporal, Execution())
    reference, features = reference_of(head, size)
    low = size.head(name, temporal, Execution(products=torch.bfloat16, temporal=torch.bfloat16)).to(device)
    head, features = head.to(device), features.each(lambda x: x.to(device))
    # tmass draws other noise in every step.
    start = deepcopy(head.state_dict())
    found = {"float32": reference.errors(result(head, features)), "bf16": reference.errors(result(low, features))}
    if device.type == "cuda":
        head.load_state_dict(start)
        with tf32():
            found["tf32"] = reference.errors(result(head, features))
    return found, reference


def cases() -> list[tuple[str, str]]:
    """Every head with the temporal encoders that it takes."""
    behind = [(name, "seq-transf") for name, kind in HEADS.items() if not kind.OWN_BLOCKS]
    return [*((name, "none") for name in HEADS), *behind, *((name, "seq-lstm") for name in LSTM_HEADS)]


def heads(place: Place) -> Outcome:
    """The step."""
    figures: dict[str, dict[str, Any]] = {}
    holds = {}
    zero, wide = [], []
    for name, temporal in cases():
        label = name if temporal == "none" else f"{name} behind {temporal}"
        found, reference = compare(name, temporal, sizes(place.small), place.device)
        exact = found["float32"]
        holds[f"{label}: float32 is within its bound"] = most([exact["scores by bound"], exact["gradient by bound"]]) <= 1
        zero += [f"{label}: {parameter}" for parameter in reference.rounding_only]
        wide += [f"{label}: {parameter}" for parameter in reference.wide]
        figures[label] = {
            f"{precision}, {what}": value for precision, errors in found.items() for what, value in _stated(precision, errors)
        }
    remark = "Errors against float64 on the CPU, relative to the largest score and to the largest entry of the gradient."
    named = {"gradients that are rounding alone": zero or "none", "gradients with a bound wider than they are": wide or "none"}
    return Outcome({"errors": figures, **named}, holds, [remark])


def _stated(precision: str, errors: dict[str, float]) -> list[tuple[str, float]]:
    return [(what, value) for what, value in errors.items() if precision == "float32" or "bound" not in what]
