"""GLSCL (Zhang et al. 2024, "Text-Video Retrieval With Global-Local Semantic Consistent Learning", arXiv 2405.12710).

A coarse and a fine similarity, and two losses that keep the fine one's parts apart. With s the sentence, w_l the words and v_f the frames:

    global interaction      alpha = softmax_f( s . v_f / tau )          S_g = cos( s, sum_f alpha_f v_f )           no parameters
    local interaction       a_k = softmax_x( W_Q q_k . W_K LN(x) / sqrt(D) )       x: the words of a text, or the frames of a video
                            p_k = LN( q_k + W_O W_V sum_x a_kx LN(x) )             q_1 ... q_N learned, all weights shared by both
                            S_l = mean_k cos( p_k of the text, p_k of the video )
    retrieval score         S = (S_g + S_l) / 2
    inter-consistency       INTER * mean_k |p_k of a text - p_k of its video|^2                  p of norm 1
    intra-diversity         INTRA * mean over k != j of cos(p_k, p_j)^2                          over all texts and videos

The modules and losses are those of the paper's abstract, which fixes no more, so they carry no numbers of its equations. Nothing is
compared with its code. The rest is our reading: the guidance of the frames (GLCCL's, with its --tau), one layer of attention with one head
and layer norms, projections that start as identities, QUERIES, the mean of both similarities as the one score that ranks (training then has
no CSC loss), squared distances and squared cosines in the losses, and the weights INTER and INTRA.

The queries are the same for all inputs, so that W_K is applied to them and not to words or frames, and W_V and W_O to sums and not to
their terms.

Shape suffixes: A texts, B videos, L words, F frames, X words or frames, N texts or videos, Q queries, D joint dimension.
"""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch, VideoBatch
from train_head.heads.base import DEFAULT_EXECUTION, Execution, FrameWeights, Head, HeadConfig, unit
from train_head.kernels.blocks import Encoded, TextBlock, VideoBlock
from train_head.kernels.plain import Frames, guidance, guided_norm_inverse, prepare_videos
from train_head.masking import FAR_BELOW

QUERIES = 8
"""Learned queries."""
INTER, INTRA = 0.1, 0.1
"""Weights of the inter-consistency and the intra-diversity loss."""


class Texts(NamedTuple):
    """Raw and normalised sentences [A, D], and the words as seen by the queries [A, Q, D], normalised."""

    sentence_AD: Tensor
    unit_sentence_AD: Tensor
    concept_NQD: Tensor


class Videos(NamedTuple):
    """The frames, ready to be guided, and as seen by the queries [B, Q, D], normalised."""

    frames: Frames
    concept_NQD: Tensor


class GlsclHead(Head):
    """The mean of a text-guided cosine and the cosines of concepts that shared queries find in words and in frames."""

    TRAINED_ONLY: ClassVar[bool] = True
    TEMPERATURES: ClassVar[tuple[str, ...]] = ("tau",)

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        d = config.dimension
        self.queries = nn.Parameter(torch.randn(QUERIES, d))
        self.norm_in, self.norm_out = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key = (nn.Linear(d, d, bias=False) for _ in range(2))
        self.value, self.out = (nn.Linear(d, d) for _ in range(2))
        for layer in (self.query, self.key, self.value, self.out):
            nn.init.eye_(layer.weight)
        for layer in (self.value, self.out):
            nn.init.zeros_(layer.bias)

    @property
    def extra_loss_names(self) -> tuple[str, ...]:
        return ("inter", "intra")

    def concepts(self, x_NXD: Tensor, mask_NX: Tensor) -> Tensor:
        """p [N, Q, D] of words or frames, normalised."""
        x_NXD = self.norm_in(x_NXD.masked_fill(~mask_NX[..., None], 0.0))
        asked_QD = self.query(self.queries) @ self.key.weight * x_NXD.shape[-1] ** -0.5
        weight_NQX = (x_NXD @ asked_QD.T).masked_fill(~mask_NX[..., None], FAR_BELOW).transpose(1, 2).softmax(dim=-1)
        found_NQD = self.out(self.value(weight_NQX @ x_NXD))
        return unit(self.norm_out(self.queries + found_NQD))

    def encode_text_block(self, block: TextBlock) -> Texts:
        return Texts(block.sentence_AD, unit(block.sentence_AD), self.concepts(block.word_ALD, block.mask_AL))

    def encode_video_block(self, block: VideoBlock) -> Videos:
        batch = block.frames
        return Videos(prepare_videos(batch.frame_BFD, batch.mask_BF), self.concepts(batch.frame_BFD, batch.mask_BF))

    def score_block(self, texts: Texts, videos: Videos) -> Tensor:
        frames = videos.frames
        flat_RD, (b, f) = frames.frame_BFD.flatten(0, 1), frames.mask_BF.shape
        product_ABF = self.execution.product(texts.sentence_AD, flat_RD).view(-1, b, f)
        unit_ABF = self.execution.product(texts.unit_sentence_AD, flat_RD).view(-1, b, f)
        alpha_ABF = guidance(product_ABF, frames.mask_BF, self.config.tau)
        global_AB = (alpha_ABF * unit_ABF).sum(dim=-1) * guided_norm_inverse(alpha_ABF, frames.gram_BFF)
        local_AB = self.execution.product(texts.concept_NQD.flatten(1), videos.concept_NQD.flatten(1)) / QUERIES
        return (global_AB + local_AB)[None] / 2

    def frame_weights(self, texts: TextBatch, videos: VideoBatch) -> FrameWeights:
        frames = prepare_videos(self.temporal_frames(videos), videos.mask_BF)
        product_ABF = torch.einsum("ad,bfd->abf", texts.sentence_AD, frames.frame_BFD)
        return FrameWeights(sentence_ABF=guidance(product_ABF, frames.mask_BF, self.config.tau))

    def extra_losses(self, texts: TextBatch, videos: EncodedFrames, left_out_AB: Tensor | None = None) -> dict[str, Tensor]:
        """Inter-consistency and intra-diversity."""
        both = [_concepts(self.encode_texts(texts)), _concepts(self.encode_frames(videos))]
        inter = (both[0] - both[1]).square().sum(dim=-1).mean()
        other_P = to_device((~torch.eye(QUERIES, dtype=torch.bool)).flatten().nonzero()[:, 0], inter.device)
        intra = torch.stack([(p_NQD @ p_NQD.transpose(1, 2)).flatten(1)[:, other_P].square().mean() for p_NQD in both]).mean()
        return {"inter": INTER * inter, "intra": INTRA * intra}

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d = self.config.dimension
        # Two products of the sentence with every frame, the norm by the Gram matrix, the weighted sum; the concepts' cosines.
        return 4 * frames * d + 2 * frames**2 + 4 * frames + 2 * QUERIES * d + 0 * words


def _concepts(encoded: Any) -> Tensor:
    """The concepts [N, Q, D] of encoded texts or videos, in the batch's order."""
    blocks: list[Encoded] = encoded
    rows_N = torch.cat([block.rows for block in blocks])
    concept_NQD = torch.cat([block.block.concept_NQD[: len(block.rows)] for block in blocks])
    return concept_NQD[to_device(rows_N.argsort(), concept_NQD.device)]
