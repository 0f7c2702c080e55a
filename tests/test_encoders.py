"""Every architecture of open_clip, and one of each kind of tower at work, beside open_clip's own functions.

Shape suffixes: N images, C colour channels, H and W image sides.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from extract import ExtractOptions
from extract.encode.clip import BATCH, check_features, load_clip
from extract.encode.library import list_models, open_clip
from extract.encode.models import find_model, load_tokenizer
from extract.encoders import judge
from tests.choice import long_but
from tests.conftest import ROOT
from tests.small_towers import CPU, CUSTOM, DIMENSION, KINDS, ROUNDING, TINY_TIMM, VIT, Kind, noise, off_by, timm
from train_head.training.finetune import save_clip
from train_head.training.towers import towers, train_above

SHARES = 12
"""Tests that the architectures are spread over."""
TEXTS = ["a dog", "the cat sat on the mat", "first a ring, then a large blue heart at the top " * 3]


def documented() -> dict[str, str]:
    """The rows of docs/design/encoders.md, by the architecture that they are of."""
    rows = [line for line in (ROOT / "docs/design/encoders.md").read_text().splitlines() if line.startswith("| ")]
    return {row.split("|")[1].strip(): row for row in rows if not row.startswith(("| architecture ", "| --- "))}


@pytest.mark.architectures
@pytest.mark.parametrize("share", range(SHARES))
def test_every_architecture_is_accepted_or_refused_as_the_page_says(share: int) -> None:
    """Run `python -m extract.encoders > docs/design/encoders.md` where this fails."""
    rows = documented()
    assert rows.keys() == set(list_models())
    for name in list_models()[share::SHARES]:
        verdict = judge(name)
        assert (verdict.accepted, verdict.row) == (rows[name].count("|") == 8, rows[name])


def patch_count(name: str, vision: dict[str, Any]) -> str:
    """The patch tokens of a picture, from the configuration and from what the names of timm's models say."""
    size, tower = vision["image_size"], vision.get("timm_model_name", "")
    patch = vision.get("patch_size")
    if tower:
        named = re.search(r"^(?:vit|eva\w*)_.*_patch(\d+)", tower)
        patch = int(named[1]) if named else 16 if tower.startswith(("vitamin", "vit_base_mci")) else None
    return str((size // patch) ** 2) if patch else "none"


def test_the_page_says_what_comes_from_hugging_face() -> None:
    """Beside open_clip's own configurations. No architecture is refused."""
    configs = Path(str(open_clip().__file__)).parent / "model_configs"
    counts = {"none": 0, "tokenizer": 0, "text tower and tokenizer": 0}
    for name, row in documented().items():
        config = json.loads((configs / f"{name}.json").read_text())
        text = config["text_cfg"]
        columns = [column.strip() for column in row.strip("|").split("|")]
        assert len(columns) == 7
        assert columns[1:3] == [str(config["embed_dim"]), "{0} x {0}".format(config["vision_cfg"]["image_size"])]
        assert columns[3] == str(text.get("context_length", 77))
        assert columns[4] == patch_count(name, config["vision_cfg"])
        repository, _, what = columns[5].partition(": ")
        assert repository == (text.get("hf_tokenizer_name") or "")
        assert text.get("hf_model_name") in (None, repository)
        assert ("text tower" in what) == ("hf_model_name" in text)
        counts[what or "none"] += 1
    assert counts == {"none": 95, "tokenizer": 39, "text tower and tokenizer": 10}


BERT_BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
BERT_LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
POSITIONS = {"max_position_embeddings": 514, "type_vocab_size": 1, "pad_token_id": 1}
NLLB = {"model_type": "m2m_100", "d_model": 1024, "encoder_attention_heads": 16, "vocab_size": 256206, "max_position_embeddings": 1024}
MT5 = {"model_type": "mt5", "is_encoder_decoder": True, "feed_forward_proj": "gated-gelu", "vocab_size": 250112, "d_kv": 64}
PUBLISHED: dict[str, dict[str, Any]] = {
    "roberta-base": {"model_type": "roberta", "vocab_size": 50265, **BERT_BASE, **POSITIONS},
    "xlm-roberta-base": {"model_type": "xlm-roberta", "vocab_size": 250002, **BERT_BASE, **POSITIONS},
    "xlm-roberta-large": {"model_type": "xlm-roberta", "vocab_size": 250002, **BERT_LARGE, **POSITIONS},
    "facebook/nllb-200-distilled-600M": {"encoder_layers": 12, "encoder_ffn_dim": 4096, **NLLB},
    "facebook/nllb-200-distilled-1.3B": {"encoder_layers": 24, "encoder_ffn_dim": 8192, **NLLB},
    "google/mt5-base": {"d_model": 768, "d_ff": 2048, "num_layers": 12, "num_heads": 12, **MT5},
    "google/mt5-xl": {"d_model": 2048, "d_ff": 5120, "num_layers": 24, "num_heads": 32, **MT5},
}
"""Sizes of the Hugging Face text towers that open_clip names."""


@pytest.mark.architectures
def test_text_towers_from_hugging_face_fit_where_open_clip_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At their published sizes. The page looks at the rest of these architectures alone."""
    monkeypatch.chdir(tmp_path)  # transformers and we take a folder of a repository's name for the repository
    for name, content in PUBLISHED.items():
        Path(name).mkdir(parents=True)
        (Path(name) / "config.json").write_text(json.dumps(content))
    found = [model for name in list_models() if (model := find_model(name, "random")).hugging_face_tower is not None]
    assert {model.hugging_face_tower for model in found} == PUBLISHED.keys()
    any_tokenizer = load_tokenizer("ViT-B-32", "letters")
    for model in found:
        assert model.tower_config() == PUBLISHED[str(model.hugging_face_tower)]
        shape = check_features(model, any_tokenizer)
        assert (shape.positions, shape.dimension) == (77, model.dimension)


def open_clips(encode: Callable[[Tensor], Any], inputs: Tensor) -> Tensor:
    """What a function of open_clip's makes; some give the features of patches or tokens beside."""
    with torch.no_grad():
        made = encode(inputs)
    feature: Tensor = made[0] if isinstance(made, tuple) else made
    return feature


# EVA's tower is built at its full size, which takes as long as all others together.
@pytest.mark.exact
@pytest.mark.parametrize("kind", long_but(["ViT", "timm ViT", "timm ConvNeXt", "ResNet"], KINDS))
def test_features_are_open_clips(kind: str, tmp_path: Path) -> None:
    clip = load_clip(KINDS[kind].folder(tmp_path), "random", CPU, seed=1)
    assert clip.dimension == DIMENSION
    image_NCHW = noise(clip, 3)
    features = clip.encode_images(image_NCHW).feature_ND
    assert features.shape == (3, DIMENSION)
    assert off_by(features, open_clips(clip.model.encode_image, image_NCHW)) < ROUNDING
    ids, lengths = clip.tokenize(TEXTS, clip.context_length)
    assert lengths.tolist() == [4, 8, 20]
    sentences, words = clip.encode_texts(ids)
    assert words.shape == (3, clip.context_length, DIMENSION)
    assert off_by(sentences, open_clips(clip.model.encode_text, ids)) < ROUNDING
    end = {"last": [19, 19, 19]}.get(KINDS[kind].text.get("pool_type", ""), [length - 1 for length in lengths])
    assert off_by(np.stack([words[n, position] for n, position in enumerate(end)]), sentences) < ROUNDING
    # Bit for bit: the same alone and at any place of a full batch.
    alone = clip.encode_images(image_NCHW[2:]).feature_ND[0]
    full = clip.encode_images(image_NCHW.repeat(BATCH // 3, 1, 1, 1)).feature_ND
    for feature in (features[2], *full[2::3]):
        np.testing.assert_array_equal(feature, alone)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "kind",
    long_but(["timm ViT", "ViT, mean of patches"], ["timm ViT", "ViT, mean of patches", "timm ConvNeXt", "timm FastViT"]),
)
def test_lower_precision_is_open_clips_own(kind: str, precision: Literal["bf16", "fp16"], tmp_path: Path) -> None:
    """The same weights in a network that open_clip builds for the precision, and the preprocessing of the folder."""
    preprocess = {"mean": [0.1, 0.2, 0.3], "std": 0.5, "interpolation": "bilinear", "resize_mode": "squash"}
    model = KINDS[kind].folder(tmp_path, preprocess)
    plain, low = (load_clip(model, "random", CPU, 1, asked) for asked in ("fp32", precision))
    assert (low.digest, low.image_settings()) == (plain.digest, plain.image_settings())
    assert low.image_settings()["image_std"] == [0.5, 0.5, 0.5]
    assert [repr(step) for step in low.transform.transforms] == [repr(step) for step in plain.transform.transforms]
    own = open_clip().create_model(model, precision=precision, load_weights=False).eval()
    own.load_state_dict(plain.model.state_dict())
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    image_NCHW = noise(low, BATCH)
    np.testing.assert_array_equal(low.encode_images(image_NCHW).feature_ND, open_clips(own.encode_image, image_NCHW.to(dtype)).float())
    ids, _ = low.tokenize(TEXTS, low.context_length)
    # A step of bfloat16 is 2^-8, one of float16 2^-11; a few of them in a sum.
    assert off_by(low.encode_texts(ids)[0], open_clips(own.encode_text, ids).float()) < 4 * torch.finfo(dtype).eps


def test_a_text_projection_with_a_bias_is_float32_only(tmp_path: Path) -> None:
    """open_clip casts no such projection beside an image tower of its own."""
    model = Kind(VIT, {"proj_bias": True}).folder(tmp_path)
    assert load_clip(model, "random", CPU).dimension == DIMENSION
    with pytest.raises(UserError, match=r"cannot be built in --precision bf16: .*: use --precision fp32$"):
        load_clip(model, "random", CPU, precision="bf16")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Kind(timm("no_such_network", 64, "avg", "linear")), "cannot be built: Unknown model"),
        (Kind(timm("eva02_tiny_patch14_224", 48, "avg", "linear")), "fails on pictures of its own size, 48x48: .*224"),
        (Kind(timm("test_vit", 160, "token", "none")), r"gives image features of shape \[64\], its joint dimension \(embed_dim\) is 48"),
        (Kind(VIT | {"patch_size": 0}), "cannot be built"),
        (Kind(VIT | {"colour": "red"}), "cannot be built: .*colour"),
        (Kind(VIT, {"heads": 3}), "cannot be built"),
        (Kind(VIT, {"pool_type": "none"}), "gives sentence features of shape"),
        (Kind(VIT, {"proj_type": "none"}), r"gives sentence features of shape \[32\], its joint dimension \(embed_dim\) is 48"),
        (Kind(VIT, {"vocab_size": 1000}), "has a text tower for 1,000 tokens, its tokenizer makes 49,408"),
        (
            Kind(VIT, {"hf_tokenizer_name": "t5-base"}),
            "its tokenizer cannot be built .*: put the files of t5-base next to",
        ),
        (Kind(VIT, {"hf_tokenizer_name": ["t5-base"]}), "hf_tokenizer_name of its text_cfg is not a name"),
        (Kind(VIT, {"tokenizer_kwargs": {"reduction_mask": "random"}}), "leaves out words"),
        (Kind(VIT, {"tokenizer_kwargs": {"additional_special_tokens": ["<x>"]}}), "special tokens beyond its end token"),
        (Kind(VIT, {"tokenizer_kwargs": {"clean": "soap"}}), "its tokenizer cannot be built"),
        (Kind(VIT, {"tokenizer_kwargs": {"context_length": 8}}), "has a context_length: put it into the text_cfg itself"),
        (Kind(VIT, model=CUSTOM | {"multimodal_cfg": {"colour": "red"}}), "cannot be built: .*colour"),
        (Kind(VIT, model={"embed_dim": "wide"}), "has an invalid embed_dim"),
    ],
)
def test_models_that_do_not_work_are_refused_in_one_line(kind: Kind, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load_clip(kind.folder(tmp_path), "random", CPU)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "lacks embed_dim, vision_cfg, text_cfg"),
        ('{"model_cfg": {"embed_dim": 8, "vision_cfg": {}}}', "lacks text_cfg"),
        ('{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": []}}', "has an invalid text_cfg"),
    ],
)
def test_a_configuration_that_is_none_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(UserError, match=message) as refusal:
        load_clip(f"local-dir:{tmp_path}", None, CPU)
    assert "\n" not in str(refusal.value)


