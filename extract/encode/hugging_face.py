"""The tokens of a Hugging Face tokenizer, as open_clip's HFTokenizer makes them.

Such a tokenizer may be a WordPiece (BERT), a byte-pair encoding of bytes (RoBERTa) or of letters (Gemma, NLLB), or a Unigram model (T5,
XLM-R). Which ids are words, specials and padding comes from the tokenizer itself. The input of the model equals open_clip's own for every
text without special tokens in it.
"""

import hashlib
import json
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from extract.encode.tokens import LETTERS_A_PIECE, SHORTEST_WHOLE_WORD, Cut, SpecialTokens, Tokenizer

PROBES = (
    "A man and two dogs are running along the beach, 2019!",
    "skateboarders' unbelievable e-mails cost $3.50 (or more)",
    "Ein Hund läuft über das grüne Gras",
    "Un niño pequeño corre rápidamente, ¿verdad?",
    "собака бежит по траве",
    "一只狗在草地上奔跑",
    "犬が緑の芝生の上を走っている",
    "كلب يركض على العشب الأخضر",
    "एक कुत्ता हरी घास पर दौड़ रहा है",
    "🐶 xqzvw ① ﬁne",
)
"""Texts whose tokens are part of a tokenizer's identity. Two tokenizers with one vocabulary can still split words differently."""

BYTE = re.compile("<0x[0-9A-F]{2}>")
"""A piece for a single byte, of a text that the vocabulary cannot write."""
SYLLABLES = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO")
"""Scripts, by the Unicode names of their letters, in which one letter is a syllable or a word."""
LETTERS_WITHOUT_CASE = 2
"""LETTERS_A_PIECE of scripts without upper case, most of which leave out vowels, or write them as marks: Arabic, Hebrew, Hindi, Thai."""
WORDS_TRIED = 2**12
"""Words of the vocabulary that `random_words` draws from at most."""


