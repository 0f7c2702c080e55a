"""Token-wise interactions: DRL's `dp`, `ti` and `wti`, and Video-ColBERT's `meanmaxsim`.

With c_ij the cosine of word i and frame j, n words and m frames:

    dp            cosine of the text's last word (its end token) and the mean of the normalised frames
    ti            1/2 ( sum_i max_j c_ij / n + sum_j max_i c_ij / m )
    wti           1/2 ( sum_i p_i max_j c_ij + sum_j q_j max_i c_ij )
    meanmaxsim    1/2 ( sum_i max_j b_ij / n + sum_i max_j c_ij / n )      b_ij: c_ij before the temporal encoder

`dp`, `ti` and `wti` follow DRL (Wang et al. 2022, "Disentangled Representation Learning for Text-Video Retrieval", arXiv 2203.07111). p is
a softmax over words of the output of a small network on raw features, q the same over frames with a second network. Each network has two
layers of width D, initialised at random. `dp` and `ti` have no layers.

Maxima exclude padding. In DRL's code the cosines of padding are 0 and take part in every maximum, so a word gets 0 if its cosines with all
real frames are negative and its video is padded. With `padding="authors"` `ti` and `wti` do the same. Padded words and frames weigh
nothing in the sums either way.

`meanmaxsim` is the similarity of Video-ColBERT (Reddy et al. 2025, arXiv 2503.19009): the first half is the paper's MMS_F, on the features
of single frames, and the second its MMS_V, on frames that have seen each other. The paper ranks by their sum. Their mean ranks the same and
has the range of a cosine, so CLIP's logit scale and its limit of 100 mean what they do for the other heads. Without a temporal encoder both
halves are equal, and one is computed. Start and end tokens count as words, as in `ti`. Left out are

- the dual sigmoid loss, which trains each half by itself: this head trains with the contrastive loss on the mean,
- query expansion by padding tokens: a cache has features of real tokens only,
- visual expansion, learned tokens that join the frames in the temporal encoder.

The head has no padding as its authors treat it: that padding is the query expansion.

Shape suffixes: A texts, B videos, L words, F frames, R words of all texts, C frames of all videos, D joint dimension, N texts or videos,
T their words or frames, X any dimensions.
"""

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.compute.staging import to_device
from train_head.batches import EncodedFrames, TextBatch
from train_head.heads.base import DEFAULT_EXECUTION, AuthorsPadding, Execution, Head, HeadConfig, unit, unit_mean
from train_head.heads.decorrelation import ALPHAS, Alphas, best_matches, channel_loss, token_correlation, vector_correlation, word_rows
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.masking import FAR_BELOW


class Tokens(NamedTuple):
    """Normalised words or frames [N, T, D], their weights [N, T] (0 at padding), and their mask [N, T]."""

    unit_NTD: Tensor
    weight_NT: Tensor
    mask_NT: Tensor


class DpHead(Head):
    """Cosine similarity of a text's last word and the mean of the normalised frames."""

    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "masked"

    def positions(self, batch: TextBatch) -> TextBatch:
        """The last word of each text. Padding of texts has no part in this head, nor has that of videos in its authors' code."""
        real_A = batch.length_A if batch.real_A is None else batch.real_A
        last_A = batch.length_A.cumsum(dim=0) - batch.length_A + real_A - 1
        return TextBatch(batch.sentence_AD, batch.word_RD[to_device(last_A, batch.word_RD.device)], torch.ones_like(batch.length_A))

    def encode_text_block(self, block: TextBlock) -> Tensor:
        return unit(block.word_ALD[:, 0])

    def encode_video_block(self, block: VideoBlock) -> Tensor:
        return unit_mean(block.frames.frame_BFD, block.frames.mask_BF)

    def score_block(self, texts: Tensor, videos: Tensor) -> Tensor:
        return self.execution.product(texts, videos)[None]

    def decorrelation(self, texts: TextBatch, videos: EncodedFrames, alphas: Alphas = ALPHAS) -> Tensor:
        text_ND, video_ND = unit(self.positions(texts).word_RD), unit_mean(videos.frame_BFD, videos.mask_BF)
        return channel_loss(vector_correlation(text_ND, video_ND), alphas)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.full(np.broadcast_shapes(words.shape, frames.shape), 2.0 * self.config.dimension)


class _TokenHead(Head):
    """Matches every word to its best frame and every frame to its best word. Subclasses weigh them."""

    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "counts"

    @abstractmethod
    def word_logits(self, word_XD: Tensor) -> Tensor:
        """The logarithms of the weights of words [..., D], up to a constant for each text."""

    @abstractmethod
    def frame_logits(self, frame_XD: Tensor) -> Tensor:
        """The logarithms of the weights of frames [..., D], up to a constant for each video."""

    def encode_text_block(self, block: TextBlock) -> Tokens:
        return _tokens(block.word_ALD, block.mask_AL, self.word_logits)

    def encode_video_block(self, block: VideoBlock) -> Tokens:
        return _tokens(block.frames.frame_BFD, block.frames.mask_BF, self.frame_logits)

    def score_block(self, words: Tokens, frames: Tokens) -> Tensor:
        (a, length), (b, count) = words.mask_NT.shape, frames.mask_NT.shape
        cosine_RC = self.execution.product(words.unit_NTD.flatten(0, 1), frames.unit_NTD.flatten(0, 1))
        cosine_ALBF = cosine_RC.view(a, length, b, count)
        word_cosine_ALBF = frame_cosine_ALBF = cosine_ALBF
        # The features of padding are zero, and so are its cosines: with the authors' padding they stay as they are.
        if not self.with_padding:
            word_cosine_ALBF = cosine_ALBF.masked_fill(~frames.mask_NT, FAR_BELOW)
            frame_cosine_ALBF = cosine_ALBF.masked_fill(~words.mask_NT[:, :, None, None], FAR_BELOW)
        best_frame_ALB, best_word_ABF = word_cosine_ALBF.amax(dim=3), frame_cosine_ALBF.amax(dim=1)
        return (_sum_over_words(best_frame_ALB, words.weight_NT) + (best_word_ABF * frames.weight_NT).sum(dim=2))[None] / 2

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        # All cosines, and the two weighted sums of maxima.
        return 2 * words * frames * self.config.dimension + 2 * words + 2 * frames


