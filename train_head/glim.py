"""GLIM, the parameter-free text-guided pooling of frames, and the four multi-grained scores (GLCCL, Jing et al. 2025), as functions.

On a CPU in float32, `glim_scores` runs the compiled loops of kernels/fused.py. Elsewhere it runs the plain tensor operations of
kernels/plain.py, which the loops are tested against.

Shape suffixes: A texts, B videos, L words of the longest text (start and end tokens included), F frames of the longest video, D joint
dimension, S the four scores.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from train_head.batches import TextBatch, VideoBatch
from train_head.kernels.fused import fused_score, lane_videos, tile_texts
from train_head.kernels.loops import compilable
from train_head.kernels.plain import guidance, prepare_texts, prepare_videos, score
from train_head.temperatures import KAPPA, TAU

FEATURE_MATRICES, WORD_MATRICES = ("M_g", "M_l"), ("P1", "P2", "P3", "P4", "P5", "P6")
"""The learned matrices, over features [D, D] and over words [max_words, max_words]."""


def frame_weights(
    sentence_AD: Tensor,
    word_ALD: Tensor,
    word_mask_AL: Tensor,
    frame_BFD: Tensor,
    frame_mask_BF: Tensor,
    *,
    tau: float = TAU,
    zeros_count: bool = False,
) -> tuple[Tensor, Tensor]:
    """The weights that texts give to frames: alpha [A, B, F] from each sentence, beta [A, B, L, F] from each word.

    The arguments are those of `glim_scores`, with frames taken after the temporal encoder. Weights sum to 1 over a video's real frames.
    They are 0 at padded frames, for padded words, and unless `zeros_count` at zero frames. Source: GLCCL (arXiv 2605.17959), GLIM.
    """
    videos, word_mask_AL = prepare_videos(frame_BFD, frame_mask_BF.bool(), zeros_count=zeros_count), word_mask_AL.bool()
    word_ALD = word_ALD.masked_fill(~word_mask_AL[..., None], 0.0)
    alpha_ABF = guidance(torch.einsum("ad,bfd->abf", sentence_AD, videos.frame_BFD), videos.mask_BF, tau)
    beta_ABLF = guidance(torch.einsum("ald,bfd->ablf", word_ALD, videos.frame_BFD), videos.mask_BF, tau)
    return alpha_ABF, beta_ABLF.masked_fill(~word_mask_AL[:, None, :, None], 0.0)


def glim_scores(
    sentence_AD: Tensor,
    word_ALD: Tensor,
    word_mask_AL: Tensor,
    frame_BFD: Tensor,
    frame_mask_BF: Tensor,
    head: Mapping[str, Tensor] | None = None,
    *,
    tau: float = TAU,
    kappa: float = KAPPA,
    logit_scale: float | Tensor = 100.0,
) -> Tensor:
    """The four scores of every text with every video [4, A, B], times the logit scale; their mean is the retrieval score.

    >>> scores_SAB = glim_scores(sentence_AD, word_ALD, word_mask_AL, frame_BFD, frame_mask_BF)
    >>> video_sentence_AB, video_word_AB, sentence_frame_AB, word_frame_AB = scores_SAB
    >>> retrieval_AB = scores_SAB.mean(dim=0)

    Features are CLIP's, not normalised: sentences [A, D], words [A, L, D] (every token, including start and end) and frames [B, F, D].
    Masks are True at real words and frames and may have holes. Padding must be finite. `head` holds the learned matrices M_g, M_l [D, D]
    and P1 ... P6 [max_words, max_words] with max_words >= L; None means identities.

    All tensors receive gradients. The compiled loops (CPU, float32) support neither second derivatives nor torch.func; use float64 for
    those. Raises ValueError if shapes do not match, or if a temperature is not above 0.
    Source: GLCCL (arXiv 2605.17959), GLIM and its four scores.
    """
    a, length, dimension = word_ALD.shape
    b, frames, _ = frame_BFD.shape
    fits = sentence_AD.shape == (a, dimension) and word_mask_AL.shape == (a, length) and frame_mask_BF.shape == (b, frames)
    if not fits or frame_BFD.shape[2] != dimension:
        shapes = [tuple(t.shape) for t in (sentence_AD, word_ALD, word_mask_AL, frame_BFD, frame_mask_BF)]
        raise ValueError(f"shapes {shapes} are not [A, D], [A, L, D], [A, L], [B, F, D], [B, F]")
    if not (tau > 0 and kappa > 0):
        raise ValueError(f"tau {tau} and kappa {kappa} are not both above 0")
    if head is not None:
        shortest = min(min(head[name].shape) for name in WORD_MATRICES)
        if shortest < length:
            raise ValueError(f"texts have up to {length} words, but the head's matrices take {shortest}")
        # `head` may be a state dict with other entries.
        head = {name: head[name] for name in FEATURE_MATRICES} | {name: head[name][:length, :length] for name in WORD_MATRICES}
    word_mask_AL, frame_mask_BF = word_mask_AL.bool(), frame_mask_BF.bool()
    tensors = [sentence_AD, word_ALD, frame_BFD, *(head or {}).values()]
    compiled = all(compilable(tensor) for tensor in tensors)
    # A tensor as temperature may require a gradient, which the loops do not compute.
    compiled = compiled and all(isinstance(temperature, (int, float)) for temperature in (tau, kappa))
    if compiled and min(a, b, length, frames) > 0:
        gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", enabled=False):
            videos = VideoBatch(frame_BFD, frame_mask_BF)
            scores_SAB = _compiled_scores(sentence_AD, word_ALD, word_mask_AL, videos, head or _identity(dimension, length), tau, kappa)
    else:
        prepared = prepare_texts(sentence_AD, word_ALD, word_mask_AL, head), prepare_videos(frame_BFD, frame_mask_BF)
        scores_SAB = score(*prepared, head, tau=tau, kappa=kappa)
    return scores_SAB * logit_scale


def _identity(dimension: int, words: int) -> dict[str, Tensor]:
    of_features, of_words = (torch.eye(size, dtype=torch.float32) for size in (dimension, words))
    return dict.fromkeys(FEATURE_MATRICES, of_features) | dict.fromkeys(WORD_MATRICES, of_words)


def _compiled_scores(
    sentence_AD: Tensor,
    word_ALD: Tensor,
    mask_AL: Tensor,
    videos: VideoBatch,
    head: Mapping[str, Tensor],
    tau: float,
    kappa: float,
) -> Tensor:
    """The scores before the logit scale, for word masks with holes too.

    The loops take any frame mask, but need the words of a text to be contiguous. A text with holes in its mask is closed up, and P1 ... P6
    are reduced to the rows and columns of its real positions. Texts with the same mask share a call. A text without real words gets only
    the video-sentence score.
    """
    empty_A = ~mask_AL.any(dim=1)
    # The loops need at least one word per text. Give empty texts a zero word and clear their scores below.
    word_ALD = word_ALD.masked_fill(empty_A[:, None, None], 0.0)
    mask_AL = torch.cat([mask_AL[:, :1] | empty_A[:, None], mask_AL[:, 1:]], dim=1)
    length_A = mask_AL.sum(dim=1)
    holes_A = mask_AL.int().cumprod(dim=1).sum(dim=1) < length_A
    groups = [(~holes_A, head)] if not holes_A.all() else []
    for pattern_L in mask_AL[holes_A].unique(dim=0):
        at = pattern_L.nonzero()[:, 0]
        closed_up = {name: matrix if name in FEATURE_MATRICES else matrix[at][:, at] for name, matrix in head.items()}
        groups.append(((mask_AL == pattern_L).all(dim=1), closed_up))
    laned, threads = lane_videos(videos), torch.get_num_threads()
    scored = []
    for chosen_A, matrices in groups:
        batch = TextBatch(sentence_AD[chosen_A], word_ALD[chosen_A][mask_AL[chosen_A]], length_A[chosen_A])
        scored.append(fused_score(tile_texts(batch, matrices, threads), laned, matrices, threads, tau=tau, kappa=kappa))
    order_A = torch.cat([chosen_A.nonzero()[:, 0] for chosen_A, _ in groups])
    scores_SAB = torch.cat(scored, dim=1)[:, order_A.argsort()]
    return torch.cat([scores_SAB[:1], scores_SAB[1:].masked_fill(empty_A[:, None], 0.0)])
