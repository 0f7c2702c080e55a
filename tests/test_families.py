"""Every family of text towers and tokenizers, from its configuration to a hit, beside open_clip's and transformers' own functions.

Shape suffixes: N texts, L text positions, D joint dimension.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import extract
import search
import train_head
from data.cache import FeatureCache, TextEntry
from extract import ExtractOptions
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.library import open_clip
from extract.encode.reload import reload_clip
from extract.encode.texts import encode_texts
from extract.ffmpeg.run import encode_video
from search import SearchOptions
from tests.caches import BUDGET
from tests.choice import long_but
from tests.plain_towers import Own
from tests.tiny_encoders import ENGLISH, FAMILIES, FOREIGN, SIDE
from train_head import TrainOptions

CPU = torch.device("cpu")
ALIKE = 1e-5
"""Share by which float32 features may differ. A sum of up to 100 products in another order is off by about 10 * 6e-8 of its size, which
a few layers carry on."""
LONG = "a dog runs across the green grass and then " * 12
"""More tokens than any of these models takes."""
TEXTS = [
    *ENGLISH,
    *(texts[0] for texts in FOREIGN.values()),
    "dog",
    "",
    "A  Man,\tplaying — the GUITAR!",
    "ﬁve cafés &amp; 3 dogs 🐕",
    LONG,
]
VIDEOS = 10
TABLE = [*ENGLISH[:VIDEOS], *[text for texts in FOREIGN.values() for text in texts][:VIDEOS], LONG]
"""The captions of these videos in turn."""
QUICK = ("SigLIP", "CLIPA", "CoCa", "XLM-R")
"""One family of each kind of text tower and tokenizer; the others are among the long tests."""
EVERY = long_but(QUICK, FAMILIES)
HUGGING_FACE = [name for name, family in FAMILIES.items() if family.tokenizer is not None]
MULTILINGUAL = [name for name, family in FAMILIES.items() if family.multilingual]

Load = Callable[[str], Clip]
OwnOf = Callable[[str], Own]


@pytest.fixture(scope="session")
def clip_of(family_model: Callable[[str], str]) -> Load:
    """A family as we load it; loaded once."""
    loaded: dict[str, Clip] = {}

    def load(name: str) -> Clip:
        if name not in loaded:
            loaded[name] = load_clip(family_model(name), None, CPU)
        return loaded[name]

    return load


def encoded(texts: Sequence[str], clip: Clip, max_words: int, batch_size: int = BATCH) -> list[TextEntry]:
    """The features of texts, in their order."""
    found = {entry.text: entry for batch in encode_texts(texts, clip, max_words, batch_size) for entry in batch}
    assert len(found) == len(texts)
    return [found[text] for text in texts]


def off_by(found: Any, expected: Any) -> float:
    """The difference as a share of the size, of the row where it is largest."""
    found, expected = (np.asarray(given, dtype=np.float64) for given in (found, expected))
    assert found.shape == expected.shape
    return float((np.linalg.norm(found - expected, axis=-1) / np.linalg.norm(expected, axis=-1)).max())


@pytest.mark.parametrize("name", EVERY)
def test_a_sentence_is_open_clips_and_every_token_has_its_feature(name: str, clip_of: Load, own_of: OwnOf) -> None:
    """All tokens that open_clip's tokenizer makes, and no padding."""
    clip, own = clip_of(name), own_of(name)
    assert clip.context_length == own.context
    entries = encoded(TEXTS, clip, own.context)
    ids_NL, real_NL = own.tokens(TEXTS)
    assert ids_NL.equal(own.tokenizer(TEXTS))
    assert [len(entry.words_TD) for entry in entries] == real_NL.sum(dim=1).tolist()
    assert off_by([entry.sentence_D for entry in entries], own.sentences(ids_NL)) < ALIKE
    words_NLD = own.token_features(ids_NL, real_NL)
    for entry, real_L, words_LD in zip(entries, real_NL, words_NLD, strict=True):
        assert off_by(entry.words_TD, words_LD[real_L]) < ALIKE


@pytest.mark.parametrize("name", EVERY)
def test_pictures_are_open_clips(name: str, clip_of: Load, own_of: OwnOf) -> None:
    clip, own = clip_of(name), own_of(name)
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 256, size=(*size, 3), dtype=np.uint8)) for size in ((90, 150), (64, 40), (32, 32))]
    found = clip.encode_images(torch.stack([clip.to_tensor(clip.shrink(picture)) for picture in pictures])).feature_ND
    with torch.no_grad():
        expected = own.network.encode_image(torch.stack([own.transform(picture) for picture in pictures]), normalize=False)
    assert off_by(found, expected) < ALIKE


