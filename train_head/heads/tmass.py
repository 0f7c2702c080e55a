"""T-MASS (Wang et al. 2024, "Text Is MASS: Modeling as Stochastic Embedding for Text-Video Retrieval", arXiv 2403.17998).

A text is not a point but a mass around its sentence t, as wide as it resembles the frames f_i of the video it is compared with. With z the
video as X-Pool's attention pools it for t (`xpool.py`; the paper builds on it), and products of vectors number by number:

    radius                      S_i = cos(t, f_i)     R = exp(S W)                        W [frames, D], learned
    stochastic text             t_s = t + R e         e ~ N(0, 1)^D
    support text                t_sup = t + (z - t) / |z - t| R                           on the surface of the mass, towards the video
    training                    contrastive loss of cos(t_s, z) + ALPHA * contrastive loss of cos(t_sup, z)
    retrieval score             max over SAMPLES stochastic texts of cos(t_s, z)

Of the paper's radii this is the linear one; another is exp(theta mean_i S_i), with one learned number. The equations follow the paper's
abstract and published summaries, so they carry no numbers of its equations. Nothing is compared with its code.

Open, and what we chose:
- Noise is drawn for every pair, since R belongs to a pair.
- t is the sentence as CLIP gives it, not normalised: at a norm near 10 and R near 1, about as X-Pool's z. With unit features the noise
  outweighs the text until W has learned a small radius.
- z is X-Pool's output, not normalised; both losses use it for matching and other pairs alike.
- W starts at zero, that is R = 1, and has no bias.
- A video with fewer frames than W has rows takes the first rows: S_i of a frame that is not there is 0. The paper samples a fixed number.
- ALPHA and SAMPLES are our values. X-Pool's dropout is left out, as in `xpool`.

**No chance in a score.** The noise is a function of the content of text and video (their cached features) and the number of the sample
(`train_head/kernels/noise.py`), so a score has the same bits alone, in any gallery, and in any process. In training, every step draws other
noise: its number is the buffer `draws`, which starts at a random number that --seed decides, and is saved with the weights. A resumed run
therefore continues with the same noise. Several processes draw the noise of one process, because pairs and not places decide it; their
results differ by rounding alone, as for every head.

**Cost.** z is a sum of a few vectors of the video (`xpool.py` says how), so no layer meets a pair. The rest is one pass over D for a pair,
compiled (`train_head/kernels/mass.py`).

Shape suffixes: A texts, B videos, F frames, D joint dimension, K the vectors that z is a sum of (those of E in xpool.py, the
bias, and zeros).
"""

from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import pad

from train_head.batches import EncodedFrames, TextBatch
from train_head.heads.base import DEFAULT_EXECUTION, Execution, HeadConfig, unit
from train_head.heads.xpool import Memory, Queries, XpoolAttention, in_steps, with_zeros
from train_head.kernels.blocks import TextBlock, VideoBlock
from train_head.kernels.mass import Pairs, best_of, cosines
from train_head.kernels.noise import hash_rows, hash_videos, pair_keys
from train_head.losses import contrastive_loss

ALPHA = 1.2
"""Weight of the support text's loss."""
SAMPLES = 20
"""Stochastic texts of a pair, of which the best gives the score."""
SUPPORT = "support"


class Texts(NamedTuple):
    """X-Pool's queries, sentences [A, D], and their hashes [A]."""

    queries: Queries
    sentence_AD: Tensor
    hash_A: Tensor


class Videos(NamedTuple):
    """X-Pool's memory, and what z and R are made of."""

    memory: Memory
    basis_BKD: Tensor
    """The vectors of which z is a sum."""
    unit_frame_BFD: Tensor
    hash_B: Tensor


