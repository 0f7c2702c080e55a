"""The base class of all heads: configuration, temporal encoder, and scoring block by block.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S scores of a pair.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.base.errors import UserError
from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch, VideoBatch
from train_head.heads.decorrelation import ALPHAS, Alphas, best_matches, channel_loss, token_correlation
from train_head.kernels.blocks import VIDEOS_PER_BLOCK, Encoded, TextBlock, VideoBlock, constant_shapes, text_blocks, video_blocks
from train_head.kernels.plain import inverse_norm
from train_head.kernels.threads import parallel
from train_head.temperatures import KAPPA, TAU
from train_head.temporal import PositionedBlocks, TemporalEncoder, check_rows, make_encoder

Padding = Literal["masked", "authors"]
"""How a head treats padded words and frames."""
AuthorsPadding = Literal["unknown", "masked", "counts"]
"""How the code of a head's authors treats padding, as far as it is known."""
MAX_LOGIT_SCALE = 100.0
MOST_FRAME_VECTORS = 8
"""A head that reads more vectors of a frame than this has a quarter as many videos in a block."""
SCORES = ("video-sentence", "video-word", "sentence-frame", "word-frame")
"""The four scores of GLCCL, in the order of the first dimension of its scores."""
ALL_SCORES = "all"


@dataclass(frozen=True)
class HeadConfig:
    """All that is needed, with the head's name, to rebuild a head before its weights are loaded."""

    dimension: int
    max_words: int
    """Size of the matrices over words: the longest text, start and end tokens included. Heads without such matrices take any length."""
    logit_scale: float
    """Initial factor of the scores: CLIP's."""
    max_frames: int = 0
    """Size of the matrices over frames: the most frames of a video. Heads without such matrices take any number."""
    scores: str = ALL_SCORES
    """The scores that the head computes: their names joined by +, or `all`."""
    temporal: str = "none"
    """The temporal encoder, by its --temporal name; none for none."""
    temporal_positions: int = 0
    """Positions of the Transformer blocks, those of the encoder or of the head: see `Head.started_blocks`."""
    temporal_heads: int = 1
    """Attention heads of the blocks."""
    temporal_activation: str = "QuickGELU"
    """Activation of the blocks: QuickGELU or GELU."""
    tau: float = TAU
    """Temperature of the guidance, for heads with `tau` in TEMPERATURES."""
    kappa: float = KAPPA
    """Temperature of the interaction, for heads with `kappa` in TEMPERATURES."""
    padding: Padding = "masked"
    """masked: padding has no effect. authors: as in the code of the head's authors, where texts are padded to `max_words` words and videos
    to `padded_frames` frames; for heads whose AUTHORS_PADDING is known."""
    patches: int = 0
    """Patch tokens of every frame, for heads that read them."""
    padded_frames: int = 0
    """With `padding="authors"`: frames of a padded video. `train_head.run.check_frames` refuses longer videos; a batch with more positions
    keeps its own number."""

    def at_temperatures(self, given: Mapping[str, float]) -> "HeadConfig":
        """This configuration with other temperatures; those that are not given stay."""
        return replace(self, tau=given.get("tau", self.tau), kappa=given.get("kappa", self.kappa))


@dataclass(frozen=True)
class Execution:
    """How a head computes on this machine. Given when the head is made, and not saved with a run."""

    products: torch.dtype | None = None
    """Precision of the text-frame products, such as bfloat16; None for the features' own. The compiled loops ignore it when they take
    gradients."""
    temporal: torch.dtype | None = None
    """Precision of the products inside the temporal encoder; None for the features' own."""
    few_texts: bool = False
    """Texts come one or a few at a time, as in search: the compiled loops then use small tiles."""

    def product(self, x_ND: Tensor, y_MD: Tensor) -> Tensor:
        """x @ y.T [N, M], multiplied in the precision `products` and returned in x's."""
        precision = self.products or x_ND.dtype
        return (x_ND.to(precision) @ y_MD.T.to(precision)).to(x_ND.dtype)


DEFAULT_EXECUTION = Execution()
"""Full precision, many texts at a time."""


class FrameWeights(NamedTuple):
    """The weights that texts give to the frames of videos. None if no score of the head uses them.

    F is the number of frames of the batch. A video's weights sum to 1, or to less with the authors' padding: padded frames have the rest.
    """

    sentence_ABF: Tensor | None = None
    """The method's alpha."""
    word_ABLF: Tensor | None = None
    """The method's beta, 0 for padded words."""


