"""Encoding on a CPU by other means than torch's BLAS in float32: the same features within a tolerance, in a cache of their own."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from benchmarks.encoding.options import EncodingOptions
from benchmarks.encoding.ways import main as measure
from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.arithmetic import exact_arithmetic
from data.compute.processor import INSTRUCTIONS, slow_here
from extract import ExtractOptions, main
from extract.encode.clip import BATCH, load_clip
from extract.encode.reload import reload_clip
from tests.conftest import DEMO_CLIP
from tests.torch_threads import threads

CPU = torch.device("cpu")
WAYS: dict[str, dict[str, Any]] = {"onednn": {"matmul": "onednn"}, "bf16": {"precision": "bf16"}}
TOLERANCE = {"onednn": 1e-5, "bf16": 0.03}
"""Largest length of a difference to float32's feature, divided by the feature's. A step of bfloat16 is 2^-8."""
TEXTS = [f"a person who {verb} a {noun}" for verb in ("throws", "paints", "eats") for noun in ("ball", "wall", "red apple", "kite")]


def error(feature_ND: NDArray[np.float32], expected_ND: NDArray[np.float32]) -> float:
    return float((np.linalg.norm(feature_ND - expected_ND, axis=-1) / np.linalg.norm(expected_ND, axis=-1)).max())


# Processors without instructions for bfloat16 would take minutes for the larger one.
MODELS = [pytest.param(DEMO_CLIP, marks=pytest.mark.exact), pytest.param("ViT-S-32-alt", marks=pytest.mark.long)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_features_are_float32s_within_the_tolerance_and_stand_alone(model: str, way: str) -> None:
    """Of pictures and texts; bit for bit the same at any place of a batch, and with any number of threads."""
    plain, other = (load_clip(model, "random", CPU, 1, **options) for options in ({}, WAYS[way]))
    assert other.digest == plain.digest
    generator = torch.Generator().manual_seed(0)
    image_NCHW = torch.randn(BATCH, 3, *plain.image_settings()["image_size"], generator=generator)
    order = torch.randperm(BATCH, generator=generator)
    feature_ND = other.encode_images(image_NCHW).feature_ND
    expected_ND = plain.encode_images(image_NCHW).feature_ND
    assert error(feature_ND, expected_ND) < TOLERANCE[way]
    with threads(2):
        np.testing.assert_array_equal(other.encode_images(image_NCHW[order]).feature_ND, feature_ND[order])
    np.testing.assert_array_equal(other.encode_images(image_NCHW[5:6]).feature_ND[0], feature_ND[5])
    ids_NL = plain.tokenize(TEXTS, 10)[0][:, :10]
    sentence_ND, token_NLD = other.encode_texts(ids_NL)
    assert error(sentence_ND, plain.encode_texts(ids_NL)[0]) < TOLERANCE[way]
    for found, whole in zip(other.encode_texts(ids_NL[7:8]), (sentence_ND, token_NLD), strict=True):
        np.testing.assert_array_equal(found[0], whole[7])


@pytest.mark.parametrize("way", WAYS)
def test_the_best_video_of_the_demos_captions_is_the_same(own_cache_options: ExtractOptions, cache: FeatureCache, way: str) -> None:
    """The cache says how it was made, is followed, and is refused to others; search encodes queries as it says."""
    options = replace(own_cache_options, **WAYS[way])
    made = FeatureCache(main(options))
    assert made.settings == {**cache.settings, **WAYS[way]}
    assert main(own_cache_options) == made.path
    other: dict[str, Any] = {"onednn": {"matmul": "blas"}, "bf16": {"precision": "fp32"}}[way]
    with pytest.raises(UserError, match=next(iter(other))):
        main(replace(own_cache_options, **other))
    clip = reload_clip(made, CPU)
    assert {name: getattr(clip, name) for name in WAYS[way]} == WAYS[way]
    names, texts = cache.names("videos"), cache.names("texts")

    def best(of: FeatureCache) -> NDArray[np.int64]:
        video_VD = np.stack([of.frames(name).astype(np.float32).mean(axis=0) for name in names])
        text_TD = np.stack([of.sentence(text).astype(np.float32) for text in texts])
        return np.asarray((text_TD @ (video_VD / np.linalg.norm(video_VD, axis=1, keepdims=True)).T).argmax(axis=1))

    agreement = (best(made) == best(cache)).mean()
    assert agreement >= {"onednn": 1.0, "bf16": 0.95}[way]


def test_gradients_pass_through_layers_of_onednn() -> None:
    """Fine-tuning differentiates them."""
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    input_NLW = torch.randn(3, 10, 32, generator=generator, requires_grad=True)
    found = []
    for matmul in ("blas", "onednn"):
        with exact_arithmetic(torch.device("cpu"), matmul):
            mixed_NLW = layer(input_NLW, input_NLW, input_NLW, need_weights=False)[0]
        found.append(torch.autograd.grad(mixed_NLW.square().sum(), [input_NLW, *layer.parameters()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.exact
def test_self_attention_in_one_operation() -> None:
    """torch's own, of a layer in evaluation; an image at any place of a batch has the same bits."""
    layer = torch.nn.MultiheadAttention(96, 4, batch_first=True).eval()
    input_NLW = torch.randn(1, 50, 96, generator=torch.Generator().manual_seed(0)).repeat(BATCH, 1, 1)
    found = []
    for matmul in ("blas", "onednn"):
        with torch.no_grad(), threads(2), exact_arithmetic(torch.device("cpu"), matmul):
            found.append(layer(input_NLW, input_NLW, input_NLW, need_weights=False)[0])
    assert (found[1] == found[1][:1]).all()
    assert not torch.equal(*found)
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-5)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="--matmul onednn is for --precision fp32, and this is bf16: leave one of both out"):
        load_clip(DEMO_CLIP, None, CPU, precision="bf16", matmul="onednn")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(UserError, match="torch is built without oneDNN here: use --matmul blas"):
        load_clip(DEMO_CLIP, None, CPU, matmul="onednn")


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_without_instructions_is_said_to_be_slow(precision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True})
    assert slow_here(precision, CPU) == f"--precision {precision} is slower than fp32 here: this processor has no instructions for it"
    assert slow_here("fp32", CPU) is None
    assert slow_here(precision, torch.device("cuda")) is None
    for name in INSTRUCTIONS[precision]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda name=name: {name: True})
        assert slow_here(precision, CPU) is None


def test_the_benchmark_compares_all_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    figures = measure(EncodingOptions(DEMO_CLIP, threads=1, repeats=1, compiled="", out=out))
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == figures == json.loads(out.read_text())["figures"]
    rows = {row["way"]: row for row in figures["ways"]}
    assert rows["fp32"]["same bits"]
    assert 0 < rows["--matmul onednn"]["error"] < TOLERANCE["onednn"]
    assert TOLERANCE["onednn"] < rows["--precision bf16"]["error"] < TOLERANCE["bf16"]
    with pytest.raises(UserError, match="--compiled RN50: must be among --models ViT-B-32"):
        measure(EncodingOptions("ViT-B-32", compiled="RN50", out=out))
