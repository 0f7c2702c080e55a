"""Which weights of a CLIP are trained: its two towers as embeddings, blocks, and what follows the blocks."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from data.errors import UserError

AFTER_IMAGE_BLOCKS = ("ln_post", "proj", "attn_pool", "attnpool")
AFTER_TEXT_BLOCKS = ("ln_final", "text_projection")
NEVER_TRAINED = ("logit_scale", "logit_bias")
"""Of CLIP itself: a head has a logit scale of its own."""


@dataclass(frozen=True)
class Tower:
    """A tower of CLIP: its module, its blocks from the input on (None where its kind is not known), and the names of what follows them.

    What is neither of the two comes before the blocks: embeddings of patches, tokens and positions, a ResNet's stem.
    """

    name: str
    module: nn.Module
    blocks: list[nn.Module] | None
    after: tuple[str, ...]

    def above(self, frozen: int) -> set[nn.Parameter]:
        """The parameters above its first `frozen` blocks."""
        assert self.blocks is not None
        after = {parameter for name, parameter in self.module.named_parameters() if name.split(".")[0] in self.after}
        return after.union(*(block.parameters() for block in self.blocks[frozen:]))


def towers(model: Any, text_tower: Any) -> tuple[Tower, Tower]:
    """The image tower and the text tower of a CLIP of open_clip; ResNets have their bottlenecks as blocks, in order."""
    visual = model.visual
    blocks: list[nn.Module] | None = None
    if hasattr(visual, "transformer"):
        blocks = list(visual.transformer.resblocks)
    elif hasattr(visual, "layer1"):
        blocks = [block for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4) for block in layer]
    text_blocks = list(text_tower.transformer.resblocks)
    return Tower("image", visual, blocks, AFTER_IMAGE_BLOCKS), Tower("text", text_tower, text_blocks, AFTER_TEXT_BLOCKS)


def train_above(model: nn.Module, both: tuple[Tower, Tower], frozen: int) -> dict[str, nn.Parameter]:
    """Let the parameters above the first `frozen` blocks of both towers have gradients; these by name, in the order of the model.

    0 freezes what comes before the blocks, as any number does, and -1 nothing (CLIP4Clip's convention). Raises UserError where a tower has
    fewer blocks.
    """
    for tower in both:
        if tower.blocks is None and frozen != -1:
            raise UserError(f"--freeze-layers {frozen}: the blocks of a {type(tower.module).__name__} are not known; -1 trains all of it")
        if not -1 <= frozen <= len(tower.blocks or ()):
            raise UserError(f"--freeze-layers {frozen}: the {tower.name} tower of this CLIP has {len(tower.blocks or ())} blocks")
    chosen = set(model.parameters()) if frozen == -1 else both[0].above(frozen) | both[1].above(frozen)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter in chosen and name not in NEVER_TRAINED}
    model.requires_grad_(False)
    for parameter in named.values():
        parameter.requires_grad_(True)
    return named
