"""Patch tokens of image towers, by kind of tower: the features that the tower would give if its pooling saw one patch alone.

CLIP pools the class token: its feature is ln_post(class token) @ proj, so a patch token is ln_post(patch) @ proj. Towers that average the
patches or attend to them have no class token, and the definition is the same: pool a picture all of whose tokens are this one.

Shape suffixes: N images, C colour channels, H and W image sides, P positions of the tower, M patch tokens of an image, K of them that are
kept, R tokens of any images, W width of the tower, D joint dimension.
"""

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.base.errors import UserError
from data.compute.shapes import GRAIN
from extract.encode.library import open_clip
from extract.encode.towers import outputs_of, pooled


@dataclass(frozen=True)
class Patches:
    """Which patch tokens of a frame to keep. `kept` is the K of --tokens patches:K, None for all."""

    kept: int | None = None

    @classmethod
    def of(cls, option: str | None) -> "Patches | None":
        """The value of --tokens; None if no patch tokens are asked for. Raises UserError for another value."""
        if option is None:
            return None
        found = re.fullmatch(r"patches(?::([1-9][0-9]{0,8}))?", option, re.ASCII)
        if found is None:
            raise UserError(f"--tokens {option}: must be patches, or patches:K with a whole number K above 0, such as patches:4")
        return cls(int(found[1]) if found[1] else None)

    def require_fits(self, model: str, count: int) -> None:
        """Raise UserError unless a model with `count` patch tokens a frame can give these; 0 if it has none."""
        option = "patches" if self.kept is None else f"patches:{self.kept}"
        if not count:
            raise UserError(
                f"--tokens {option}: {model} has no patch tokens: use a model with a vision transformer, such as ViT-B-32, or leave it out"
            )
        if self.kept is not None and self.kept > count:
            raise UserError(f"--tokens {option}: must be at most {count}, the patch tokens of {model}, or patches for all")

    def choose(self, patch_NMD: Tensor) -> Tensor:
        """The patch tokens of each image with the largest norm: [N, K, D], in the order of their places. Of equals, the first."""
        if self.kept is None:
            return patch_NMD
        norm_NM = patch_NMD.float().square().sum(dim=-1)
        place_NK = norm_NM.argsort(dim=1, descending=True, stable=True)[:, : self.kept].sort(dim=1).values
        return patch_NMD.gather(1, place_NK[:, :, None].expand(-1, -1, patch_NMD.shape[2]))


class PatchTower(ABC):
    """An image tower with patch tokens. `network` is the whole model."""

    def __init__(self, network: Any) -> None:
        self.network, self.visual = network, network.visual

    @abstractmethod
    def encode(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        """The features [N, D], bit for bit as without patch tokens, and the patches [N, M, W] behind the last block."""

    @abstractmethod
    def project(self, patch_RW: Tensor) -> Tensor:
        """Patches as patch tokens [R, D]: each pooled and projected as if it were all that the tower sees."""

    def tokens(self, patch_NMW: Tensor) -> Tensor:
        """Patches of whole images as patch tokens [N, M, D], a few images at a time to bound the memory.

        The rows of each product are a multiple of GRAIN if N is, so that a patch token does not depend on the other images.
        """
        count = patch_NMW.shape[1]
        images = GRAIN // math.gcd(GRAIN, count)
        token_RD = torch.cat([self.project(part_nMW.flatten(0, 1)) for part_nMW in patch_NMW.split(images)])
        return token_RD.reshape(len(patch_NMW), count, -1)


class OpenClipPatches(PatchTower):
    """open_clip's VisionTransformer, which pools the class token, the mean of the patches, or by attention (CoCa)."""

    def encode(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        with outputs_of(self.visual.transformer) as outputs:
            feature_ND = pooled(self.network.encode_image(image_NCHW, normalize=False))
        hidden_NPW: Tensor = outputs[0]
        return feature_ND, hidden_NPW[:, 1:]

    def project(self, patch_RW: Tensor) -> Tensor:
        visual = self.visual
        seen_RW = patch_RW if visual.attn_pool is None else _attended(visual.attn_pool, patch_RW)
        token_RD: Tensor = visual.ln_post(seen_RW) @ visual.proj
        return token_RD


class TimmPatches(PatchTower):
    """A vision transformer of timm, whose forward_features gives all its positions: class and register tokens, then patches."""

    @property
    def _prefix(self) -> int:
        return int(self.visual.trunk.num_prefix_tokens)

    def encode(self, image_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        trunk = self.visual.trunk
        hidden_NPW = trunk.forward_features(image_NCHW)
        return self.visual.head(trunk.forward_head(hidden_NPW)), hidden_NPW[:, self._prefix :]

    def project(self, patch_RW: Tensor) -> Tensor:
        # The pooling may drop the class and register tokens, or read them alone.
        alike_RPW = patch_RW[:, None].expand(-1, self._prefix + 1, -1)
        token_RD: Tensor = self.visual.head(self.visual.trunk.forward_head(alike_RPW))
        return token_RD


def patch_tower(network: Any) -> PatchTower | None:
    """The image tower of a model if it has patch tokens, by its kind. None for towers whose features are maps, such as ResNets."""
    library, visual = open_clip(), network.visual
    if isinstance(visual, library.transformer.VisionTransformer):
        return OpenClipPatches(network)
    if isinstance(visual, library.timm_model.TimmModel) and hasattr(visual.trunk, "num_prefix_tokens"):
        return TimmPatches(network)
    return None


def _attended(pooler: Any, token_RW: Tensor) -> Tensor:
    """Attention pooling of one token alone. The weight of a single token is 1, so all queries give the same: one is enough."""
    key_R1W = pooler.ln_k(token_RW)[:, None]
    query_R1W = pooler.ln_q(pooler.query[:1]).expand(len(token_RW), 1, -1)
    attended: Tensor = pooler.attn(query_R1W, key_R1W, key_R1W, need_weights=False)[0]
    return attended[:, 0]