@pytest.mark.exact
@pytest.mark.parametrize("name", EVERY)
def test_neighbours_and_order_change_no_bit(name: str, clip_of: Load) -> None:
    """Alone, among a few, and in more than one batch of longer texts."""
    clip, texts = clip_of(name), TEXTS[:7]
    others = [f"{text} {i}" for i in range(BATCH // 10) for text in TEXTS]
    assert len(others) > BATCH
    few = encoded(texts, clip, clip.context_length)
    for again in (
        encoded([*others, *texts[::-1]], clip, clip.context_length)[: -len(texts) - 1 : -1],
        [encoded([text], clip, clip.context_length)[0] for text in texts],
    ):
        for entry, other in zip(few, again, strict=True):
            assert entry.text == other.text
            np.testing.assert_array_equal(entry.words_TD, other.words_TD)
            np.testing.assert_array_equal(entry.sentence_D, other.sentence_D)


@pytest.mark.parametrize("name", EVERY)
def test_a_long_text_is_cut_as_its_tokenizer_cuts(name: str, clip_of: Load, own_of: OwnOf) -> None:
    """To its first tokens and the marks around them; the whole length is counted."""
    clip, own, most = clip_of(name), own_of(name), 9
    entries = encoded(TEXTS, clip, most)
    ids_NL, real_NL = own.tokens(TEXTS, most)
    assert real_NL.sum(dim=1).max() >= most - 1
    assert off_by([entry.sentence_D for entry in entries], own.sentences(ids_NL)) < ALIKE
    for entry, real_L, words_LD in zip(entries, real_NL, own.token_features(ids_NL, real_NL), strict=True):
        assert off_by(entry.words_TD, words_LD[real_L]) < ALIKE
    assert [entry.tokens for entry in entries] == own.lengths(TEXTS)
    assert entries[TEXTS.index(LONG)].tokens > own.context


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_special_tokens_inside_a_text_are_letters(name: str, family_model: Callable[[str], str], clip_of: Load, own_of: OwnOf) -> None:
    """None of them ends the text or stands for padding; with special_tokens "tokens" they are what open_clip makes of them."""
    clip, own = clip_of(name), own_of(name)
    if own.tokenizer.clean_fn("<a>") == "a":
        pytest.skip("this tokenizer drops the signs that special tokens are written with")
    marks = [token for token in clip.tokenizer.encode("dog") if token in own.special]
    for special in sorted(own.inner.all_special_tokens):
        text = f"a dog {special} runs"
        tokens = clip.tokenizer.encode(text)
        assert [token for token in tokens if token in own.special] == marks, special
        (entry,) = encoded([text], clip, clip.context_length)
        assert len(entry.words_TD) > len(encoded(["a dog runs"], clip, clip.context_length)[0].words_TD)
    as_tokens = load_clip(family_model(name), None, CPU, special_tokens="tokens")
    # CLIPA's tokenizer takes separators away, which would leave a hole in a text.
    stripped = {own.inner.sep_token} if own.tokenizer.strip_sep_token else set()
    texts = [f"a dog {special} runs" for special in own.inner.all_special_tokens if special not in stripped]
    ids_NL, _ = own.tokens(texts)
    assert off_by([entry.sentence_D for entry in encoded(texts, as_tokens, own.context)], own.sentences(ids_NL)) < ALIKE


@pytest.mark.parametrize("name", HUGGING_FACE)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=8, unique=True))
def test_any_text_is_read_as_its_tokenizer_reads_it(name: str, texts: list[str], clip_of: Load, own_of: OwnOf) -> None:
    clip, own = clip_of(name), own_of(name)
    ids_NL, real_NL = own.tokens(texts)
    for text, ids_L, real_L in zip(texts, ids_NL, real_NL, strict=True):
        tokens = clip.tokenizer.encode(text)
        assert clip.tokenizer.cut(tokens, own.context) == ids_L[real_L].tolist()


@pytest.mark.parametrize("precision", long_but(["bf16"], ["bf16", "fp16"]))  # half precision is slow on a CPU
@pytest.mark.parametrize("name", ["SigLIP", "SigLIP 2", "CLIPA", "CoCa", "XLM-R", "mT5", "NLLB"])
def test_lower_precision_is_open_clips_own(
    name: str, precision: Literal["bf16", "fp16"], family_model: Callable[[str], str], own_of: OwnOf
) -> None:
    own, low = own_of(name), load_clip(family_model(name), None, CPU, precision=precision)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    # open_clip casts the linear layers of a Hugging Face tower alone, and all but CoCa's class token: neither can be run.
    whole = FAMILIES[name].tower is not None
    network = open_clip().create_model(
        family_model(name), precision="fp32" if whole else precision, load_weights=False, pretrained_text=False
    )
    network.load_state_dict(own.network.state_dict())
    if whole:
        network.text.to(dtype)
    elif name == "CoCa":
        network.text.cls_emb.data = network.text.cls_emb.data.to(dtype)
    ids_NL, _ = own.tokens(TEXTS)
    expected = replace(own, network=network.eval()).sentences(ids_NL).float()
    # A step of bfloat16 is 2^-8, one of float16 2^-11; a few of them in a sum.
    step = torch.finfo(dtype).eps
    assert off_by([entry.sentence_D for entry in encoded(TEXTS, low, own.context)], expected) < 8 * step


