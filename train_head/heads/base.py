"""What all heads share: their configuration, what they offer, and the temporal encoder.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S scores of a pair.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.base.errors import UserError
from train_head.batches import EncodedFrames, TextBatch, VideoBatch
from train_head.kernels.blocks import Encoded, TextBlock, VideoBlock, constant_shapes, text_blocks, video_blocks
from train_head.kernels.plain import inverse_norm
from train_head.kernels.threads import parallel
from train_head.temporal import TemporalEncoder

MAX_LOGIT_SCALE = 100.0
SCORES = ("video-sentence", "video-word", "sentence-frame", "word-frame")
"""The four scores of GLCCL, in their order."""
ALL_SCORES = "all"


@dataclass(frozen=True)
class HeadConfig:
    """All that a head needs, beside its name, to be built again before its weights are loaded."""

    dimension: int
    max_words: int
    """Longest text that matrices learned for words take, start and end tokens included; heads without such matrices take any."""
    logit_scale: float
    """Where the factor of the scores starts: CLIP's own."""
    max_frames: int = 0
    """Most frames of a video that matrices learned for frames take; heads without such matrices take any number."""
    scores: str = ALL_SCORES
    """Which of a head's scores are made: their names with a + between them, or all."""
    temporal: str = "none"
    temporal_positions: int = 0
    temporal_heads: int = 1
    temporal_activation: str = "QuickGELU"


@dataclass(frozen=True)
class Execution:
    """How a head computes on this machine. It is given when the head is made, and is no part of a saved run."""

    products: torch.dtype | None = None
    """Precision of the products of texts with frames, such as bfloat16; None for that of the features. The compiled loops use it without
    gradients only."""
    temporal: torch.dtype | None = None
    """Precision of the products inside the temporal encoder; None for that of the features."""
    few_texts: bool = False
    """Texts come one or a few at a time, as in a search: the compiled loops then work on small tiles."""

    def product(self, x_ND: Tensor, y_MD: Tensor) -> Tensor:
        """x times y transposed [N, M], multiplied in the precision of `products` and returned in that of x."""
        precision = self.products or x_ND.dtype
        return (x_ND.to(precision) @ y_MD.T.to(precision)).to(x_ND.dtype)


DEFAULT_EXECUTION = Execution()
"""Full precision, and texts by the batch."""


class FrameWeights(NamedTuple):
    """How texts weigh the frames of videos; None where no score of a head reads such weights."""

    sentence_ABF: Tensor | None = None
    """alpha of the method."""
    word_ABLF: Tensor | None = None
    """beta of the method, 0 behind the last word of a text."""


