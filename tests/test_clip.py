"""Features as open_clip itself makes them, and models that are refused."""

import json
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from data.base.errors import UserError
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.texts import encode_texts
from extract.encode.towers import OpenClipTower
from tests.conftest import DEMO_CLIP, ROOT

CPU = torch.device("cpu")
TEXTS = [
    "a small red star",
    "hello!",
    "a person is connecting something to system",
    "first a ring, then a large blue heart at the top " * 3,
]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(DEMO_CLIP, None, CPU)


def config(tmp_path: Path, change: Any) -> str:
    """A folder with the demo's configuration, changed; it has no weights."""
    content = json.loads((ROOT / "demo/clip/open_clip_config.json").read_text())
    change(content["model_cfg"])
    (tmp_path / "open_clip_config.json").write_text(json.dumps(content))
    return f"local-dir:{tmp_path}"


def test_preprocessing_is_open_clips_own(clip: Clip) -> None:
    noise = np.random.default_rng(0).integers(0, 256, size=(90, 150, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    torch.testing.assert_close(clip.to_tensor(clip.shrink(image)), clip.transform(image), rtol=0, atol=0)


def test_tokens_follow_clips_rule(clip: Clip) -> None:
    """Vectors of the field's own tokenizer."""
    ids, lengths = clip.tokenize([TEXTS[2], "Happy and content\n"], 12)
    assert ids[0, :12].tolist() == [49406, 320, 2533, 533, 41429, 2006, 531, 2422, 49407, 0, 0, 0]
    assert ids[1, :6].tolist() == [49406, 900, 537, 4750, 49407, 0]
    assert lengths.tolist() == [9, 5]
    ids, lengths = clip.tokenize([TEXTS[2]], 6)
    assert ids.shape == (1, clip.context_length)
    assert ids[0, :7].tolist() == [49406, 320, 2533, 533, 41429, 49407, 0]
    assert lengths.tolist() == [6]


@pytest.mark.parametrize("custom", [False, True])
def test_token_features_are_the_text_towers(tmp_path: Path, custom: bool) -> None:
    """Both model classes: the sentence is open_clip's own, and it is the feature of the end token."""
    model = config(tmp_path, lambda cfg: cfg.update(custom_text=custom))
    clip = load_clip(model, "random", CPU, seed=3)
    assert type(clip.model).__name__ == ("CustomTextCLIP" if custom else "CLIP")
    ids, lengths = clip.tokenize(TEXTS, clip.context_length)
    sentences, words = clip.encode_texts(ids)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(sentences), clip.model.encode_text(ids), rtol=1e-4, atol=1e-5)
    for i, length in enumerate(lengths):
        np.testing.assert_allclose(words[i, length - 1], sentences[i], rtol=1e-4, atol=1e-5)
    assert words.shape == (len(TEXTS), clip.context_length, clip.dimension)
    assert np.abs(sentences).max() > 1.5  # not normalised


@pytest.mark.exact
def test_features_depend_neither_on_neighbours_nor_on_the_place_in_a_batch(clip: Clip) -> None:
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(BATCH, generator=generator)
    images = torch.randn(BATCH, 3, 64, 64, generator=generator)
    together = clip.encode_images(images).feature_ND
    np.testing.assert_array_equal(clip.encode_images(images[order]).feature_ND, together[order])
    for i in (0, 5, BATCH - 1):
        np.testing.assert_array_equal(clip.encode_images(images[i : i + 1]).feature_ND[0], together[i])
    for positions in (6, 10, 16, clip.context_length):
        ids = clip.tokenize([f"a red ring {i} {text}" for i in range(BATCH // len(TEXTS)) for text in TEXTS], positions)[0][:, :positions]
        sentences, words = clip.encode_texts(ids)
        again = clip.encode_texts(ids[order])
        np.testing.assert_array_equal(again[0], sentences[order])
        np.testing.assert_array_equal(again[1], words[order])
        for i in (0, 7, BATCH - 1):
            sentence, word = clip.encode_texts(ids[i : i + 1])
            np.testing.assert_array_equal(sentence[0], sentences[i])
            np.testing.assert_array_equal(word[0], words[i])


@pytest.mark.parametrize("custom", [False, True])
def test_causal_towers_run_at_the_length_of_the_text(tmp_path: Path, custom: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Features equal those of all 77 positions, and do not depend on the order of the texts."""
    clip = load_clip(config(tmp_path, lambda cfg: cfg.update(custom_text=custom)), "random", CPU, seed=3)
    texts = [f"{text} {i}" for i in range(12) for text in [*TEXTS, "a", "a ring and " * 12]]
    run: list[int] = []
    clip.model.get_submodule("text" if custom else "").ln_final.register_forward_hook(lambda _m, _i, output: run.append(output.shape[1]))
    found = {entry.text: entry for batch in encode_texts(texts, clip, 32) for entry in batch}
    assert len(found) == len(texts)
    ids, lengths = clip.tokenize(texts, 32)
    assert set(run) == {int(length) + int(length) % 2 for length in lengths}
    other = {entry.text: entry for batch in encode_texts(texts[:40][::-1], clip, 32) for entry in batch}
    for i, text in enumerate(texts):
        np.testing.assert_allclose(found[text].sentence_D, clip.model.encode_text(ids[i : i + 1])[0], rtol=0, atol=1e-5)
        if text in other:
            assert other[text].words_TD.tobytes() == found[text].words_TD.tobytes()
    with torch.no_grad():
        _, whole_NLD = OpenClipTower(clip.model, clip.context_length).features(ids)
    for text, whole_LD in zip(texts, whole_NLD, strict=True):
        words_TD = found[text].words_TD
        np.testing.assert_allclose(words_TD, whole_LD[: len(words_TD)], rtol=0, atol=1e-5)


def test_other_towers_run_at_full_length(tmp_path: Path) -> None:
    def change(cfg: dict[str, Any]) -> None:
        cfg["custom_text"] = True
        cfg["text_cfg"].update(no_causal_mask=True)

    clip = load_clip(config(tmp_path, change), "random", CPU, seed=3)
    assert clip.positions(5) == clip.context_length
    entry = next(encode_texts(TEXTS[:1], clip, 32))[0]
    with torch.no_grad():
        expected = clip.model.encode_text(clip.tokenize(TEXTS[:1], 32)[0])
    np.testing.assert_allclose(entry.sentence_D, expected[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precision_is_the_same_model_roughly(clip: Clip, precision: Literal["bf16", "fp16"]) -> None:
    low = load_clip(DEMO_CLIP, None, CPU, precision=precision)
    assert (low.digest, low.precision) == (clip.digest, precision)
    images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for one, other in [
        (clip.encode_images(images).feature_ND, low.encode_images(images).feature_ND),
        *zip(clip.encode_texts(clip.tokenize(TEXTS, 32)[0]), low.encode_texts(clip.tokenize(TEXTS, 32)[0]), strict=True),
    ]:
        assert not np.array_equal(one, other)
        assert np.linalg.norm(one - other) < 0.03 * np.linalg.norm(one)


def test_random_weights_follow_the_seed() -> None:
    digests = [load_clip(DEMO_CLIP, "random", CPU, seed).digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1] != digests[2]
    assert load_clip(DEMO_CLIP, None, CPU).digest not in digests


def test_the_digest_is_of_the_weights_not_of_the_file(clip: Clip, tmp_path: Path) -> None:
    shutil.copy(ROOT / "demo/clip/open_clip_config.json", tmp_path)
    save_file({name: value.contiguous() for name, value in clip.model.state_dict().items()}, tmp_path / "model.safetensors")
    assert load_clip(f"local-dir:{tmp_path}", None, CPU).digest == clip.digest


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_weights_are_taken_from_a_file(tmp_path: Path) -> None:
    """A built-in model with a checkpoint on disk: pickled, safetensors, and a TorchScript archive, the form OpenAI published."""
    name = "ViT-S-32-alt"
    made = load_clip(name, "random", CPU, seed=5)
    state = {key: value.contiguous() for key, value in made.model.state_dict().items()}
    torch.save(state, tmp_path / "weights.pt")
    save_file(state, tmp_path / "weights.safetensors")

    # The published archives hold the attention mask as a constant, not among the weights.
    made.model.__dict__["attn_mask"] = made.model._buffers.pop("attn_mask")
    inputs = torch.zeros(1, 3, 224, 224), made.tokenize(["a"], made.context_length)[0]
    torch.jit.trace(made.model, inputs, check_trace=False).save(tmp_path / "archive.pt")
    for file in ("weights.pt", "weights.safetensors", "archive.pt"):
        assert load_clip(name, str(tmp_path / file), CPU).digest == made.digest
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"broken\.pt does not hold weights of ViT-S-32-alt"):
        load_clip(name, str(tmp_path / "broken.pt"), CPU)


def class_token(cfg: dict[str, Any]) -> None:
    cfg["custom_text"] = True
    cfg["text_cfg"].update(embed_cls=True)


@pytest.mark.parametrize(
    ("model", "pretrained", "message"),
    [
        ("ViT-B-33", "random", "unknown to open_clip; did you mean: ViT-B-32"),
        ("ViT-B-32-quickgelu", None, "--pretrained is missing: one of .*openai"),
        ("ViT-B-32-quickgelu", "no-such-tag", "neither a file nor a tag"),
        ("local-dir:no/such/folder", None, r"no open_clip_config\.json"),
        (DEMO_CLIP, "openai", "brings its own weights"),
    ],
)
def test_unknown_models_and_weights_are_refused(model: str, pretrained: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        load_clip(model, pretrained, CPU)
    assert "\n" not in str(refusal.value)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        load_clip(config(tmp_path, lambda cfg: None), None, CPU)


def test_a_class_token_beside_the_text_is_no_token_of_it(tmp_path: Path) -> None:
    """As in CoCa. The tokens see neither the class token nor padding, so that they are as without both."""
    clip = load_clip(config(tmp_path, class_token), "random", CPU, seed=3)
    ids, lengths = clip.tokenize(TEXTS, 32)
    sentences, words = clip.encode_texts(ids)
    tower: Any = clip.text_tower
    with torch.no_grad():
        np.testing.assert_allclose(sentences, clip.model.encode_text(ids), rtol=1e-4, atol=1e-5)
        for row, length, word_LD in zip(ids, lengths.tolist(), words, strict=True):
            embedded = tower.token_embedding(row[:length]) + tower.positional_embedding[:length]
            hidden = tower.transformer(embedded[None], attn_mask=tower.attn_mask[:length, :length])[0]
            expected = tower.ln_final(hidden) @ tower.text_projection
            np.testing.assert_allclose(word_LD[:length], expected, rtol=1e-4, atol=1e-5)


def test_stage_two_gets_the_first_four_blocks(clip: Clip) -> None:
    parts = clip.parts()
    assert parts.heads == 2
    assert parts.activation == "QuickGELU"
    assert parts.logit_scale == pytest.approx(float(clip.model.logit_scale.exp()))
    assert {name.split(".")[1] for name in parts.tensors if name.startswith("blocks.")} == {"0", "1", "2", "3"}
    state = clip.model.state_dict()
    for name, value in parts.tensors.items():
        key = name.replace("blocks.", "transformer.resblocks.") if name.startswith("blocks.") else name
        np.testing.assert_array_equal(value, state[key].numpy())