@pytest.fixture(scope="session")
def some_videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files of coloured tiles with two captions each, one of them in another language, and a caption that is too long."""
    folder = tmp_path_factory.mktemp("some videos")
    (folder / "videos").mkdir()
    rows = []
    for i in range(VIDEOS):
        tiles = np.random.default_rng(i).integers(0, 256, size=(4 + i, 4, 4, 3), dtype=np.uint8)
        pixels = tiles.repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2).tobytes()
        encode_video(folder / "videos" / f"video{i}.mp4", pixels, SIDE, SIDE, fps=4)
        split = "train" if i < 6 else "val" if i < 8 else "test"
        rows += [(f"video{i}.mp4", caption, split) for caption in TABLE[i::VIDEOS]]
    pd.DataFrame(rows, columns=["video", "caption", "split"]).to_csv(folder / "table.csv", index=False)
    return folder


@dataclass(frozen=True)
class Made:
    """A cache, the summary of its extraction, and what was said."""

    cache: FeatureCache
    summary: dict[str, Any]
    said: str


@pytest.fixture(scope="session")
def cache_of(some_videos: Path, family_model: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """The cache of a family, and what the extraction said; made once."""
    base = tmp_path_factory.mktemp("caches")
    made: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in made:
            options = ExtractOptions(
                videos=some_videos / "videos", annotations=some_videos / "table.csv", cache=base / name, model=family_model(name),
                fps=2.0, device="cpu", dtype="float32", json=True, quiet=True,
            )  # fmt: skip
            with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
                extract.main(options)
            made[name] = Made(FeatureCache(base / name), json.loads(out.getvalue()), err.getvalue())
        return made[name]

    return make


def query_of(name: str) -> str:
    """A caption of the first video, in another language than English if the tokenizer knows one."""
    return FOREIGN["German"][0] if FAMILIES[name].multilingual else ENGLISH[0]


@pytest.mark.parametrize("name", EVERY)
def test_a_cache_of_videos_and_captions_is_searched(name: str, clip_of: Load, cache_of: Callable[[str], Made]) -> None:
    """The cache finds its model again, which makes the same features of a query."""
    made, most = cache_of(name), clip_of(name).context_length
    assert made.cache.settings["max_words"] == most
    entries = encoded(TABLE, clip_of(name), most)
    cut = sum(entry.tokens > len(entry.words_TD) for entry in entries)
    assert cut >= 1
    assert made.summary["texts_cut"] == cut
    assert f"{cut} of {len(TABLE)} texts have more than {most} tokens and were cut, such as " in made.said
    again, some = reload_clip(made.cache, CPU), TABLE[:: VIDEOS // 2]
    texts = made.cache.texts(some, BUDGET)
    for i, entry in enumerate(encoded(some, again, most, batch_size=1)):
        assert off_by(entry.sentence_D, texts.sentences.gather([i])[0][0]) < ALIKE
        assert off_by(entry.words_TD, texts.words.gather([i])[0]) < ALIKE
    (answer,) = search.main(
        SearchOptions(cache=made.cache.path, run="zero-shot:glccl", query=(query_of(name),), top=VIDEOS, device="cpu", quiet=True)
    )
    assert {hit.video_id for hit in answer.hits} == {f"video{i}.mp4" for i in range(VIDEOS)}
    scores = [hit.score for hit in answer.hits]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == VIDEOS
    assert not answer.notes.no_known_word


@pytest.mark.parametrize("name", EVERY)
def test_a_head_is_trained_on_the_cache(name: str, cache_of: Callable[[str], Made], tmp_path: Path) -> None:
    cache = cache_of(name).cache
    options = TrainOptions(cache=cache.path, out=tmp_path / "run", head="glccl", epochs=1, batch_size=4, device="cpu", quiet=True)
    run = train_head.main(options)
    (answer,) = search.main(SearchOptions(cache=cache.path, run=str(run), query=(query_of(name),), top=VIDEOS, device="cpu", quiet=True))
    assert {hit.video_id for hit in answer.hits} == {f"video{i}.mp4" for i in range(VIDEOS)}
    assert np.isfinite([hit.score for hit in answer.hits]).all()


@pytest.mark.parametrize("name", MULTILINGUAL)
def test_words_of_other_languages_are_known(name: str, clip_of: Load) -> None:
    """Those that the tokenizer has seen, and no letters by chance."""
    tokenizer = clip_of(name).tokenizer
    for texts in FOREIGN.values():
        for text in texts:
            assert tokenizer.knows_a_word(text), text
    assert not tokenizer.knows_a_word("xq zvw kqj")
