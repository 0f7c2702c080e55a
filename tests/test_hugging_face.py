"""Tokenizers from Hugging Face: where they cut a text, which words they know, how they spell it, and what is not a usable one."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.extraction import Extraction
from extract.encode.clip import load_clip
from extract.encode.hugging_face import HuggingFaceTokenizer
from extract.encode.library import open_clip
from extract.encode.models import load_tokenizer
from extract.encode.reload import reload_clip
from extract.encode.tokens import Cut
from search.retrieval.chance import RANDOM_QUERIES
from tests.choice import long_but
from tests.tiny_encoders import ENGLISH, FAMILIES, FOREIGN
from train_head.training.finetune import save_clip
from train_head.training.towers import towers, train_above

CPU = torch.device("cpu")
KINDS = [name for name, family in FAMILIES.items() if family.tokenizer is not None]
"""The families with such a tokenizer."""
TOWERS = [name for name, family in FAMILIES.items() if family.tower is not None]
"""The families with such a text tower."""
WORDS = ["dog", "castle", "skateboarder", "xqzvw", "2", "狗", "läuft"]


@pytest.fixture(scope="session")
def tokenizer_of(family_model: Callable[[str], str]) -> Callable[[str], HuggingFaceTokenizer]:
    """The tokenizer of a family; each is loaded once."""
    loaded: dict[str, HuggingFaceTokenizer] = {}

    def load(name: str) -> HuggingFaceTokenizer:
        if name not in loaded:
            tokenizer = load_tokenizer(family_model(name), "letters")
            assert isinstance(tokenizer, HuggingFaceTokenizer)
            loaded[name] = tokenizer
        return loaded[name]

    return load


@pytest.mark.parametrize("name", KINDS)
@settings(deadline=None, max_examples=20)
@given(words=st.lists(st.sampled_from(WORDS), max_size=12), most=st.integers(4, 24))
def test_where_a_text_is_cut(name: str, tokenizer_of: Callable[[str], HuggingFaceTokenizer], words: list[str], most: int) -> None:
    """By encoding ever more of its words, until one does not fit."""
    tokenizer = tokenizer_of(name)
    cut = tokenizer.cut_of(" ".join(words), most)
    # CLIPA takes the end token away after the cut, so that its place stays empty.
    room = most - (name == "CLIPA")
    fit = [len(tokenizer.encode(" ".join(words[:count]))) for count in range(len(words) + 1)]
    assert len(tokenizer.cut(tokenizer.encode(" ".join(words)), most)) == min(room, fit[-1])
    if fit[-1] <= room:
        assert cut is None
        return
    whole = max(count for count, length in enumerate(fit) if length <= room)
    full = fit[whole] == room
    assert cut == (Cut(words[whole - 1], False, most) if full else Cut(words[whole], True, most))


@pytest.mark.parametrize("name", KINDS)
def test_tokens_are_spelled_as_the_words_they_make(name: str, tokenizer_of: Callable[[str], HuggingFaceTokenizer]) -> None:
    tokenizer = tokenizer_of(name)
    marks = tokenizer.spell("", 64)
    only_after = {"SigLIP", "SigLIP at 64", "SigLIP i18n", "SigLIP 2", "mT5"}
    assert tokenizer.marks == ((0, 1) if name in only_after else (1, 0) if name == "CLIPA" else (1, 1))
    for text in ENGLISH:
        spelled = tokenizer.spell(text, 64)
        assert len(spelled) == len(tokenizer.encode(text))
        words = "".join(token for token in spelled if token not in marks)
        kept = text if "," in words else text.replace(",", "")
        assert words == f"{kept.replace(',', ' ,') if ' ,' in words else kept} "
    end = marks[-1:] if name != "CLIPA" else []
    # The last token ends a word then.
    assert [token.strip() for token in tokenizer.spell(ENGLISH[0], 6)] == [*map(str.strip, tokenizer.spell(ENGLISH[0], 64)[:5]), *end]


@pytest.mark.parametrize("name", KINDS)
def test_random_words_are_single_tokens_and_the_same_again(name: str, tokenizer_of: Callable[[str], HuggingFaceTokenizer]) -> None:
    tokenizer = tokenizer_of(name)
    for count in (1, 5, 60):
        texts = [tokenizer.random_words(count, seed) for seed in range(RANDOM_QUERIES)]
        assert {len(tokenizer.encode(text)) for text in texts} == {count + tokenizer.empty_length}
        assert texts == [tokenizer.random_words(count, seed) for seed in range(RANDOM_QUERIES)]
        # The least of these vocabularies has five whole words.
        assert len(set(texts)) >= 5
    assert tokenizer.encode("") == tokenizer.encode("  ")
    assert len(tokenizer.encode("")) == tokenizer.empty_length


def test_a_vocabulary_of_bytes_has_random_words(tmp_path: Path) -> None:
    """ByT5's, in which no word is one token."""
    from transformers import ByT5Tokenizer

    ByT5Tokenizer().save_pretrained(tmp_path)
    tokenizer = HuggingFaceTokenizer(open_clip().tokenizer.HFTokenizer(tmp_path, context_length=64), {}, "letters")
    texts = [tokenizer.random_words(5, seed) for seed in range(RANDOM_QUERIES)]
    assert {len(text.split()) for text in texts} == {5}
    assert len(set(texts)) > 1
    assert tokenizer.encode("a 狗") == [100, 35, 234, 142, 154, 1]


