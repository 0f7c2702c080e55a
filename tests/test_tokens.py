"""Texts as tokens: beside open_clip's own tokenizer, and what it makes of special tokens, long texts and unknown words."""

import json
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data.datasets.files import read_csv
from extract.encode.byte_pair import BytePairTokenizer
from extract.encode.library import open_clip
from extract.encode.models import load_tokenizer
from extract.encode.tokens import Cut, Tokenizer
from tests.conftest import DEMO_CLIP

SPECIAL = ("<start_of_text>", "<end_of_text>")
START, END = 49406, 49407
TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("abcdefgh  '<>_|&;.-")), max_size=60)


@pytest.fixture(scope="module")
def letters() -> BytePairTokenizer:
    tokenizer = load_tokenizer(DEMO_CLIP, "letters")
    assert isinstance(tokenizer, BytePairTokenizer)
    return tokenizer


@pytest.fixture(scope="module")
def own() -> Any:
    """open_clip's, as it comes."""
    return open_clip().get_tokenizer(DEMO_CLIP)


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return load_tokenizer(DEMO_CLIP, "tokens")


def plain_words(text: str) -> list[str]:
    """What SimpleTokenizer finds in a cleaned text, with each bracket of a special token set apart from its letters."""
    return re.findall(r"[^\W\d_]+|\d|[^\w\s]+|_+", text)


@settings(deadline=None, max_examples=150)
@given(text=TEXTS, most=st.integers(3, 77))
@example(text="A dog's  ball &amp; 2 cats\u00a0<3", most=5)
def test_texts_without_special_tokens_are_open_clips_own(letters: Tokenizer, tokens: Tokenizer, own: Any, text: str, most: int) -> None:
    expected = own([text], context_length=most)[0].tolist()
    for tokenizer in (letters, tokens):
        found = tokenizer.cut(tokenizer.encode(text), most)
        assert found + [0] * (most - len(found)) == expected


@settings(deadline=None, max_examples=60)
@given(
    before=TEXTS,
    special=st.sampled_from([*SPECIAL, "<END_of_text>", "&lt;end_of_text&gt;", "<|endoftext|>", "<|startoftext|>"]),
    after=TEXTS,
)
def test_a_special_token_in_a_text_is_its_letters(letters: Tokenizer, before: str, special: str, after: str) -> None:
    found = letters.encode(f"{before}{special}{after}")
    assert (found[0], found[-1]) == (START, END)
    assert not {START, END} & set(found[1:-1])
    assert letters.count(found) == len(found)


@pytest.mark.parametrize("special", [*SPECIAL, "<|endoftext|>", "</s>", "[SEP]", "<pad>", "<unk>", "[CLS]"])
def test_the_letters_of_a_special_token_are_those_of_its_words(letters: Tokenizer, special: str) -> None:
    """A space between words, numbers and signs changes nothing, and it is what makes a special token none."""
    apart = " ".join(plain_words(special.lower()))
    assert letters.encode(f"a dog {special} jumps") == letters.encode(f"a dog {apart} jumps")


@settings(deadline=None, max_examples=300)
@given(
    word=st.text(st.one_of(st.sampled_from("abelnost"), st.sampled_from("ha"), st.characters(categories=["L"])), min_size=1, max_size=60)
)
def test_words_are_spelled_as_open_clip_spells_them(letters: BytePairTokenizer, own: Any, word: str) -> None:
    encoded = "".join(own.byte_encoder[byte] for byte in word.encode())
    assert letters._bpe(encoded) == own.bpe(encoded)


def test_a_long_word_takes_no_longer_than_its_letters(letters: Tokenizer) -> None:
    """100,000 letters, which open_clip's own would look through once for every merge: some 50,000 times."""
    word = "".join(random.Random(0).choices(string.ascii_lowercase, k=100_000))
    tokens = letters.encode(word)
    assert "".join(letters.spell(word, len(tokens))[1:-1]).strip() == word


def test_a_cache_of_before_reads_special_tokens_as_it_did(tokens: Tokenizer, own: Any) -> None:
    text = "a dog <end_of_text> jumps over a fence"
    found = tokens.encode(text)
    assert found + [0] * (77 - len(found)) == own([text], context_length=77)[0].tolist()
    assert tokens.count(found) == len(tokens.encode("a dog"))
    assert tokens.cut_of(text, 77) == Cut("dog", False, 4)
    assert tokens.cut_of(text, 4) == Cut("dog", False, 4)
    assert tokens.cut_of(text, 3) == Cut("a", False, 3)


@settings(deadline=None, max_examples=60)
@given(words=st.lists(st.sampled_from(["dog", "skateboarder", "xqzvw", "2", "!?", "狗"]), max_size=12), most=st.integers(3, 30))
def test_where_a_text_is_cut(letters: Tokenizer, words: list[str], most: int) -> None:
    """By encoding ever more of its words, until one does not fit."""
    cut = letters.cut_of(" ".join(words), most)
    fit = [len(letters.encode(" ".join(words[:count]))) for count in range(len(words) + 1)]
    if fit[-1] <= most:
        assert cut is None
        return
    assert cut is not None
    assert cut.tokens == most
    whole = max(count for count, length in enumerate(fit) if length <= most)
    full = fit[whole] == most
    assert (cut.word, cut.within) == ((words[whole - 1], False) if full else (words[whole], True))


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("dog", True),
        ("Skateboarder", True),
        ("xqzvw kjhsdf wqpox", False),
        ("xqzvw dog", True),
        ("a x q", False),
        ("7", True),
        ("\u0667", False),
        ("狗", False),
        ("собака", False),
        ("שלום עולם", False),
        ("!!! ... ---", False),
        ("\u2026 \u2014", False),
        ("🐶", True),
        ("🐶🔥", True),
        ("&nbsp;", False),
        ("\x07\u200b", False),
        ("<end_of_text>", True),
    ],
)
def test_which_words_are_known(letters: Tokenizer, text: str, known: bool) -> None:
    assert letters.knows_a_word(text) == known


def test_genuine_captions_have_known_words_and_random_strings_have_none(letters: Tokenizer, shared_annotations: Path) -> None:
    captions = read_csv(shared_annotations / "msrvtt" / "MSRVTT_JSFUSION_test.csv", ("sentence",))["sentence"].tolist()
    for split in ("val", "test"):
        listed = json.loads((shared_annotations / "didemo" / f"{split}_data.json").read_text())
        captions += [entry["description"] for entry in listed]
    assert [caption for caption in captions if not letters.knows_a_word(caption)] == []
    words = [word for caption in captions for word in re.findall(r"[a-z]{2,}", caption.lower())]
    known = {word: letters.knows_a_word(word) for word in set(words)}
    assert sum(known[word] for word in words) > 0.99 * len(words)
    drawn = random.Random(0)
    strings = ["".join(drawn.choices(string.ascii_lowercase, k=drawn.randint(4, 10))) for _ in range(3000)]
    assert sum(map(letters.knows_a_word, strings)) < 0.015 * len(strings)


def test_random_words_are_single_tokens_and_the_same_again(letters: Tokenizer) -> None:
    texts = [letters.random_words(count, seed) for count in (0, 1, 5, 75) for seed in range(20)]
    assert [len(letters.encode(text)) for text in texts] == [count + 2 for count in (0, 1, 5, 75) for _ in range(20)]
    assert len(set(texts)) == 3 * 20 + 1
    assert texts[20:] == [letters.random_words(count, seed) for count in (1, 5, 75) for seed in range(20)]
    assert all(letters.knows_a_word(text) for text in texts[20:])