class Head(nn.Module, ABC):
    """Scores texts against videos.

    >>> scores_SAB = head.scores(head.encode_texts(texts), head.encode_videos(videos))

    Return values of `encode_texts` and `encode_videos` are private to the head. A subclass defines how to encode a block of texts and a
    block of videos, and how to score one against the other.

    On a CPU without gradients, the bits of a score depend neither on the other texts and videos nor on their order or the number of
    threads.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("score",)
    """The names of its scores, in order."""
    TRAINED_ONLY: ClassVar[bool] = False
    """Whether it has randomly initialised layers, so that its scores mean nothing before training."""
    FRAME_MATRICES: ClassVar[bool] = False
    """Whether it has matrices over frames, of size `max_frames`."""
    WORD_MATRICES: ClassVar[bool] = False
    """Whether it has matrices over words, of size `max_words`."""
    TEMPERATURES: ClassVar[tuple[str, ...]] = ()
    """The temperatures that it reads from its configuration, of `tau` and `kappa`."""
    OWN_BLOCKS: ClassVar[bool] = False
    """Whether it has Transformer blocks itself, and so no temporal encoder in front."""
    STARTS_FROM_CLIP: ClassVar[bool] = True
    """Whether blocks of its own are as CLIP's, so that --temporal-init starts them (`started_blocks`)."""
    READS_BEFORE: ClassVar[bool] = False
    """Whether it also reads the frames before the temporal encoder."""
    READS_PATCHES: ClassVar[bool] = False
    """Whether it reads the patch tokens of frames, which extract --tokens caches."""
    LEAST_PATCHES: ClassVar[int] = 1
    """The fewest patch tokens of a frame that it can work with, if it reads them."""
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "unknown"
    """How the head's authors treat padding: they mask it as we do, so that `padding="authors"` changes nothing, or let it count."""
    READS_WORDS: ClassVar[bool] = True
    """Whether it reads the words of a text. If not, it reads the sentence alone."""
    WORDS_PER_STRIP: ClassVar[int] = 1520
    """Words and sentences to score at once. Large enough that most blocks of texts are full. 1 for a head that does much work for every
    pair, see `texts_alone`."""

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__()
        assert config.padding == "masked" or self.AUTHORS_PADDING != "unknown"
        check_temporal(name, type(self), config.temporal)
        if self.FRAME_MATRICES:
            check_rows(config.max_frames, f"the matrices of head {name}")
        if self.AUTHORS_PADDING == "counts":
            check_rows(config.padded_frames, "--padding authors, which pads all videos alike,")
        self.name, self.config, self.execution = name, config, execution
        self.logit_scale = nn.Parameter(torch.tensor(log(min(config.logit_scale, MAX_LOGIT_SCALE))))
        """Logarithm of the factor of the scores, as in CLIP."""
        self.temporal: TemporalEncoder | None = None
        if config.temporal != "none":
            self.temporal = make_encoder(
                config.temporal, config.dimension, config.temporal_positions, config.temporal_heads, config.temporal_activation
            )

    @property
    def most_words(self) -> int | None:
        """Length of the longest text it takes, start and end tokens included; None for any."""
        return self.config.max_words if self.WORD_MATRICES or (self.READS_WORDS and self.with_padding) else None

    @property
    def texts_alone(self) -> bool:
        """Whether texts are scored one by one, and a block on a CPU holds one: no text fills a block, and two-stage retrieval scores hardly
        more pairs than it needs. For heads whose work is in the pairs, so that texts share none."""
        return self.WORDS_PER_STRIP == 1

    @property
    def with_padding(self) -> bool:
        """Whether padded words and frames take part, as they do in the authors' code."""
        return self.config.padding == "authors" and self.AUTHORS_PADDING == "counts"

    def counted_words(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions that count of texts with these numbers of words."""
        return np.full_like(words, self.config.max_words) if self.with_padding else words

    def counted_frames(self, frames: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions that count of videos with these numbers of frames."""
        return np.maximum(frames, self.config.padded_frames) if self.with_padding else frames

    def flops(self, words: NDArray[np.int64], frames: NDArray[np.int64]) -> NDArray[np.float64]:
        """`pair_flops` of texts with these numbers of words and videos with these numbers of frames, and of the padding that counts."""
        return self.pair_flops(self.counted_words(words).astype(np.float64), self.counted_frames(frames).astype(np.float64))

    def temperatures(self) -> dict[str, float]:
        """The temperatures that it computes with, by name."""
        return {name: getattr(self.config, name) for name in self.TEMPERATURES}

    def scale(self) -> Tensor:
        """The factor of the scores."""
        return self.logit_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Limit the factor to 100. Called after each step: a clamp inside `scale` would cut off the gradient for good."""
        self.logit_scale.clamp_(max=log(MAX_LOGIT_SCALE))

    def temporal_frames(self, batch: VideoBatch) -> Tensor:
        """The method's v [B, F, D]: the frames after the temporal encoder, unchanged if the head has none."""
        if self.temporal is None:
            return batch.frame_BFD
        return self.in_blocks(EncodedFrames(batch.frame_BFD, batch.mask_BF), self._run_temporal)

    def in_blocks(self, batch: EncodedFrames, encode: Callable[[EncodedFrames], Tensor]) -> Tensor:
        """What `encode` makes of a batch's frames [B, F, D], in blocks of constant shape where results must not depend on the batch."""
        if not constant_shapes(batch.frame_BFD):
            return encode(batch)
        encoded_BFD = torch.zeros_like(batch.frame_BFD)

        def work(block: VideoBlock, _: None) -> None:
            frame_BFD = encode(block.frames)[: len(block.rows), : encoded_BFD.shape[1]]
            encoded_BFD[block.rows, : frame_BFD.shape[1]] = frame_BFD

        parallel(torch.get_num_threads(), work, self._video_blocks(batch), lambda: None)
        return encoded_BFD

    def _run_temporal(self, batch: VideoBatch) -> Tensor:
        assert self.temporal is not None
        lower = self.execution.temporal
        with torch.autocast(batch.frame_BFD.device.type, lower, enabled=lower is not None):
            in_time_BFD: Tensor = self.temporal(batch.frame_BFD, batch.mask_BF)
        return in_time_BFD.to(batch.frame_BFD.dtype)

    @classmethod
    def block_positions(cls, frames: int) -> int:
        """With OWN_BLOCKS: the positions of the blocks for videos of this many frames. Here one for each, and one for the sentence."""
        return frames + 1

    @property
    def started_blocks(self) -> PositionedBlocks | None:
        """The Transformer blocks that --temporal-init starts; None if the head has none."""
        return self.temporal if isinstance(self.temporal, PositionedBlocks) else None

    def frame_limits(self) -> dict[str, int]:
        """The most frames of a video that the head takes, by what limits them, in words."""
        limits: dict[str, int] = {}
        if self.with_padding and self.config.padded_frames:
            limits[f"--padding authors pads every video to {self.config.padded_frames} frames"] = self.config.padded_frames
        if self.FRAME_MATRICES:
            limits[f"the matrices of head {self.name} take {self.config.max_frames}"] = self.config.max_frames
        most = None if self.temporal is None else self.temporal.most_frames
        return limits if most is None else limits | {f"the temporal encoder has {most} positions": most}

    def _most_frames(self) -> int:
        """Most frames that the head's parameters support. Padding must not exceed it."""
        return min(self.frame_limits().values(), default=sys.maxsize)

    def apply_temporal(self, batch: VideoBatch) -> EncodedFrames:
        """Apply the temporal encoder: the first half of `encode_videos`."""
        batch = batch.padded_to(self.config.padded_frames) if self.with_padding else batch
        patch_BFMD, before_BFD = batch.patch_BFMD if self.READS_PATCHES else None, batch.frame_BFD if self.READS_BEFORE else None
        return EncodedFrames(self.temporal_frames(batch), batch.mask_BF, patch_BFMD, before_BFD)

    def encoded_bytes(self, frames: int) -> int:
        """Bytes of an encoded video of this many frames, as float32: its frames, their patch tokens, and their Gram matrix."""
        vectors = 1 + self.READS_BEFORE + self.config.patches * self.READS_PATCHES
        return 4 * frames * (vectors * self.config.dimension + frames)

    @property
    def frame_vectors(self) -> int:
        """The vectors that it reads of a frame: its feature, and its patch tokens if the head reads them."""
        return 1 + self.config.patches * self.READS_PATCHES

    @property
    def videos_at_once(self) -> int:
        """Videos of a block. With frames in multiples of FRAMES_STEP, a quarter still fills products to multiples of GRAIN."""
        return VIDEOS_PER_BLOCK if self.frame_vectors <= MOST_FRAME_VECTORS else VIDEOS_PER_BLOCK // 4

    def encode_videos(self, batch: VideoBatch) -> Any:
        """Compute the part of the scores that depends on the videos alone.

        Training calls the two halves itself: in several processes it gathers the videos of all ranks between them, so that each video
        passes through the temporal encoder only once.
        """
        return self.encode_frames(self.apply_temporal(batch))

    def encode_frames(self, batch: EncodedFrames) -> Any:
        """Encode frames that have passed the temporal encoder: the second half of `encode_videos`."""
        return self._each(self.encode_video_block, self._video_blocks(batch))

    def _video_blocks(self, batch: EncodedFrames) -> list[VideoBlock]:
        return video_blocks(batch, self._most_frames(), whole=self.with_padding, at_once=self.videos_at_once)

    def encode_texts(self, batch: TextBatch) -> Any:
        """Compute the part of the scores that depends on the texts alone."""
        batch = self.positions(batch)
        alone = self.execution.few_texts or self.texts_alone
        blocks = text_blocks(batch, words=self.READS_WORDS, alone=alone, most=self.config.max_words)
        return self._each(self.encode_text_block, blocks)

    def positions(self, batch: TextBatch) -> TextBatch:
        """The texts with the rows that this head reads: their words, or with the authors' padding all `max_words` positions."""
        padded = self.with_padding and self.READS_WORDS
        return batch.padded_to(self.config.max_words) if padded else batch.without_padding()

    def _each(self, encode: Callable[[Any], Any], blocks: Sequence[TextBlock | VideoBlock]) -> list[Encoded]:
        """Encode every block, on all threads if there are no gradients."""
        encoded: list[Encoded | None] = [None] * len(blocks)

        def work(i: int, _: None) -> None:
            encoded[i] = Encoded(blocks[i].rows, encode(blocks[i]))

        self._run(work, range(len(blocks)))
        return [block for block in encoded if block is not None]

    def scores(self, texts: Any, videos: Any) -> Tensor:
        """The scores [S, A, B] of encoded texts and videos, times the logit scale. Their mean over S is the retrieval score."""
        scores_SAB = self._assembled(self.score_block, texts, videos)
        # A head of one's own may compute in another type. Ranks and saved matrices are those of one type.
        return scores_SAB.to(self.logit_scale.dtype) * self.scale()

    def _assembled(self, compute: Callable[[Any, Any], Tensor], texts: Any, videos: Any) -> Tensor:
        """What `compute` gives for every encoded block of texts with every one of videos [S, A, B], in the order of the batch."""
        parts: dict[tuple[int, int], Tensor] = {}

        def work(job: tuple[int, int], _: None) -> None:
            some, others = texts[job[0]], videos[job[1]]
            parts[job] = compute(some.block, others.block)[:, : len(some.rows), : len(others.rows)]

        self._run(work, [(i, j) for i in range(len(texts)) for j in range(len(videos))])
        rows_SAB = [torch.cat([parts[i, j] for j in range(len(videos))], dim=2) for i in range(len(texts))]
        whole_SAB = torch.cat(rows_SAB, dim=1)
        order_A, order_B = (
            to_device(torch.cat([encoded.rows for encoded in side]).argsort(), whole_SAB.device) for side in (texts, videos)
        )
        return whole_SAB[:, order_A][:, :, order_B]

    def _run(self, work: Callable[[Any, None], None], jobs: Sequence[Any]) -> None:
        if constant_shapes(self.logit_scale):
            parallel(torch.get_num_threads(), work, jobs, lambda: None)
        else:
            for job in jobs:
                work(job, None)

    def frame_weights(self, texts: TextBatch, videos: VideoBatch) -> FrameWeights:
        """The text-guided frame weights behind the scores. Empty for a head without text guidance."""
        return FrameWeights()

    def extra_losses(self, texts: TextBatch, videos: EncodedFrames, left_out_AB: Tensor | None = None) -> dict[str, Tensor]:
        """The losses that the head's authors add to the contrastive one, weighted, by the names in `extra_loss_names`: scalars.

        Text i belongs to video i, and there are no others. Videos have passed the temporal encoder. `left_out_AB` is True at pairs that do
        not count as negatives, such as another caption of the same video.
        """
        return {}

    @property
    def extra_loss_names(self) -> tuple[str, ...]:
        """The names of `extra_losses`, for the log."""
        return ()

    def decorrelation(self, texts: TextBatch, videos: EncodedFrames, alphas: Alphas = ALPHAS) -> Tensor:
        """DRL's channel decorrelation loss (`train_head.heads.decorrelation`), a scalar without a weight: DRL's is 0.001.

        Text i belongs to video i, and there are at least two pairs. Videos have passed the temporal encoder. For heads that read words: of
        their words and frames, all counting the same.
        """
        matches = best_matches(self.positions(texts), videos, padding=self.with_padding)
        return channel_loss(token_correlation(matches), alphas)

    @abstractmethod
    def encode_text_block(self, block: TextBlock) -> Any:
        """Encode a block of texts."""

    @abstractmethod
    def encode_video_block(self, block: VideoBlock) -> Any:
        """Encode a block of videos whose frames have passed the temporal encoder."""

    @abstractmethod
    def score_block(self, texts: Any, videos: Any) -> Tensor:
        """The scores [S, A, B] of an encoded block of texts and an encoded block of videos, before the logit scale."""

    @abstractmethod
    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        """Floating-point operations of `scores` per pair, for texts with these numbers of words and videos with these numbers of frames.

        Counts matrix and vector products by the head's formula; a multiply-add counts as two. Leaves out softmaxes, norms, masks, and the
        work done once per text or per video.
        """

    @classmethod
    def offered(cls, name: str) -> tuple[str, ...]:
        """The scores offered by the head with this --head name, in order."""
        return cls.NAMES

    def score_names(self) -> list[str]:
        """The names of the scores that the head computes, in order."""
        offered = self.offered(self.name)
        return [offered[i] for i in chosen_scores(self.config.scores, offered)]


def check_temporal(name: str, kind: type[Head], temporal: str) -> None:
    """Raise UserError if a head of this name and class cannot stand behind this temporal encoder."""
    if kind.OWN_BLOCKS and temporal not in ("auto", "none"):
        raise UserError(f"--temporal {temporal}: head {name} reads the frames through blocks of its own: leave the option out")


def unit(x: Tensor) -> Tensor:
    """Divide vectors [..., D] by their norms. A zero vector stays zero and gets no gradient."""
    return x * inverse_norm(x.square().sum(dim=-1, keepdim=True))


def unit_mean(frame_BFD: Tensor, mask_BF: Tensor) -> Tensor:
    """CLIP4Clip's video features [B, D]: normalise the real frames, average them, and normalise the mean."""
    unit_BFD = unit(frame_BFD.masked_fill(~mask_BF[..., None], 0.0))
    # The sum has the same direction as the mean.
    return unit(unit_BFD.sum(dim=1))


def picked(scores_SAB: Tensor, chosen: Sequence[int]) -> Tensor:
    """The scores [.., A, B] with these indices. An index that is a list would be copied to a GPU, which the host waits for."""
    return scores_SAB if list(chosen) == list(range(len(scores_SAB))) else torch.stack([scores_SAB[i] for i in chosen])


def aggregate_flops(length: NDArray[np.float64]) -> NDArray[np.float64]:
    """Floating-point operations of agg(x; P) over `length` similarities: the product of weights with P, then the dot product with x.

    `train_head.kernels.plain.aggregate` computes agg.
    """
    return 2 * length**2 + 2 * length


def chosen_scores(names: str, offered: tuple[str, ...]) -> list[int]:
    """The indices in `offered` of the scores in `names`. Raises UserError for an unknown or repeated name.

    >>> chosen_scores("word-frame+video-sentence", SCORES)
    [0, 3]
    """
    if names == ALL_SCORES:
        return list(range(len(offered)))
    given = names.split("+")
    if not set(given) <= set(offered) or len(set(given)) < len(given):
        raise UserError(f"--scores {names}: use {ALL_SCORES}, or some of {', '.join(offered)}, joined by + and each once")
    return [i for i, name in enumerate(offered) if name in given]