class TmassHead(XpoolAttention):
    """The best cosine of SAMPLES stochastic texts with the frames pooled by X-Pool's attention."""

    FRAME_MATRICES: ClassVar[bool] = True
    READS_BEFORE: ClassVar[bool] = True
    """Noise depends on features as cached: behind the temporal encoder their bits differ between batches while it is trained."""

    def __init__(self, name: str, config: HeadConfig, execution: Execution = DEFAULT_EXECUTION) -> None:
        super().__init__(name, config, execution)
        self.radius = nn.Parameter(torch.zeros(config.max_frames, config.dimension))
        self.draws: Tensor
        self.register_buffer("draws", torch.randint(1, 2**62, ()))
        self._kept: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def extra_loss_names(self) -> tuple[str, ...]:
        return (SUPPORT,)

    def encode_text_block(self, block: TextBlock) -> Texts:
        return Texts(self.queries_of(block), block.sentence_AD, hash_rows(block.sentence_AD))

    def encode_video_block(self, block: VideoBlock) -> Videos:
        batch = block.frames
        assert batch.before_BFD is not None
        memory = self.memory_of(block)
        bias_D = self.norm_out.bias.expand(len(memory.value_BED), 1, -1)
        return Videos(
            memory,
            in_steps(torch.cat([memory.value_BED * self.norm_out.weight, bias_D], dim=1)),
            unit(batch.frame_BFD.masked_fill(~batch.mask_BF[..., None], 0.0)),
            hash_videos(batch.before_BFD, batch.mask_BF),
        )

    def pairs(self, texts: Texts, videos: Videos) -> Pairs:
        """What stochastic and support texts of all pairs are made of."""
        b, frames, _ = videos.unit_frame_BFD.shape
        cosine_ABF = self.execution.product(texts.queries.unit_AD, videos.unit_frame_BFD.flatten(0, 1)).view(-1, b, frames)
        weight_BAE = self.mixtures(texts.queries, videos.memory)
        mixture_BAK = torch.cat([weight_BAE, torch.ones_like(weight_BAE[..., :1])], dim=-1)
        mixture_BAK = pad(mixture_BAK, (0, videos.basis_BKD.shape[1] - mixture_BAK.shape[-1]))
        return Pairs(texts.sentence_AD, mixture_BAK, videos.basis_BKD, cosine_ABF.transpose(0, 1), self.radius[:frames])

    def score_block(self, texts: Texts, videos: Videos) -> Tensor:
        return best_of(self.pairs(texts, videos), pair_keys(texts.hash_A, videos.hash_B), SAMPLES)[None]

    def scores(self, texts: Any, videos: Any) -> Tensor:
        if not (self.training and torch.is_grad_enabled() and self.logit_scale.requires_grad):
            return super().scores(texts, videos)
        # With gradients, all texts are one block, and so are all videos.
        ((some,), (others,)) = texts, videos
        with torch.no_grad():
            self.draws += 1
        cosine_SAB = self._cosines(some.block, others.block)
        # The next call of `extra_losses`, in the same step, needs nothing more.
        self._kept = some.block.hash_A, others.block.hash_B, cosine_SAB[1]
        return cosine_SAB[:1] * self.scale()

    def _cosines(self, texts: Texts, videos: Videos) -> Tensor:
        return cosines(self.pairs(texts, videos), pair_keys(texts.hash_A, videos.hash_B, self.draws))

    def extra_losses(self, texts: TextBatch, videos: EncodedFrames, left_out_AB: Tensor | None = None) -> dict[str, Tensor]:
        """The support text's contrastive loss, times ALPHA."""
        assert videos.before_BFD is not None
        hashes = hash_rows(texts.sentence_AD), hash_videos(videos.before_BFD, videos.mask_BF)
        kept, self._kept = self._kept, None
        if kept is not None and all(map(torch.equal, kept, hashes)):
            support_AB = kept[2]
        else:
            # In several processes `scores` had this process's texts alone.
            ((some,), (others,)) = self.encode_texts(texts), self.encode_frames(videos)
            support_AB = self._cosines(some.block, others.block)[1]
        return {SUPPORT: ALPHA * contrastive_loss(support_AB * self.scale(), left_out_AB)}

    def pair_flops(self, words: NDArray[np.float64], frames: NDArray[np.float64]) -> NDArray[np.float64]:
        d, more = self.config.dimension, with_zeros(frames + 1)
        # Queries times keys, cosines, z and the radius; deviations; |t|^2, |z|^2 and t z; then three sums for every sample, of R e with z,
        # with t, and with itself.
        pooled = 4 * frames * d + 2 * with_zeros(more + 1) * d + 2 * frames * d + 4 * more**2
        return pooled + 6 * d + SAMPLES * 7 * d + 0 * words