@pytest.mark.long
def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    """In a file and in a folder, and files that hold no weights at all."""
    save_clip(load_clip(KINDS["ViT"].folder(tmp_path / "one"), "random", CPU), tmp_path / "one")
    shutil.copy(tmp_path / "one" / "open_clip_model.safetensors", tmp_path / "weights.safetensors")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    torch.save({}, tmp_path / "nothing.pt")
    torch.save({"positional_embedding": torch.zeros(5, 7)}, tmp_path / "narrow.pt")
    for name, content in (("empty.pt", b""), ("empty.safetensors", b""), ("text.npz", b"no"), ("zip.pt", b"PK\x03\x04")):
        (tmp_path / name).write_bytes(content)
    for file in ("weights.safetensors", "list.pt", "nothing.pt", "narrow.pt", "empty.pt", "empty.safetensors", "text.npz", "zip.pt"):
        with pytest.raises(UserError, match=rf"--pretrained .*{file} does not hold weights of ViT-S-32-alt: .") as refusal:
            load_clip("ViT-S-32-alt", str(tmp_path / file), CPU)
        assert "\n" not in str(refusal.value)
    other = TINY_TIMM.folder(tmp_path / "one")
    with pytest.raises(UserError, match=r"open_clip_model\.safetensors does not hold weights of local-dir:"):
        load_clip(other, None, CPU)


