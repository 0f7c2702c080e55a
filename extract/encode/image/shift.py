"""Token shift of TS2-Net: some patch tokens of a frame are replaced by those of the frame before, others by those of the frame after.

Shape suffixes: N frames, L tokens of a frame, M patch tokens of a frame, W width of the tower.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

DIVISOR = 7
"""One token in about seven comes from the frame before, and one in about seven from the frame after."""
FEWEST_PATCHES = 2 * DIVISOR - 1
"""With fewer, the step is 1: every patch would be replaced from both sides."""


def shifted_patches(patches: int) -> tuple[slice, slice]:
    """Which of M patches come from the frame before, and which from the frame after, counted from 0 at the first patch.

    Every `step`-th patch comes from the frame before, where step = floor((1 + M) / 7); the patch half a step later comes from the frame
    after. Counted with one class token in front, the first 50 positions of CLIP B/32 are 1, 8, ..., 43 and 4, 11, ..., 46:

    >>> shifted_patches(49)
    (slice(0, None, 7), slice(3, None, 7))
    """
    assert patches >= FEWEST_PATCHES
    step = (1 + patches) // DIVISOR
    return slice(0, None, step), slice(step // 2, None, step)


@dataclass(frozen=True)
class Neighbours:
    """The rows of a batch that hold the frame before and the frame after each of its N frames; at the ends of a video, the frame itself."""

    before_N: Tensor
    after_N: Tensor

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | None = None) -> "Neighbours":
        """The neighbours within consecutive runs of frames, one run for each video. Nothing crosses runs.

        >>> Neighbours.of([3, 1])
        Neighbours(before_N=tensor([0, 0, 1, 3]), after_N=tensor([1, 2, 2, 3]))
        """
        before: list[int] = []
        after: list[int] = []
        for length in lengths:
            first = len(before)
            before += [first, *range(first, first + length - 1)]
            after += [*range(first + 1, first + length), first + length - 1]
        return cls(torch.tensor(before, device=device), torch.tensor(after, device=device))


def shift_tokens(token_NLW: Tensor, neighbours: Neighbours, prefix: int) -> Tensor:
    """The tokens [N, L, W] with the patches of `shifted_patches` from the neighbouring frames.

    The first `prefix` tokens, class token and registers, stay. All tokens are read before any is replaced. Source: TS2-Net (Liu et al.
    2022), token shift.
    """
    from_before, from_after = shifted_patches(token_NLW.shape[1] - prefix)
    patch_NMW = token_NLW[:, prefix:]
    shifted_NLW = token_NLW.clone()
    shifted_NLW[:, prefix:][:, from_before] = patch_NMW[:, from_before][neighbours.before_N]
    shifted_NLW[:, prefix:][:, from_after] = patch_NMW[:, from_after][neighbours.after_N]
    return shifted_NLW
