"""A text as the tokens of a CLIP: what they are, where a longer text is cut, and which of its words the vocabulary has.

open_clip's own tokenizer is a byte-pair encoding. It cleans a text (most make it lower case), finds words, numbers and signs in it, and
spells each of them by the fewest pieces that its merges give. Any string can be spelled: what was rare in the texts that the merges were
learned from falls apart into letters, and a script that was rare into bytes.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import Any, Literal

import numpy as np

SpecialTokens = Literal["letters", "tokens"]
"""Whether `<end_of_text>` in a text is read as its letters, or is the token that ends the text for CLIP."""

END_OF_WORD = "</w>"
LETTERS_A_PIECE = 3
"""A word in several pieces is known where they have so many letters on average: so are 99.1% of the words in 9,201 captions of MSR-VTT and
DiDeMo, and 0.6% of strings of 4 to 10 random letters (tests/test_tokens.py bounds both)."""
SHORTEST_WHOLE_WORD = 3
WORDS_KEPT = 2**16
"""Words whose spelling is remembered."""


@dataclass(frozen=True)
class Cut:
    """Where a text was cut: after `word`, or `within` it, so that `tokens` are left, start and end included."""

    word: str
    within: bool
    tokens: int


class Tokenizer:
    """open_clip's SimpleTokenizer, one text at a time and in full; CLIP cuts what it makes."""

    def __init__(self, library: Any, without_special: Any, special_tokens: SpecialTokens) -> None:
        """`library`: a SimpleTokenizer of this object's own; `without_special`: its pattern of words, without the special tokens."""
        self._library, self.special_tokens = library, special_tokens
        library.bpe = self._bpe
        if special_tokens == "letters":
            library.pat = without_special

    @property
    def vocab_size(self) -> int:
        """The number of different tokens."""
        return int(self._library.vocab_size)

    @property
    def end(self) -> int:
        """The token behind the last word: the largest of all."""
        return int(self._library.eot_token_id)

    def encode(self, text: str) -> list[int]:
        """All tokens of a text, start and end included, however many they are."""
        return [int(self._library.sot_token_id), *self._library.encode(text), self.end]

    def count(self, tokens: Sequence[int]) -> int:
        """How many of the tokens that `encode` gave are the text's: up to its first end token, start and end included."""
        return tokens.index(self.end) + 1

    def cut(self, tokens: Sequence[int], most: int) -> list[int]:
        """At most so many of the tokens of a text: a longer one keeps the first most - 1 and its end token (CLIP's own rule)."""
        return list(tokens) if len(tokens) <= most else [*tokens[: most - 1], self.end]

    def cut_of(self, text: str, most: int) -> Cut | None:
        """Where a text is cut that may have `most` tokens, start and end included; None where all of it is read.

        Where special tokens are themselves, one may end a text before.
        """
        tokens = self.encode(text)
        count = self.count(tokens)
        left, whole = most - 2, ""
        if count == len(tokens) <= most:
            return None
        for word in self._words(text):
            pieces = self._pieces(word)
            if pieces == [self._library.decoder[self.end]]:
                return Cut(whole, False, count)
            if len(pieces) > left:
                return Cut(whole, False, most) if whole and left == 0 else Cut(word, True, most)
            whole, left = word, left - len(pieces)
        raise AssertionError("a text that is cut has more words")

    def knows_a_word(self, text: str) -> bool:
        """Whether the vocabulary has one of the words of a text.

        It has a word that is one piece, or falls into pieces of LETTERS_A_PIECE letters on average: skate-boarder, not x-q-z-vw. Letters of
        a script that is spelled by bytes come to less than one letter a piece. A single letter says nothing, for the vocabulary has every
        byte; a digit counts, for numbers are always spelled digit by digit. A pictograph is a word, a punctuation mark is none.
        """
        return any(self._is_known(word) for word in self._words(text))

    def random_words(self, count: int, seed: int) -> str:
        """A text of so many words that have nothing to do with each other, each a single token: count + 2 tokens in all."""
        return " ".join(np.random.default_rng(seed).choice(self._whole_words, count))

    @cached_property
    def _whole_words(self) -> list[str]:
        """The words of small letters from a to z that are pieces of the vocabulary."""
        words = (piece.removesuffix(END_OF_WORD) for piece in self._library.encoder if piece.endswith(END_OF_WORD))
        return sorted(word for word in words if len(word) >= SHORTEST_WHOLE_WORD and word.isascii() and word.isalpha() and word.islower())

    def spell(self, text: str, most: int) -> list[str]:
        """The tokens of a text that may have `most`, start and end included, in letters. One that ends a word ends with a space."""
        tokens = self.cut(self.encode(text), most)
        return [self._library.decode([token]) for token in tokens[: self.count(tokens)]]

    def _words(self, text: str) -> list[str]:
        """What the tokenizer finds in a text: runs of letters, single digits, runs of signs, and endings such as 's."""
        found: list[str] = self._library.pat.findall(self._library.clean_fn(text))
        return found

    def _pieces(self, word: str) -> list[str]:
        """The pieces of the vocabulary that spell a word."""
        return self._bpe("".join(self._library.byte_encoder[byte] for byte in word.encode())).split(" ")

    def _bpe(self, word: str) -> str:
        """What SimpleTokenizer.bpe gives: the pieces of a word of encoded bytes, with spaces between them."""
        known: dict[str, str] = self._library.cache
        if word in known:
            return known[word]
        pieces = " ".join(_merge([*word[:-1], word[-1] + END_OF_WORD], self._library.bpe_ranks))
        if len(known) < WORDS_KEPT:
            known[word] = pieces
        return pieces

    def _is_known(self, word: str) -> bool:
        if word.isdigit():
            return word.isascii()
        if word.isalpha():
            pieces = self._pieces(word)
            return len(word) > 1 and (len(pieces) == 1 or len(word) >= LETTERS_A_PIECE * len(pieces))
        return any(unicodedata.category(sign) == "So" and len(self._pieces(sign)) == 1 for sign in word)


def _merge(pieces: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding (Sennrich et al. 2016): neighbours are merged, those of the lowest rank first and from left to right, until no
    two neighbours have a rank.

    SimpleTokenizer looks through the whole word for every merge, which takes seconds for a word of 10,000 letters. Here a heap holds the
    ranks and places of neighbours; entries that an earlier merge made void are passed over.
    """
    count = len(pieces)
    merged: list[str | None] = list(pieces)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))

    def rank_at(i: int) -> int | None:
        """The rank of the piece at this place with the next one."""
        left, right = merged[i] if i >= 0 else None, merged[after[i]] if i >= 0 and after[i] < count else None
        return None if left is None or right is None else ranks.get((left, right))

    heap = [(rank, i) for i in range(count) if (rank := rank_at(i)) is not None]
    heapify(heap)
    while heap:
        lowest, grown = heap[0][0], list[int]()
        while heap and heap[0][0] == lowest:
            _, i = heappop(heap)
            if rank_at(i) == lowest:
                taken = after[i]
                merged[i], merged[taken], after[i] = f"{merged[i]}{merged[taken]}", None, after[taken]
                if after[i] < count:
                    before[after[i]] = i
                grown.append(i)
        for i in grown:
            for place in (before[i], i):
                rank = rank_at(place)
                if rank is not None:
                    heappush(heap, (rank, place))
    return [piece for piece in merged if piece is not None]
