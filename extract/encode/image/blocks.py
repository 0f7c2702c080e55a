"""The transformer blocks of an image tower: shift tokens before their attention, or run some of the blocks alone.

Shape suffixes: N images or segments, C colour channels, H and W image sides, L tokens of one, M patches of an image, K medoids, W width of
the tower, I channels of a rotary position.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from extract.encode.image.shift import Neighbours, shift_tokens
from extract.encode.library import open_clip
from extract.encode.towers import outputs_of

NORMS = {
    "open_clip.transformer.ResidualAttentionBlock": "ln_1",
    "open_clip.transformer.CustomResidualAttentionBlock": "ln_1",
    "timm.models.vision_transformer.Block": "norm1",
    "timm.models.vision_transformer_relpos.RelPosBlock": "norm1",
    "timm.models.eva.EvaBlock": "norm1",
}
"""The blocks x + attention(norm(x)), and the name of that norm."""
RELATIVE = "RelPosBlock"
"""Its attention has a bias for each pair of places."""


@dataclass(frozen=True)
class Blocks:
    """The blocks of an image tower. `path` leads from the model to the module that holds them, and ends with their name there.

    prefix: number of tokens in front of the patches, class token and registers. relative: the attention knows the place of each patch.
    """

    path: tuple[str, ...]
    blocks: list[Any]
    prefix: int

    @property
    def relative(self) -> bool:
        """Whether the attention knows each patch by its place in the sequence, which must then be complete."""
        return any(type(block).__name__ == RELATIVE for block in self.blocks)

    @contextmanager
    def shifting(self, last: int, neighbours: Neighbours) -> Iterator[None]:
        """Shift the input of the self-attention in the `last` blocks, behind its norm: the residual stream is not shifted."""

        def shift(_norm: nn.Module, _inputs: Any, token_NLW: Tensor) -> Tensor:
            return shift_tokens(token_NLW, neighbours, self.prefix)

        norms = [getattr(block, NORMS[_kind(block)]) for block in self.blocks[-last:]]
        hooks = [norm.register_forward_hook(shift) for norm in norms]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def find_blocks(network: Any) -> Blocks | None:
    """The blocks of the image tower of a model. None unless all of them normalise before their attention, as CLIP's do."""
    library, visual = open_clip(), network.visual
    if isinstance(visual, library.transformer.VisionTransformer):
        found = Blocks(("visual", "transformer", "resblocks"), list(visual.transformer.resblocks), 1)
    elif (
        isinstance(visual, library.timm_model.TimmModel) and hasattr(visual.trunk, "num_prefix_tokens") and hasattr(visual.trunk, "blocks")
    ):
        found = Blocks(("visual", "trunk", "blocks"), list(visual.trunk.blocks), int(visual.trunk.num_prefix_tokens))
    else:
        return None
    return found if all(_kind(block) in NORMS for block in found.blocks) else None


class Front:
    """The image tower up to its `count`-th block."""

    def __init__(self, network: Any, blocks: Blocks, count: int) -> None:
        self._last = blocks.blocks[count - 1]
        self._network = _with_blocks(network, blocks.path, blocks.blocks[:count])

    def __call__(self, image_NCHW: Tensor) -> Tensor:
        """The tokens [N, L, W] behind that block. The pooling of these tokens, a small share of the work, is thrown away."""
        with outputs_of(self._last) as outputs:
            self._network.encode_image(image_NCHW, normalize=False)
        token_NLW: Tensor = outputs[0]
        return token_NLW


class Back:
    """The image tower behind its `count`-th block: `network` is a model whose pictures are the tokens given with `taking`.

    `network.encode_image` still embeds the pictures that it gets, without effect, and takes as many as there are rows of tokens.
    """

    def __init__(self, network: Any, blocks: Blocks, count: int) -> None:
        self._given = _Given()
        self._blocks, self._prefix = blocks.blocks[count:], blocks.prefix
        # In the place of each block of the front, so that those behind keep their number: some towers have a rotation for each.
        self.network = _with_blocks(network, blocks.path, [self._given] * count + self._blocks)

    @contextmanager
    def taking(self, token_NLW: Tensor, patch_NK: Tensor) -> Iterator[None]:
        """Run the blocks on tokens [N, prefix + K, W]. `patch_NK` says which patch of its frame each is, for rotary positions."""

        def rotate(_block: nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            rope = options.get("rope")
            return inputs, options if rope is None else {**options, "rope": rotations_of(rope, patch_NK)}

        hooks = [block.register_forward_pre_hook(rotate, with_kwargs=True) for block in self._blocks]
        self._given.token_NLW = token_NLW
        try:
            yield
        finally:
            self._given.token_NLW = None
            for hook in hooks:
                hook.remove()


def rotations_of(rope: Tensor, patch_NK: Tensor) -> Tensor:
    """The rotary positions of chosen patches, [N, 1, K, I] of [M, I], or [N, heads, K, I] of [heads, M, I]."""
    of_head = rope[None] if rope.ndim == 2 else rope
    return of_head[:, patch_NK].transpose(0, 1)


class _Given(nn.Module):
    """Stands in for a block: returns `token_NLW` whatever it gets."""

    token_NLW: Tensor | None = None

    def forward(self, *_inputs: Any, **_options: Any) -> Tensor:
        """The tokens given."""
        assert self.token_NLW is not None
        return self.token_NLW


def _with_blocks(network: Any, path: tuple[str, ...], blocks: list[Any]) -> Any:
    """The model with other blocks. It shares all other modules and the weights with the model given, which is not changed."""
    clone = copy.copy(network)
    name, *rest = path
    inner = _with_blocks(getattr(network, name), tuple(rest), blocks) if rest else nn.Sequential(*blocks)
    clone._modules = {**network._modules, name: inner}
    return clone


def _kind(block: Any) -> str:
    return f"{type(block).__module__}.{type(block).__name__}"