@pytest.mark.parametrize(
    ("name", "known", "unknown"),
    [
        ("XLM-R", ["dog", "Hund", "一只狗", "कुत्ता", "كلب", "xqzvw dog"], ["xqzvw kjhsdf", "Ω", "!!! ---", "🐶", "x"]),
        ("SigLIP 2", ["dog", "狗", "läuft"], ["xqzvw kjhsdf", "Ωψ", "!!", "🐶"]),
        ("RoBERTa", ["castle", "playing"], ["xqzvw", "一只狗在草地上奔跑", "собака", "…"]),
        ("CLIPA", ["Castle", "playing"], ["xqzvw", "狗", "собака"]),
        ("NLLB", ["Hund", "一个男人"], ["xqzvw kjhsdf", "Ω"]),
    ],
)
def test_which_words_are_known(
    name: str, known: list[str], unknown: list[str], tokenizer_of: Callable[[str], HuggingFaceTokenizer]
) -> None:
    tokenizer = tokenizer_of(name)
    assert [word for word in known if not tokenizer.knows_a_word(word)] == []
    assert [word for word in unknown if tokenizer.knows_a_word(word)] == []


@pytest.mark.parametrize("name", KINDS)
def test_a_saved_tokenizer_is_the_same(name: str, tokenizer_of: Callable[[str], HuggingFaceTokenizer], tmp_path: Path) -> None:
    tokenizer = tokenizer_of(name)
    tokenizer.save(tmp_path)
    made = open_clip().tokenizer.HFTokenizer(tmp_path, context_length=32)
    arguments = dict(open_clip().get_model_config(FAMILIES[name].real)["text_cfg"].get("tokenizer_kwargs") or {})
    made.clean_fn = open_clip().tokenizer.get_clean_fn(arguments.get("clean", "whitespace"))
    made.strip_sep_token = arguments.get("strip_sep_token", False)
    again = HuggingFaceTokenizer(made, arguments, "letters")
    assert again.identity == tokenizer.identity
    texts = [*ENGLISH, *(text for texts in FOREIGN.values() for text in texts)]
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert HuggingFaceTokenizer(made, {**arguments, "language": "deu_Latn"}, "letters").identity != tokenizer.identity


def test_tokenizers_that_split_words_differently_are_not_the_same(family_model: Callable[[str], str], tmp_path: Path) -> None:
    folder = Path(family_model("SigLIP").removeprefix("local-dir:"))
    shutil.copytree(folder, tmp_path / "other")
    content = json.loads((folder / "tokenizer.json").read_text())
    # Whole words become less likely than their letters.
    content["model"]["vocab"] = [[piece, score - 100 * len(piece) ** 2] for piece, score in content["model"]["vocab"]]
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content))
    one, other = (load_tokenizer(model, "letters") for model in (f"local-dir:{folder}", f"local-dir:{tmp_path / 'other'}"))
    assert one.vocab_size == other.vocab_size
    assert one.identity != other.identity