class TiHead(_TokenHead):
    """Token-wise interaction: all words weigh the same, and all frames."""

    def word_logits(self, word_XD: Tensor) -> Tensor:
        return _equal_logits(word_XD)

    def frame_logits(self, frame_XD: Tensor) -> Tensor:
        return _equal_logits(frame_XD)


class WtiHead(_TokenHead):
    """Weighted token-wise interaction: two small networks weigh words and frames."""

    TRAINED_ONLY: ClassVar[bool] = True

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        self.word_weight, self.frame_weight = (
            nn.Sequential(nn.Linear(config.dimension, config.dimension), nn.ReLU(), nn.Linear(config.dimension, 1)) for _ in range(2)
        )

    def word_logits(self, word_XD: Tensor) -> Tensor:
        logit_X: Tensor = self.word_weight(word_XD)[..., 0]
        return logit_X

    def frame_logits(self, frame_XD: Tensor) -> Tensor:
        logit_X: Tensor = self.frame_weight(frame_XD)[..., 0]
        return logit_X

    def decorrelation(self, texts: TextBatch, videos: EncodedFrames, alphas: Alphas = ALPHAS) -> Tensor:
        """As in `Head`, but each word and frame counts with its weight, and sums are divided by the number of pairs."""
        texts = self.positions(texts)
        rows = word_rows(texts)
        word_weight_NL = _softmax(self.word_logits(texts.word_RD)[rows.row_NL], rows.real_NL)
        frame_weight_NF = _softmax(self.frame_logits(videos.frame_BFD), videos.mask_BF)
        weights = [weight_NT[real_NT] for weight_NT, real_NT in ((word_weight_NL, rows.real_NL), (frame_weight_NF, videos.mask_BF))]
        matches = best_matches(texts, videos, padding=self.with_padding)
        return channel_loss(token_correlation(matches, weights[0] / len(rows.row_NL), weights[1] / len(rows.row_NL)), alphas)


class MeanMaxSimHead(Head):
    """Mean over the words of the best cosine among the frames, before and after the temporal encoder."""

    READS_BEFORE: ClassVar[bool] = True

    def encode_text_block(self, block: TextBlock) -> Tokens:
        return _tokens(block.word_ALD, block.mask_AL, _equal_logits)

    def encode_video_block(self, block: VideoBlock) -> tuple[list[Tensor], Tensor]:
        """The normalised frames [B, F, D] before and after the temporal encoder, once if there is none, and their mask [B, F]."""
        frames = block.frames
        both = [frames.frame_BFD] if self.temporal is None else [frames.before_BFD, frames.frame_BFD]
        return [unit(side_BFD.masked_fill(~frames.mask_BF[..., None], 0.0)) for side_BFD in both if side_BFD is not None], frames.mask_BF

    def score_block(self, words: Tokens, videos: tuple[list[Tensor], Tensor]) -> Tensor:
        sides, mask_BF = videos
        scores = []
        for unit_BFD in sides:
            cosine_RC = self.execution.product(words.unit_NTD.flatten(0, 1), unit_BFD.flatten(0, 1))
            cosine_ALBF = cosine_RC.view(*words.mask_NT.shape, *mask_BF.shape)
            scores.append(_sum_over_words(cosine_ALBF.masked_fill(~mask_BF, FAR_BELOW).amax(dim=3), words.weight_NT))
        return torch.stack(scores).mean(dim=0, keepdim=True)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        # The cosines and the sum of maxima, of each side.
        sides = 1 if self.temporal is None else 2
        return sides * (2 * words * frames * self.config.dimension + 2 * words)


def _tokens(token_NTD: Tensor, mask_NT: Tensor, logits: Callable[[Tensor], Tensor]) -> Tokens:
    token_NTD = token_NTD.masked_fill(~mask_NT[..., None], 0.0)
    return Tokens(unit(token_NTD), _softmax(logits(token_NTD), mask_NT), mask_NT)


def _equal_logits(token_XD: Tensor) -> Tensor:
    return token_XD.new_zeros(token_XD.shape[:-1])


def _softmax(logits_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """Weights [N, T] of words or frames: a softmax over the real ones, 0 at padding."""
    return logits_NT.masked_fill(~mask_NT, FAR_BELOW).softmax(dim=-1).masked_fill(~mask_NT, 0.0)


def _sum_over_words(best_ALB: Tensor, weight_AL: Tensor) -> Tensor:
    """The weighted sums [A, B] of the words' best cosines."""
    # Words must be last in memory: otherwise torch's order of summation, and so the bits, depend on a text's place in the block.
    return (best_ALB.transpose(1, 2).contiguous() * weight_AL[:, None]).sum(dim=2)
