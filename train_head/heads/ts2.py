"""TS2-Net's token selection (Liu et al. 2022, "TS2-Net: Token Shift and Selection Transformer for Text-Video Retrieval", arXiv 2207.07852).

A small network chooses CHOSEN patch tokens of every frame, a Transformer reads the chosen tokens of all frames together, and a sentence
weighs the frames that come out. With t_0 the class token of a frame (its frame feature), t_1 ... t_M its patch tokens, [a, b] two vectors
one after the other, s the sentence, and x_f the frames after the Transformer:

    h_i = gelu(W_in LN(t_i))        c_i = tanh(w . gelu(W [h_i, h_0]))        chosen: the CHOSEN largest of c_1 ... c_M, by position
    z = Blocks([t_0, chosen of frame 1, t_0, chosen of frame 2, ...] + p)     x_f = t_0 + z at the place of t_0        (of frame f)
    r_f = cos(s, x_f)               a = softmax_f(SHARPNESS r_f / |r|)        score = sum_f a_f r_f

In training the chosen tokens are averages over the choices that noise makes (`train_head/kernels/perturbed.py`), which gives the selector a
gradient; otherwise there is no noise. The authors' code has the noise at inference too.

The selector and the last line equal the authors' system. The Transformer is ours, because the paper's abstract says no more than that it
is spatial and temporal: the four blocks and the residual connection of the temporal encoder `seq-transf`, started like those, with a
position for every place of the sequence. The selector starts as torch's layers do. TS2-Net's other half, the token shift, acts inside CLIP.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, K chosen ones, R frames of all videos, T places of the sequence,
D joint dimension, E half of it, X any dimensions.
"""

from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import gelu, linear
from torch.utils.checkpoint import checkpoint

from data.compute.shapes import GRAIN
from train_head.batches import EncodedFrames, TextBatch, VideoBatch
from train_head.heads.base import DEFAULT_EXECUTION, AuthorsPadding, Execution, FrameWeights, Head, HeadConfig, unit
from train_head.kernels.blocks import TextBlock, VideoBlock, constant_shapes
from train_head.kernels.noise import hash_videos, pair_keys
from train_head.kernels.perturbed import chosen_places, perturbed_choice
from train_head.kernels.plain import inverse_norm
from train_head.kernels.threads import parallel
from train_head.masking import FAR_BELOW
from train_head.temporal.transformer import PositionedBlocks

CHOSEN = 3
"""Patch tokens of a frame that are chosen."""
SHARPNESS = 4.0
"""Factor of the frames' cosines before the softmax."""


FRAMES_AT_ONCE, FRAMES_ON_A_GPU = GRAIN, 4096
"""Frames whose patch tokens are scored at once without gradients."""