def test_the_layout_of_clips(family_model: Callable[[str], str], tmp_path: Path) -> None:
    """Its class token at the end is not a token of the text."""
    folder = tmp_path / "clips"
    shutil.copytree(family_model("CLIPA").removeprefix("local-dir:"), folder)
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(content | {"bos_token": "[MASK]", "eos_token": "[SEP]"}))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"tokenizer_mode": "clips", "tokenizer_kwargs": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    clip = load_clip(f"local-dir:{folder}", None, CPU)
    own = open_clip().get_tokenizer(f"local-dir:{folder}")
    texts = [*ENGLISH, "", "a dog " * 40]
    ids, lengths = clip.tokenize(texts, clip.context_length)
    assert ids.equal(own(texts))
    assert lengths.tolist() == [min(len(own.tokenizer(text, add_special_tokens=False).input_ids) + 2, 31) for text in texts]
    for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
        assert (row[0], row[length - 1], row[-1]) == tuple(own.tokenizer.convert_tokens_to_ids(["[MASK]", "[SEP]", "[CLS]"]))


def _without_files(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "config.json").write_text(json.dumps({"model_type": "roberta"}))


def _configured(folder: Path, **text: Any) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"] |= text
    file.write_text(json.dumps(config))


def _on_the_left(folder: Path) -> None:
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(content | {"padding_side": "left"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_files, "it has no vocabulary"),
        (_on_the_left, "it pads or cuts texts on the left"),
        (lambda folder: _configured(folder, tokenizer_kwargs={"strip_sep_token": True}), "it has no sep_token"),
        (lambda folder: _configured(folder, tokenizer_mode="clips"), "it has no bos_token and no cls_token"),
        (lambda folder: (folder / "tokenizer.json").write_text("{"), "."),
        (lambda folder: (folder / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}'), "."),
        (lambda folder: (folder / "tokenizer_config.json").write_text("[]"), "."),
    ],
)
def test_a_folder_without_a_usable_tokenizer_is_refused_in_one_line(
    change: Callable[[Path], object], message: str, family_model: Callable[[str], str], tmp_path: Path
) -> None:
    shutil.copytree(family_model("SigLIP").removeprefix("local-dir:"), tmp_path / "model")
    change(tmp_path / "model")
    remedy = "put the files of timm/ViT-B-16-SigLIP next to open_clip_config.json"
    with pytest.raises(UserError, match=rf"its tokenizer cannot be built \({message}.*\): {re.escape(remedy)}$") as refusal:
        load_clip(f"local-dir:{tmp_path / 'model'}", None, CPU)
    assert "\n" not in str(refusal.value)


def test_more_tokens_than_the_tower_has_positions_are_refused(family_model: Callable[[str], str], tmp_path: Path) -> None:
    """Before any text of that length is met. Padding takes no position, so that short texts would pass."""
    shutil.copytree(family_model("XLM-R").removeprefix("local-dir:"), tmp_path / "model")
    _configured(tmp_path / "model", context_length=120)
    with pytest.raises(UserError, match="fails on texts of its own length, 120 tokens: index 90 is out of bounds"):
        load_clip(f"local-dir:{tmp_path / 'model'}", None, CPU)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"model_type": "gpt2"}', r"open_clip builds no text tower of the kind of .*tower \(gpt2\): choose another model$"),
        ("{", r"config\.json is not a configuration of a text tower$"),
        ("[]", r"config\.json is not a configuration of a text tower$"),
    ],
)
def test_a_text_tower_of_another_kind_is_refused(content: str, message: str, family_model: Callable[[str], str], tmp_path: Path) -> None:
    """It is here, so that nothing has to be fetched."""
    shutil.copytree(family_model("XLM-R").removeprefix("local-dir:"), tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "tower").mkdir()
    _configured(tmp_path / "model", hf_model_name=str(tmp_path / "tower"))
    (tmp_path / "tower" / "config.json").write_text(content)
    with pytest.raises(UserError, match=message):
        load_clip(f"local-dir:{tmp_path / 'model'}", None, CPU)