class HuggingFaceTokenizer(Tokenizer):
    """open_clip's HFTokenizer for one text at a time, without the cut to the model's context length.

    Its input for the model is [specials, words, specials, padding]. Two options of open_clip change it:

        strip_sep_token (CLIPA)           [CLS] a dog [SEP] [PAD] ...  ->  [CLS] a dog 0 [PAD] ...: the end is not a token any more
        tokenizer_mode "clips" (CLIPS)    [BOS] a dog [EOS] [PAD] ... [CLS]: the last position is not a token of the text
    """

    def __init__(self, library: Any, arguments: Mapping[str, Any], special_tokens: SpecialTokens) -> None:
        """`library` is an HFTokenizer, made with these arguments.

        Raises ValueError if the tokenizer has no vocabulary, lacks a special token that it needs, or pads or cuts texts on the left.
        """
        self._library, self._clean, self.special_tokens = library.tokenizer, library.clean_fn, special_tokens
        self._arguments = dict(arguments)
        if (self._library.padding_side, self._library.truncation_side) != ("right", "right"):
            raise ValueError("it pads or cuts texts on the left")
        self._vocabulary: dict[str, int] = self._library.get_vocab()
        added = {str(token) for token in self._library.added_tokens_decoder.values()}
        # Without its files, transformers makes an empty tokenizer of some kinds, and does not complain.
        if not any(letter.isalnum() for piece in self._vocabulary if piece not in added for letter in piece):
            raise ValueError("it has no vocabulary")
        clips = library.tokenizer_mode == "clips"
        needed = ["pad_token", *["sep_token"] * library.strip_sep_token, *["bos_token", "eos_token", "cls_token"] * clips]
        lacking = [name for name in needed if getattr(self._library, f"{name}_id") is None]
        if lacking:
            raise ValueError(f"it has no {' and no '.join(lacking)}")
        self._pad, self._last, self._stripped = int(self._library.pad_token_id), list[int](), list[int]()
        if clips:
            self._before, self._after = [int(self._library.bos_token_id)], [int(self._library.eos_token_id)]
            self._last = [int(self._library.cls_token_id)]
        else:
            word, whole = self._ids("a"), list(self._library("a", verbose=False).input_ids)
            place = [whole[i : i + len(word)] for i in range(len(whole))].index(word)
            self._before, self._after = whole[:place], whole[place + len(word) :]
        if library.strip_sep_token:
            kept = [token for token in self._after if token != self._library.sep_token_id]
            self._stripped, self._after = [0] * (len(self._after) - len(kept)), kept

    @property
    def vocab_size(self) -> int:
        # Added special tokens count only where the tokenizer itself puts them around a text: T5 has a hundred that no text contains.
        added = [token for token, content in self._library.added_tokens_decoder.items() if not content.special]
        around = [*self._before, *self._after, *self._last, self._pad]
        largest: int = max(self._library.vocab_size - 1, *added, *around)
        return largest + 1

    @property
    def marks(self) -> tuple[int, int]:
        return len(self._before), len(self._after)

    @property
    def identity(self) -> str:
        """SHA-256 of the vocabulary, the arguments and the tokens of PROBES.

        Not of the tokenizer's file: the same tokenizer is written in several forms, and other versions of the library write other fields.
        """
        sha = hashlib.sha256(json.dumps(self._arguments, sort_keys=True).encode())
        for piece, token in sorted(self._vocabulary.items(), key=lambda item: item[1]):
            sha.update(f"{token} {piece}\n".encode("utf-8", "surrogatepass"))
        sha.update(json.dumps([self.row(self.encode(text), 256) for text in PROBES]).encode())
        return sha.hexdigest()

    def encode(self, text: str) -> list[int]:
        return [*self._before, *self._ids(self._clean(text)), *self._after]

    def cut(self, tokens: Sequence[int], most: int) -> list[int]:
        """See `Tokenizer.cut`. What takes a position without being a token of the text counts too, as for the model's own tokenizer."""
        room = most - self._beside
        return list(tokens) if len(tokens) <= room else [*tokens[: room - len(self._after)], *self._after]

    def row(self, tokens: Sequence[int], positions: int) -> list[int]:
        padding = positions - len(tokens) - self._beside
        return [*tokens, *self._stripped, *[self._pad] * padding, *self._last]

    def cut_of(self, text: str, most: int) -> Cut | None:
        clean, room = self._clean(text), most - self._beside - self.empty_length
        if len(self._ids(clean)) <= room:
            return None
        words = clean.split()

        def length(count: int) -> int:
            return len(self._ids(" ".join(words[:count])))

        whole = bisect_right(range(len(words)), room, key=length) - 1
        return Cut(words[whole - 1], False, most) if whole and length(whole) == room else Cut(words[whole], True, most)

    def knows_a_word(self, text: str) -> bool:
        """See `Tokenizer.knows_a_word`.

        Scripts without upper case need fewer letters per piece, and Chinese, Japanese and Korean a single one. A word with an unknown
        piece, or with pieces that are single bytes, is not known. A number is, and a pictograph of one piece.
        """
        words = _words(self._clean(text))
        # Some vocabularies have most words after a space alone.
        return any(self._is_known(kind, word, self._ids(before + word)) for kind, word in words for before in ("", " "))

    def random_words(self, count: int, seed: int) -> str:
        return " ".join(np.random.default_rng(seed).choice(self._whole_words, count))

    @cached_property
    def _whole_words(self) -> list[str]:
        """Words that are one token at any place of a text: of lower-case ASCII letters, else of any letters, else single letters."""
        words = {self._bare(piece) for piece in self._vocabulary if self._begins_word(piece)}
        letters = sorted(word for word in words if word.isalpha() and word == word.lower())
        ascii_words = [word for word in letters if word.isascii() and len(word) >= SHORTEST_WHOLE_WORD]
        for known in (ascii_words, letters):
            tried = [known[i] for i in np.unique(np.linspace(0, len(known) - 1, WORDS_TRIED).astype(int))] if known else []
            whole = [word for word in tried if len(self._ids(f"{word} {word}")) == 2]
            if whole:
                return whole
        # A vocabulary of bytes writes the space as a token too.
        assert letters, "a vocabulary has letters"
        return letters

    def spell(self, text: str, most: int) -> list[str]:
        tokens = self.cut(self.encode(text), most)
        pieces = self._library.convert_ids_to_tokens(tokens)
        first, last = len(self._before), len(tokens) - len(self._after)
        spelled = list(pieces)
        for i in range(first, last):
            ends = i + 1 == last or self._begins_word(pieces[i + 1])
            bare = self._library.decode([tokens[i]]).strip() if self._mark == "Ġ" else self._bare(pieces[i])
            spelled[i] = (bare or pieces[i]) + " " * ends
        return spelled

    def save(self, folder: Path) -> None:
        self._library.save_pretrained(folder)

    @property
    def _beside(self) -> int:
        """Positions that are neither tokens of a text nor padding."""
        return len(self._stripped) + len(self._last)

    def _ids(self, text: str) -> list[int]:
        """The ids of a cleaned text, without specials around it."""
        letters = self.special_tokens == "letters"
        encoded = self._library(text, add_special_tokens=False, split_special_tokens=letters, verbose=False)
        ids: list[int] = encoded.input_ids
        if not letters or not self._special.intersection(ids):
            return ids
        # A Unigram model has </s> in its vocabulary, so that it finds the piece in a text even where it splits special tokens.
        return [other for token in ids for other in (self._letters_of(token) if token in self._special else [token])]

    @cached_property
    def _special(self) -> set[int]:
        """The special tokens that a text must not contain. Unknown words are a token that it may."""
        return set(self._library.all_special_ids) - {self._library.unk_token_id}

    def _letters_of(self, special: int) -> list[int]:
        spaced = " ".join(self._library.convert_ids_to_tokens(special))
        ids = self._library(spaced, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
        return [token for token in ids if token not in self._special]

    @cached_property
    def _mark(self) -> str:
        """How pieces are marked: ▁ or Ġ (a space, in pieces of bytes) at the beginning of a word, or ## anywhere else."""
        return next((mark for mark in ("▁", "Ġ") if any(piece.startswith(mark) for piece in self._vocabulary)), "##")

    def _begins_word(self, piece: str) -> bool:
        return piece.startswith(self._mark) != (self._mark == "##")

    def _bare(self, piece: str) -> str:
        return piece.removeprefix(self._mark)

    def _is_known(self, kind: str, word: str, ids: list[int]) -> bool:
        pieces = [bare for piece in self._library.convert_ids_to_tokens(ids) if (bare := self._bare(piece))]
        if not pieces or self._library.unk_token_id in ids or any(BYTE.fullmatch(piece) for piece in pieces):
            return False
        if kind == "letters":
            if unicodedata.name(word[0], "").startswith(SYLLABLES):
                return len(pieces) <= len(word)
            needed = LETTERS_A_PIECE if word.lower() != word.upper() else LETTERS_WITHOUT_CASE
            return len(word) > 1 and (len(pieces) == 1 or len(word) >= needed * len(pieces))
        return kind == "number" or len(pieces) == 1


def _words(text: str) -> Iterator[tuple[str, str]]:
    """Runs of letters and of digits, and single pictographs, each after its kind."""
    for kind, run in groupby(text, _kind):
        if kind == "pictograph":
            yield from ((kind, sign) for sign in run)
        elif kind != "sign":
            yield kind, "".join(run)


def _kind(sign: str) -> str:
    """What a character belongs to. The vowels of Hindi are marks on its letters."""
    category = unicodedata.category(sign)
    return {"L": "letters", "M": "letters", "N": "number"}.get(category[0], "pictograph" if category == "So" else "sign")