def test_a_timm_model_from_videos_to_fine_tuned_weights(demo_set: Path, tmp_path: Path) -> None:
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bilinear", "resize_mode": "squash"}
    model = TINY_TIMM.folder(tmp_path / "model", preprocess)
    names = [f"video{i}.mp4" for i in range(3)]
    pd.DataFrame({"video": names, "caption": ["a ring", "a red star", "a ring"], "split": "test"}).to_csv(tmp_path / "t.csv", index=False)
    options = ExtractOptions(
        videos=demo_set / "videos", annotations=tmp_path / "t.csv", cache=tmp_path / "cache", model=model, pretrained="random",
        max_frames=2, seed=4, device="cpu", dtype="float32", quiet=True,
    )  # fmt: skip
    extract.main(replace(options, dry_run=True))
    cache = FeatureCache(extract.main(options))
    assert (cache.dimension, cache.settings["image_resize"], cache.settings["max_words"]) == (DIMENSION, "bilinear, squash", 20)
    clip = load_clip(model, "random", CPU, seed=4)
    text = cache.texts(["a ring"], 2**20)
    sentence, words = clip.encode_texts(clip.tokenize(["a ring"], 20)[0])
    assert off_by(text.sentences.gather([0])[0], sentence) < ROUNDING
    assert off_by(text.words.gather([0])[0], words[0, :4]) < ROUNDING
    # The new weights carry the preprocessing on.
    tuned = load_clip(model, "random", CPU, seed=5)
    digest = save_clip(tuned, tmp_path / "tuned")
    again = FeatureCache(extract.main(replace(options, model=f"local-dir:{tmp_path / 'tuned'}", pretrained=None, cache=tmp_path / "again")))
    assert again.weights == digest
    changed = {name for name, value in again.settings.items() if cache.settings[name] != value}
    assert changed == {"weights"}