@pytest.mark.parametrize("package", ["transformers", "sentencepiece"])
def test_a_package_that_is_missing_is_named(package: str, family_model: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for model in (family_model("SigLIP"), "ViT-B-16-SigLIP", "xlm-roberta-base-ViT-B-32"):
        with pytest.raises(UserError, match=rf"needs {package}, which is not installed: pip install -r requirements-hf.txt$"):
            load_clip(model, "random", CPU)


def test_a_tokenizer_that_changed_since_the_extraction_is_refused(family_model: Callable[[str], str], tmp_path: Path) -> None:
    model = family_model("SigLIP")
    clip = load_clip(model, None, CPU)
    settings = {
        "weights": clip.digest, "architecture": clip.architecture, "dimension": clip.dimension, "precision": "fp32",
        "max_words": clip.context_length, "dtype": "float32", "special_tokens": "letters", "tokenizer": clip.tokenizer.identity,
        **clip.image_settings(),
    }  # fmt: skip
    made_by = Extraction.of(model, None, 0, tmp_path)
    cache = FeatureCache.create(tmp_path / "cache", settings, clip.parts(), {}, extraction=made_by)
    assert reload_clip(cache, CPU).tokenizer.identity == cache.settings["tokenizer"]
    shutil.copytree(model.removeprefix("local-dir:"), tmp_path / "other")
    content = json.loads((tmp_path / "other" / "tokenizer.json").read_text())
    content["model"]["vocab"][40][0] += "s"
    (tmp_path / "other" / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has the weights of the cache .* but another tokenizer"):
        reload_clip(cache, CPU, f"local-dir:{tmp_path / 'other'}")


@pytest.mark.parametrize("name", long_but(["SigLIP", "CoCa"], [*TOWERS, "SigLIP", "CoCa"]))
def test_a_model_that_is_written_is_the_same_when_it_is_loaded(name: str, family_model: Callable[[str], str], tmp_path: Path) -> None:
    """Also if the folder of the text tower's configuration and tokenizer is gone."""
    clip = load_clip(family_model(name), None, CPU)
    assert save_clip(clip, tmp_path / "clip") == clip.digest
    again = load_clip(f"local-dir:{tmp_path / 'clip'}", None, CPU)
    assert (again.digest, again.architecture, again.tokenizer.identity) == (clip.digest, clip.architecture, clip.tokenizer.identity)
    ids = clip.tokenize(ENGLISH, clip.context_length)[0]
    assert again.tokenize(ENGLISH, clip.context_length)[0].equal(ids)
    for one, other in zip(clip.encode_texts(ids), again.encode_texts(ids), strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("name", [*TOWERS, "SigLIP", "SigLIP 2", "CLIPA", "CoCa", "MetaCLIP worldwide"])
def test_gradients_reach_what_is_above_the_frozen_blocks(name: str, family_model: Callable[[str], str]) -> None:
    """The blocks from the input on stand still, and all that is trained makes the features."""
    clip = load_clip(family_model(name), None, CPU)
    both = towers(clip.model, clip.text_tower)
    ids = clip.tokenize(ENGLISH[:2], clip.context_length)[0]
    image_NCHW = torch.randn(2, 3, *clip.image_settings()["image_size"], generator=torch.Generator().manual_seed(0))
    counts = []
    for frozen in (-1, 0, 1, 2):
        trained = train_above(clip.model, both, frozen)
        counts.append(len(trained))
        clip.model.zero_grad()
        sentence_ND, token_NLD = clip.text_features(ids)
        (sentence_ND.square().sum() + token_NLD.square().sum() + clip.image_features(image_NCHW).square().sum()).backward()
        assert [name for name, parameter in trained.items() if parameter.grad is None] == []
        assert {name for name, parameter in clip.model.named_parameters() if parameter.grad is not None} == trained.keys()
        for tower in both:
            assert tower.blocks is not None
            above = [parameter.requires_grad for block in tower.blocks for parameter in block]
            still = sum(len(block) for block in tower.blocks[: max(frozen, 0)])
            assert above == [False] * still + [True] * (len(above) - still)
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4
