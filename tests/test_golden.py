"""Our heads against golden numbers of the systems they are named after (tests/golden/README.md).

Tolerances are absolute. They are those of the golden numbers: several times the largest difference that was seen between a system's own
float32 and float64 runs.

Shape suffixes: A texts, B videos, L words, F frames, D joint dimension, S the scores of a pair.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from train_head.heads import Head, HeadConfig, TextBatch, VideoBatch, make_head

GOLDEN = Path(__file__).parent / "golden"
Arrays = dict[str, NDArray[Any]]

BLOCK = {
    "ln_1": "norm1",
    "attn.in_proj_": "qkv",
    "attn.out_proj": "attention_out",
    "ln_2": "norm2",
    "mlp.c_fc": "mlp_in",
    "mlp.c_proj": "mlp_out",
}


def arrays(name: str) -> Arrays:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return dict(file)


def tensors(golden: Arrays, case: str, *names: str) -> list[Tensor]:
    """Inputs of a case; masks as bool."""
    found = [torch.from_numpy(golden[f"{case}_{name}"]) for name in names]
    return [value.bool() if name.endswith("mask") else value for name, value in zip(names, found, strict=True)]


@torch.no_grad()
def fill(head: Head, weights: dict[str, NDArray[Any]]) -> Head:
    """Give a head these weights, by its own names for them, and the logit scale of the golden files."""
    for name, value in {"logit_scale": np.float32(4.25), **weights}.items():
        head.get_parameter(name).copy_(torch.as_tensor(value))
    return head


def temporal_weights(golden: Arrays, head: Head) -> dict[str, NDArray[Any]]:
    """The two golden blocks; zeros at the end of both branches make the rest of our blocks the identity."""
    assert head.temporal is not None
    weights = {"temporal.positional_embedding": golden["position_embedding"]}
    for block in range(len(head.temporal.blocks)):
        for ours, theirs in BLOCK.items():
            for kind in ("weight", "bias"):
                name = f"temporal.blocks.{block}.{ours}{'' if ours.endswith('_') else '.'}{kind}"
                if block < 2:
                    weights[name] = golden[f"block{block}_{theirs}_{kind}"]
                elif ours in ("attn.out_proj", "mlp.c_proj"):
                    weights[name] = np.zeros(head.get_parameter(name).shape, dtype=np.float32)
    return weights


def make(golden: Arrays, name: str, temporal: bool = False, **settings: Any) -> Head:
    if temporal:
        settings |= {"temporal": "seq-transf", "temporal_positions": len(golden["position_embedding"]), "temporal_heads": 4}
    head = make_head(name, HeadConfig(32, max_words=12, logit_scale=1.0, max_frames=8, **settings)).requires_grad_(False)
    return fill(head, temporal_weights(golden, head)) if temporal else head


def sentences_alone(sentence_AD: Tensor) -> TextBatch:
    """Texts for a head that reads sentences alone."""
    return TextBatch(sentence_AD, sentence_AD, torch.ones(len(sentence_AD), dtype=torch.int64))


def near(found: Tensor, expected: NDArray[Any] | Tensor, tolerance: float) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=0, atol=tolerance, check_dtype=False)


@pytest.mark.parametrize("case", ["full", "padded", "small"])
def test_clip4clip_after_the_temporal_encoder(case: str) -> None:
    golden = arrays("clip4clip_seq_transf")
    head = fill(make(golden, "mean", temporal=True), {})
    sentence_AD, frame_BFD, mask_BF = tensors(golden, case, "sentences", "frames", "frame_mask")
    texts, videos = head.encode_texts(sentences_alone(sentence_AD)), head.encode_videos(VideoBatch(frame_BFD, mask_BF))
    scores_SAB = head.scores(texts, videos)
    near(scores_SAB[0] / head.scale(), golden[f"{case}_cosines"], 2e-6)
    near(scores_SAB[0], golden[f"{case}_scores"], 1e-4)