class Selector(nn.Module):
    """Scores the tokens of a frame."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        half = dimension // 2
        self.norm = nn.LayerNorm(dimension)
        self.into, self.hidden, self.score = (nn.Linear(*size, bias=False) for size in ((dimension, half), (2 * half, half), (half, 1)))

    def forward(self, class_XD: Tensor, token_XMD: Tensor) -> Tensor:
        """The scores [..., M] of tokens [..., M, D] of a frame with this class token [..., D]; between -1 and 1."""
        own_XME, of_class_XE = gelu(self.into(self.norm(token_XMD))), gelu(self.into(self.norm(class_XD)))
        first, second = self.hidden.weight.chunk(2, dim=1)
        hidden_XME = gelu(linear(own_XME, first) + linear(of_class_XE, second)[..., None, :])
        return (hidden_XME * self.score.weight[0]).sum(dim=-1).tanh()


class Frames(NamedTuple):
    """Normalised frames after the Transformer [B, F, D], and their mask [B, F]."""

    unit_BFD: Tensor
    mask_BF: Tensor


class Ts2Head(Head):
    """The frames weighted by the sentence, after a Transformer over the frames and the patch tokens chosen in them."""

    TRAINED_ONLY: ClassVar[bool] = True
    READS_WORDS: ClassVar[bool] = False
    READS_PATCHES: ClassVar[bool] = True
    LEAST_PATCHES: ClassVar[int] = CHOSEN
    OWN_BLOCKS: ClassVar[bool] = True
    AUTHORS_PADDING: ClassVar[AuthorsPadding] = "masked"

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        assert config.patches >= CHOSEN
        places = config.temporal_positions or self.block_positions(config.max_frames)
        self.selector = Selector(config.dimension)
        self.draws: Tensor
        self.register_buffer("draws", torch.randint(1, 2**62, ()))
        self.joint = PositionedBlocks(config.dimension, places, config.temporal_heads, config.temporal_activation)

    @classmethod
    def block_positions(cls, frames: int) -> int:
        return frames * (1 + CHOSEN)

    @property
    def started_blocks(self) -> PositionedBlocks:
        return self.joint

    def frame_limits(self) -> dict[str, int]:
        places = len(self.joint.positional_embedding)
        return {f"head {self.name} has {places} positions, {1 + CHOSEN} for each frame": places // (1 + CHOSEN)}

    def apply_temporal(self, batch: VideoBatch) -> EncodedFrames:
        """The frames after the Transformer. Nothing reads their patch tokens any more."""
        return EncodedFrames(self.temporal_frames(batch), batch.mask_BF)

    def temporal_frames(self, batch: VideoBatch) -> Tensor:
        if self.training and torch.is_grad_enabled():
            with torch.no_grad():
                self.draws += 1
        chosen = EncodedFrames(batch.frame_BFD, batch.mask_BF, self.chosen_patches(batch))
        return self.in_blocks(chosen, self._read_together)

    def chosen_patches(self, batch: VideoBatch) -> Tensor:
        """The chosen patch tokens [B, F, K, D] of every frame, by their position in it; in training their averages over many choices."""
        assert batch.patch_BFMD is not None
        frame_RD, patch_RMD = batch.frame_BFD.flatten(0, 1), batch.patch_BFMD.flatten(0, 1)
        if torch.is_grad_enabled():
            # Computed again in the backward pass: what the layers keep is several times as large as the patch tokens.
            score_RM: Tensor = checkpoint(self.selector, frame_RD, patch_RMD, use_reentrant=False, preserve_rng_state=False)
            chosen_RKD = self._averaged(score_RM, batch) @ patch_RMD if self.training else taken(score_RM, patch_RMD)
            return chosen_RKD.view(*batch.mask_BF.shape, CHOSEN, -1)
        if not constant_shapes(patch_RMD):
            # Those of padded frames too, whose number a GPU would have to be asked for.
            parts = zip(frame_RD.split(FRAMES_ON_A_GPU), patch_RMD.split(FRAMES_ON_A_GPU), strict=True)
            some = [taken(self.selector(frame_ND, patch_NMD), patch_NMD) for frame_ND, patch_NMD in parts]
            return torch.cat(some).view(*batch.mask_BF.shape, CHOSEN, -1)
        chosen_RKD = patch_RMD.new_zeros(len(patch_RMD), CHOSEN, patch_RMD.shape[-1])

        def work(rows: Tensor, _: None) -> None:
            # A constant number of frames, so that neither their place nor the batch changes a bit (data/compute/shapes.py).
            filled = torch.cat([rows, rows[:1].expand(FRAMES_AT_ONCE - len(rows))])
            some_RMD = patch_RMD[filled]
            chosen_RKD[rows] = taken(self.selector(frame_RD[filled], some_RMD), some_RMD)[: len(rows)]

        real = batch.mask_BF.flatten().nonzero()[:, 0]
        parallel(torch.get_num_threads(), work, real.split(FRAMES_AT_ONCE), lambda: None)
        return chosen_RKD.view(*batch.mask_BF.shape, CHOSEN, -1)

    def _averaged(self, score_RM: Tensor, batch: VideoBatch) -> Tensor:
        """How often noise makes each patch token of a frame the k-th of the chosen [R, K, M]."""
        place_F = torch.arange(batch.mask_BF.shape[1], device=score_RM.device)
        key_BF = pair_keys(place_F, hash_videos(batch.frame_BFD, batch.mask_BF), self.draws)
        return perturbed_choice(score_RM, key_BF.flatten(), CHOSEN)

    def _read_together(self, batch: VideoBatch) -> Tensor:
        """The frames after the Transformer, of frames with their chosen patch tokens."""
        assert batch.patch_BFMD is not None
        x_BTD = torch.cat([batch.frame_BFD[:, :, None], batch.patch_BFMD], dim=2).flatten(1, 2)
        x_BTD = x_BTD + self.joint.positional_embedding[: x_BTD.shape[1]]
        mask_BT = batch.mask_BF.repeat_interleave(1 + CHOSEN, dim=1)
        lower = self.execution.temporal
        with torch.autocast(x_BTD.device.type, lower, enabled=lower is not None):
            *blocks, last = self.joint.in_order()
            for block in blocks:
                x_BTD = block(x_BTD, mask_BT)
            z_BFD = last.at(x_BTD, mask_BT, slice(None, None, 1 + CHOSEN))
        return batch.frame_BFD + z_BFD.to(batch.frame_BFD.dtype)

    def encoded_bytes(self, frames: int) -> int:
        return 4 * frames * self.config.dimension

    def encode_text_block(self, block: TextBlock) -> Tensor:
        return unit(block.sentence_AD)

    def encode_video_block(self, block: VideoBlock) -> Frames:
        batch = block.frames
        return Frames(unit(batch.frame_BFD.masked_fill(~batch.mask_BF[..., None], 0.0)), batch.mask_BF)

    def score_block(self, texts: Tensor, videos: Frames) -> Tensor:
        cosine_ABF = self._cosines(texts, videos)
        return (_weights(cosine_ABF, videos.mask_BF) * cosine_ABF).sum(dim=-1)[None]

    def frame_weights(self, texts: TextBatch, videos: VideoBatch) -> FrameWeights:
        return FrameWeights(self.weights_of(texts, self.apply_temporal(videos)))

    def weights_of(self, texts: TextBatch, frames: EncodedFrames) -> Tensor:
        """The weights [A, B, F] that sentences give to frames after the Transformer."""
        block = self.encode_video_block(VideoBlock(torch.arange(len(frames.mask_BF)), frames))
        return _weights(self._cosines(unit(texts.sentence_AD), block), frames.mask_BF)

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        # The cosines and their weighted sum.
        return 2 * frames * self.config.dimension + 2 * frames + 0 * words

    def _cosines(self, unit_AD: Tensor, videos: Frames) -> Tensor:
        """Of sentences with frames [A, B, F], 0 at padding."""
        b, frames, _ = videos.unit_BFD.shape
        return self.execution.product(unit_AD, videos.unit_BFD.flatten(0, 1)).view(-1, b, frames)


def taken(score_RM: Tensor, patch_RMD: Tensor) -> Tensor:
    """The patch tokens [R, K, D] with the highest scores, by their position."""
    place_RK = chosen_places(score_RM, CHOSEN)
    return patch_RMD.gather(1, place_RK[..., None].expand(-1, -1, patch_RMD.shape[-1]))


def _weights(cosine_ABF: Tensor, mask_BF: Tensor) -> Tensor:
    """The weights that sentences give to frames [A, B, F], 0 at padding."""
    relative_ABF = cosine_ABF * inverse_norm(cosine_ABF.square().sum(dim=-1, keepdim=True))
    return (SHARPNESS * relative_ABF).masked_fill(~mask_BF, FAR_BELOW).softmax(dim=-1)
