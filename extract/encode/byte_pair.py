"""CLIP's own tokens of a text: how they are found, where a long text is cut, and which words the vocabulary knows.

open_clip's tokenizer is a byte-pair encoding. It cleans a text (in most models, to lower case), splits it into words, numbers and
punctuation, and merges the bytes of each into pieces of the vocabulary. Any string can be encoded: a word that was rare in the training
texts falls apart into letters, and a rare script into bytes.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from functools import cached_property
from heapq import heapify, heappop, heappush
from typing import Any

import numpy as np

from extract.encode.tokens import LETTERS_A_PIECE, SHORTEST_WHOLE_WORD, Cut, SpecialTokens, Tokenizer

END_OF_WORD = "</w>"
WORDS_KEPT = 2**16
"""Size of the cache from words to their pieces."""


class BytePairTokenizer(Tokenizer):
    """open_clip's SimpleTokenizer for one text at a time, without the cut to CLIP's context length.

    With `special_tokens` "tokens", an end token inside a text ends it for the model.
    """

    def __init__(self, library: Any, without_special: Any, special_tokens: SpecialTokens) -> None:
        """`library` is a SimpleTokenizer, which this object modifies; `without_special` is its word pattern without the special tokens."""
        self._library, self.special_tokens = library, special_tokens
        library.bpe = self._bpe
        if special_tokens == "letters":
            library.pat = without_special

    @property
    def vocab_size(self) -> int:
        return int(self._library.vocab_size)

    @property
    def marks(self) -> tuple[int, int]:
        return 1, 1

    @property
    def end(self) -> int:
        """Id of the end token, the largest of all."""
        return int(self._library.eot_token_id)

    def encode(self, text: str) -> list[int]:
        return [int(self._library.sot_token_id), *self._library.encode(text), self.end]

    def count(self, tokens: Sequence[int]) -> int:
        """Number of tokens up to the first end token, including start and end."""
        return tokens.index(self.end) + 1

    def cut(self, tokens: Sequence[int], most: int) -> list[int]:
        return list(tokens) if len(tokens) <= most else [*tokens[: most - 1], self.end]

    def row(self, tokens: Sequence[int], positions: int) -> list[int]:
        return [*tokens, *[0] * (positions - len(tokens))]

    def cut_of(self, text: str, most: int) -> Cut | None:
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
        """See `Tokenizer.knows_a_word`.

        A script that is encoded in bytes has less than one letter per piece. A single letter does not count, since the vocabulary has
        every byte; a digit does, since numbers are always encoded digit by digit. A pictograph counts as a word, a punctuation mark does
        not.
        """
        return any(self._is_known(word) for word in self._words(text))

    def random_words(self, count: int, seed: int) -> str:
        return " ".join(np.random.default_rng(seed).choice(self._whole_words, count))

    @cached_property
    def _whole_words(self) -> list[str]:
        """The lower-case ASCII words that are one piece of the vocabulary."""
        words = (piece.removesuffix(END_OF_WORD) for piece in self._library.encoder if piece.endswith(END_OF_WORD))
        return sorted(word for word in words if len(word) >= SHORTEST_WHOLE_WORD and word.isascii() and word.isalpha() and word.islower())

    def spell(self, text: str, most: int) -> list[str]:
        tokens = self.cut(self.encode(text), most)
        return [self._library.decode([token]) for token in tokens[: self.count(tokens)]]

    def _words(self, text: str) -> list[str]:
        """The words of a text as the tokenizer splits it: runs of letters, single digits, runs of punctuation, and endings such as 's."""
        found: list[str] = self._library.pat.findall(self._library.clean_fn(text))
        return found

    def _pieces(self, word: str) -> list[str]:
        """The vocabulary pieces of a word."""
        return self._bpe("".join(self._library.byte_encoder[byte] for byte in word.encode())).split(" ")

    def _bpe(self, word: str) -> str:
        """Replaces SimpleTokenizer.bpe: the pieces of a word of encoded bytes, separated by spaces."""
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
    """Byte-pair encoding (Sennrich et al. 2016): merge the pair of neighbours with the lowest rank, from left to right, until no pair has
    a rank.

    SimpleTokenizer scans the whole word for every merge, which takes seconds for a word of 10,000 letters. Here a heap holds the ranks and
    positions of the pairs, and entries that an earlier merge has made stale are skipped.
    """
    count = len(pieces)
    merged: list[str | None] = list(pieces)
    before, after = list(range(-1, count - 1)), list(range(1, count + 1))

    def rank_at(i: int) -> int | None:
        """Rank of the pair of piece i and the next one, or None."""
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
