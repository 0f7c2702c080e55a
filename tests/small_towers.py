"""One small CLIP of each kind of image and text tower, as a configuration in a folder.

Shape suffixes: N images, C colour channels, H and W image sides.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extract.encode.clip import Clip

CPU = torch.device("cpu")
DIMENSION = 48
# A sum of a few hundred products in float32, in another order, is off by about sqrt(400) * 6e-8 = 1e-6 of its size, and so in each of the
# up to 12 blocks of these towers. The cosine of what is off by 2e-5 is below 1 by 2e-10.
ROUNDING = 2e-5


@dataclass(frozen=True)
class Kind:
    """A small CLIP, by what differs from the plainest of them."""

    vision: dict[str, Any]
    text: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)

    def folder(self, path: Path, preprocess: dict[str, Any] | None = None) -> str:
        """Its configuration in a folder, for `--model`."""
        text = {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2, **self.text}
        config = {"embed_dim": DIMENSION, "vision_cfg": self.vision, "text_cfg": text, **self.model}
        path.mkdir(exist_ok=True)
        (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
        return f"local-dir:{path}"


def timm(name: str, size: int, pool: str, proj: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "image_size": size, "timm_pool": pool, "timm_proj": proj}


VIT = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 48}
CUSTOM = {"custom_text": True}
BOTH_WAYS = {"no_causal_mask": True}
TINY_TIMM = Kind(timm("test_vit", 160, "token", "linear"), model=CUSTOM)
KINDS = {
    "ViT": Kind(VIT),
    "ViT, mean of patches": Kind(VIT | {"pool_type": "avg", "no_ln_pre": True, "final_ln_after_pool": True}, BOTH_WAYS),
    "ViT, attention pooling": Kind(
        VIT | {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}, {"output_tokens": True}
    ),
    "ResNet": Kind({"layers": [1, 1, 1, 1], "width": 12, "image_size": 64}),
    "timm ViT": TINY_TIMM,
    "timm ViT, attention pooling": Kind(
        timm("test_vit", 160, "map", None), {"proj_bias": True, "act_kwargs": {"approximate": "tanh"}}, CUSTOM
    ),
    "timm relative positions": Kind(timm("test_vit_relpos", 160, "", "linear"), {"width": DIMENSION, "proj_type": "none"}, CUSTOM),
    "timm EVA": Kind(timm("eva02_tiny_patch14_224", 224, "token", None), model=CUSTOM),
    "timm ConvNeXt": Kind(timm("test_convnext", 160, "", "mlp")),
    "timm FastViT": Kind(timm("fastvit_t8", 64, "avg", None), BOTH_WAYS, CUSTOM),
    "text from the last position": Kind(VIT, {"pool_type": "last", **BOTH_WAYS}, CUSTOM),
    "text from its end token by number": Kind(VIT, {"pool_type": "eos", "eos_id": 49407}),
    "custom text blocks": Kind(VIT, {"block_type": "custom", "qk_norm": True, "ls_init_value": 0.1}, CUSTOM | {"init_logit_bias": -10}),
}


def off_by(found: Any, expected: Any) -> float:
    """The difference as a share of the size."""
    return float(np.linalg.norm(np.asarray(found) - np.asarray(expected)) / np.linalg.norm(np.asarray(expected)))


def noise(clip: Clip, count: int) -> Tensor:
    return torch.randn(count, 3, *clip.image_settings()["image_size"], generator=torch.Generator().manual_seed(0))