class Head(nn.Module, ABC):
    """Scores texts against videos: `encode_texts`, `encode_videos`, `scores`.

    What the first two return is private to the head and goes to `scores` alone. Without gradients on a CPU, a score has the same bits
    whatever is scored beside it, in whatever order, and on any number of threads. A head defines how it encodes a block of texts and a
    block of videos, and how it scores the one against the other.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("score",)
    """Its scores, in their order."""
    TRAINED_ONLY: ClassVar[bool] = False
    """Whether it has layers that start at random: scores before training then mean nothing."""
    FRAME_MATRICES: ClassVar[bool] = False
    """Whether it has matrices that take no more than `max_frames` frames."""
    WORD_MATRICES: ClassVar[bool] = False
    """Whether it has matrices that take no more than `max_words` words."""
    READS_BEFORE: ClassVar[bool] = False
    """Whether it also reads the frames before the temporal encoder."""
    READS_WORDS: ClassVar[bool] = True
    """Whether it reads the words of a text, not the sentence alone."""
    WORDS_A_STRIP: ClassVar[int] = 1520
    """Words and sentences of texts that are scored at once: most blocks of texts are then full."""

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__()
        self.name, self.config, self.execution = name, config, execution
        self.logit_scale = nn.Parameter(torch.tensor(log(min(config.logit_scale, MAX_LOGIT_SCALE))))
        """Logarithm of the factor, as in CLIP."""
        self.temporal: TemporalEncoder | None = None
        if config.temporal != "none":
            self.temporal = TemporalEncoder(config.dimension, config.temporal_positions, config.temporal_heads, config.temporal_activation)

    @property
    def most_words(self) -> int | None:
        """The longest text whose words it takes, start and end tokens included; None for any."""
        return self.config.max_words if self.WORD_MATRICES else None

    def scale(self) -> Tensor:
        """The factor of the scores."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep the factor at 100 or less. After a step, not in `scale`: there a clamp would stop the gradient for good."""
        self.logit_scale.clamp_(max=log(MAX_LOGIT_SCALE))

    def frames_in_time(self, batch: VideoBatch) -> Tensor:
        """v of the method [B, F, D]: the frames after the temporal encoder, or as they are without one."""
        if self.temporal is None:
            return batch.frame_BFD
        if not constant_shapes(batch.frame_BFD):
            return self._in_time(batch)
        in_time_BFD = torch.zeros_like(batch.frame_BFD)

        def work(block: VideoBlock, _: None) -> None:
            frame_BFD = self._in_time(block.frames)[: len(block.rows), : in_time_BFD.shape[1]]
            in_time_BFD[block.rows, : frame_BFD.shape[1]] = frame_BFD

        blocks = video_blocks(EncodedFrames(batch.frame_BFD, batch.mask_BF), self._most_frames())
        parallel(torch.get_num_threads(), work, blocks, lambda: None)
        return in_time_BFD

    def _in_time(self, batch: VideoBatch) -> Tensor:
        assert self.temporal is not None
        lower = self.execution.temporal
        with torch.autocast(batch.frame_BFD.device.type, lower, enabled=lower is not None):
            in_time_BFD: Tensor = self.temporal(batch.frame_BFD, batch.mask_BF)
        return in_time_BFD.to(batch.frame_BFD.dtype)

    def _most_frames(self) -> int:
        """Frames that the head's parameters take: padding must not go beyond."""
        limits = [self.config.max_frames] if self.FRAME_MATRICES else []
        return min([*limits, self.config.temporal_positions] if self.temporal is not None else limits, default=sys.maxsize)

    def through_time(self, batch: VideoBatch) -> EncodedFrames:
        """What `encode_frames` takes: the first half of `encode_videos`."""
        return EncodedFrames(self.frames_in_time(batch), batch.mask_BF, batch.frame_BFD if self.READS_BEFORE else None)

    def encode_videos(self, batch: VideoBatch, exchange: Callable[[EncodedFrames], EncodedFrames] | None = None) -> Any:
        """Whatever of a video does not depend on the text.

        `exchange` replaces the frames between the two halves, after the temporal encoder: training in several processes gathers the videos
        of all of them there, so that each video goes through the temporal encoder once.
        """
        frames = self.through_time(batch)
        return self.encode_frames(frames if exchange is None else exchange(frames))

    def encode_frames(self, batch: EncodedFrames) -> Any:
        """The second half of `encode_videos`, after the temporal encoder."""
        return self._each(self.encode_video_block, video_blocks(batch, self._most_frames()))

    def encode_texts(self, batch: TextBatch) -> Any:
        """Whatever of a text does not depend on the video."""
        blocks = text_blocks(batch, words=self.READS_WORDS, alone=self.execution.few_texts, most=self.config.max_words)
        return self._each(self.encode_text_block, blocks)

    def _each(self, encode: Callable[[Any], Any], blocks: Sequence[TextBlock | VideoBlock]) -> list[Encoded]:
        """The blocks encoded, on all threads where no gradients are taken."""
        encoded: list[Encoded | None] = [None] * len(blocks)

        def work(i: int, _: None) -> None:
            encoded[i] = Encoded(blocks[i].rows, encode(blocks[i]))

        self._run(work, range(len(blocks)))
        return [block for block in encoded if block is not None]

    def scores(self, texts: Any, videos: Any) -> Tensor:
        """Scores [S, A, B] of encoded texts and videos, times the logit scale; the retrieval score is their mean over S."""
        parts: dict[tuple[int, int], Tensor] = {}

        def work(job: tuple[int, int], _: None) -> None:
            some, others = texts[job[0]], videos[job[1]]
            parts[job] = self.score_block(some.block, others.block)[:, : len(some.rows), : len(others.rows)]

        self._run(work, [(i, j) for i in range(len(texts)) for j in range(len(videos))])
        rows_SAB = [torch.cat([parts[i, j] for j in range(len(videos))], dim=2) for i in range(len(texts))]
        order_A, order_B = (torch.cat([encoded.rows for encoded in side]).argsort() for side in (texts, videos))
        scores_SAB = torch.cat(rows_SAB, dim=1)
        device = scores_SAB.device
        return scores_SAB[:, order_A.to(device)][:, :, order_B.to(device)] * self.scale()

    def _run(self, work: Callable[[Any, None], None], jobs: Sequence[Any]) -> None:
        if constant_shapes(self.logit_scale):
            parallel(torch.get_num_threads(), work, jobs, lambda: None)
        else:
            for job in jobs:
                work(job, None)

    def frame_weights(self, texts: TextBatch, videos: VideoBatch) -> FrameWeights:
        """The text-guided weights behind the scores of these texts and videos; a head without text guidance has none."""
        return FrameWeights()

    @abstractmethod
    def encode_text_block(self, block: TextBlock) -> Any:
        """Whatever of the texts of a block does not depend on the video."""

    @abstractmethod
    def encode_video_block(self, block: VideoBlock) -> Any:
        """Whatever of the videos of a block does not depend on the text; their frames went through the temporal encoder."""

    @abstractmethod
    def score_block(self, texts: Any, videos: Any) -> Tensor:
        """Scores [S, A, B] of an encoded block of texts and one of videos, before the logit scale."""

    @abstractmethod
    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Floating-point operations that `scores` takes for a text of so many words and a video of so many frames.

        By the head's formula: those of products of matrices and vectors, a multiplication with its addition as two. Softmax, norms and
        masks are left out, and so is what is done once for a text or a video.
        """

    @classmethod
    def offered(cls, name: str) -> tuple[str, ...]:
        """The scores that it offers under this name of --head, in their order."""
        return cls.NAMES

    def score_names(self) -> list[str]:
        """The names of the scores that it makes, in their order."""
        offered = self.offered(self.name)
        return [offered[i] for i in chosen_scores(self.config.scores, offered)]


def unit(x: Tensor) -> Tensor:
    """Vectors [..., D] divided by their norms; a zero vector stays zero and gets no gradient."""
    return x * inverse_norm(x.square().sum(dim=-1, keepdim=True))


def unit_mean(frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
    """CLIP4Clip's feature of a video [B, D]: the mean of its real frames, each of norm 1, divided by its own norm."""
    unit_BFD = unit(frame_BFD.masked_fill(~mask_BF[..., None], 0.0))
    # The sum has the direction of the mean.
    return unit(unit_BFD.sum(dim=1))


def aggregate_flops(length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Floating-point operations of agg(x; P) over so many similarities: weights times P, and their dot product with x.

    `train_head.kernels.plain.aggregate` computes it.
    """
    return 2 * length**2 + 2 * length


def chosen_scores(names: str, offered: tuple[str, ...]) -> list[int]:
    """Which of the scores `offered` are meant by `names`, by their places. Raises UserError for others, and for one named twice."""
    if names == ALL_SCORES:
        return list(range(len(offered)))
    given = names.split("+")
    if not set(given) <= set(offered) or len(set(given)) < len(given):
        raise UserError(f"--scores {names}: {ALL_SCORES}, or some of {', '.join(offered)} with a + between them, each once")
    return [i for i, name in enumerate(offered) if name in given]