@pytest.mark.parametrize(
    ("kind", "blocks", "before", "after"),
    [
        ("timm ViT", 6, {"cls_token", "pos_embed", "patch_embed", "norm_pre"}, {"norm", "head"}),
        ("timm EVA", 12, {"cls_token", "pos_embed", "patch_embed"}, {"norm", "head"}),
        ("timm ConvNeXt", 9, {"stem"}, {"head"}),
        ("timm FastViT", 10, {"stem"}, {"final_conv", "head"}),
    ],
)
def test_blocks_of_timm_towers_are_counted_from_the_input(
    kind: str, blocks: int, before: set[str], after: set[str], tmp_path: Path
) -> None:
    """Trained above n blocks: what follows them always, what comes before them never, and of the blocks the later ones."""
    clip = load_clip(KINDS[kind].folder(tmp_path), "random", CPU)
    both = towers(clip.model, clip.text_tower)
    image = both[0].blocks
    assert image is not None
    assert len(image) == blocks
    names = {parameter: name.removeprefix("visual.") for name, parameter in clip.model.visual.named_parameters()}
    in_blocks = {names[parameter] for block in image for parameter in block}
    for frozen in (0, 2):
        trained = {name.removeprefix("visual.") for name in train_above(clip.model, both, frozen) if name.startswith("visual.")}
        still = {names[parameter] for block in image[:frozen] for parameter in block}
        assert trained & in_blocks == in_blocks - still
        others = set(names.values()) - in_blocks
        assert {name.split(".")[1] for name in others & trained if name.startswith("trunk.")} <= after
        assert {name for name in others if name.startswith("head.")} <= trained
        assert {name.split(".")[1] for name in others - trained} <= before
    clip.image_features(noise(clip, 2)).sum().backward()
    assert all(parameter.grad is not None for name, parameter in clip.model.visual.named_parameters() if parameter.requires_grad)
