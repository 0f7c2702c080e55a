"""Chooses the weights of CLIP to train. Each of its two towers consists of embeddings, blocks, and layers after the blocks."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from data.base.errors import UserError

AFTER_IMAGE_BLOCKS = ("ln_post", "proj", "attn_pool", "attnpool")
AFTER_TEXT_BLOCKS = ("ln_final", "text_projection")
HUGGING_FACE_BLOCKS = ("layer", "block", "layers")
"""Names of the blocks: of BERT, RoBERTa and XLM-R; of mT5; and of NLLB."""
AFTER_HUGGING_FACE_BLOCKS = ("pooler", "final_layer_norm", "layer_norm")
NEVER_TRAINED = ("logit_scale", "logit_bias", "text_decoder")
"""CLIP's own scale and bias, whose place the head's logit scale takes, and CoCa's captioner, which makes no features."""


@dataclass(frozen=True)
class Tower:
    """A tower of CLIP: its kind of network, the parameters of each block from the input on, and the parameters after the blocks.

    `blocks` is None for an unknown kind of network. All other parameters come before the blocks: embeddings of patches, tokens and
    positions, or the stem of a convolutional network.
    """

    name: str
    kind: str
    blocks: list[list[nn.Parameter]] | None
    after: list[nn.Parameter]

    def above(self, frozen: int) -> set[nn.Parameter]:
        """The parameters above its first `frozen` blocks."""
        assert self.blocks is not None
        return set(self.after).union(*self.blocks[frozen:])


def towers(model: Any, text_tower: Any) -> tuple[Tower, Tower]:
    """The image and text towers of an open_clip model. The blocks of a ResNet are its bottlenecks, in order."""
    text = _text_tower(text_tower)
    visual = model.visual
    if hasattr(visual, "trunk"):
        return _timm_tower(visual), text
    blocks: list[nn.Module] | None = None
    if hasattr(visual, "transformer"):
        blocks = list(visual.transformer.resblocks)
    elif hasattr(visual, "layer1"):
        blocks = [block for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4) for block in layer]
    return _tower("image", visual, blocks, AFTER_IMAGE_BLOCKS), text


def _text_tower(module: Any) -> Tower:
    """A text tower of open_clip's, or one from Hugging Face, whose kinds name their list of blocks differently."""
    if hasattr(module.transformer, "resblocks"):
        return _tower("text", module, list(module.transformer.resblocks), AFTER_TEXT_BLOCKS)
    network = getattr(module.transformer, "encoder", module.transformer)
    blocks = next((getattr(network, name) for name in HUGGING_FACE_BLOCKS if isinstance(getattr(network, name, None), nn.ModuleList)), None)
    after = {name for name, _ in module.transformer.named_children()} & {*AFTER_HUGGING_FACE_BLOCKS}
    following = list(module.proj.parameters())
    following += [parameter for name in sorted(after) for parameter in getattr(module.transformer, name).parameters()]
    parameters = None if blocks is None else [list(block.parameters()) for block in blocks]
    return Tower("text", type(module.transformer).__name__, parameters, following)


def _tower(name: str, module: nn.Module, blocks: list[nn.Module] | None, after: tuple[str, ...]) -> Tower:
    following = [parameter for name, parameter in module.named_parameters() if name.split(".")[0] in after]
    return Tower(name, type(module).__name__, None if blocks is None else [list(block.parameters()) for block in blocks], following)


def _timm_tower(visual: Any) -> Tower:
    """An image tower from timm. timm's networks name their stem and their blocks by patterns of parameter names.

    The numbers matched by a pattern's groups, with the pattern's own number if it has one, give the position of a block. The number 99999
    marks a norm after the blocks.
    """
    trunk = visual.trunk
    matcher = trunk.group_matcher(coarse=False) if hasattr(trunk, "group_matcher") else None
    if not isinstance(matcher, dict) or matcher.keys() != {"stem", "blocks"}:
        # A few of timm's networks have other patterns, or none.
        return Tower("image", type(trunk).__name__, None, [])
    patterns = matcher["blocks"] if isinstance(matcher["blocks"], (list, tuple)) else [(matcher["blocks"], None)]
    blocks: dict[tuple[int, ...], list[nn.Parameter]] = {}
    after = list(visual.head.parameters())
    for name, parameter in trunk.named_parameters():
        if re.match(matcher["stem"], name):
            continue
        for pattern, beside in patterns:
            found = re.match(pattern, name)
            if found and beside != (99999,):
                blocks.setdefault((*map(int, found.groups()), *(beside or ())), []).append(parameter)
                break
        else:
            after.append(parameter)
    return Tower("image", type(trunk).__name__, [blocks[place] for place in sorted(blocks)], after)


def train_above(model: nn.Module, both: tuple[Tower, Tower], frozen: int) -> dict[str, nn.Parameter]:
    """Enable gradients above the first `frozen` blocks of both towers only; returns those parameters by name, in the model's order.

    0 freezes only the parameters before the blocks, -1 nothing (CLIP4Clip's convention). Raises UserError if a tower has fewer blocks.
    """
    for tower in both:
        if tower.blocks is None and frozen != -1:
            raise UserError(f"--freeze-layers {frozen}: the blocks of a {tower.kind} are unknown: use -1 to train all of it")
        if not -1 <= frozen <= len(tower.blocks or ()):
            blocks = len(tower.blocks or ())
            raise UserError(f"--freeze-layers {frozen}: the {tower.name} tower of this CLIP has {blocks} blocks: use -1 to {blocks}")
    chosen = set(model.parameters()) if frozen == -1 else both[0].above(frozen) | both[1].above(frozen)
    named = {
        name: parameter for name, parameter in model.named_parameters() if parameter in chosen and name.split(".")[0] not in NEVER_TRAINED
    }
    model.requires_grad_(False)
    for parameter in named.values():
        parameter.requires_grad_(True)
    return named
