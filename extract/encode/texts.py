"""Texts to features, in batches of like length: a causal text tower needs no more positions than a text has tokens.

Shape suffixes: N texts of a batch, L text positions, D joint dimension.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.base.quoting import quote
from data.cache import FeatureCache, TextEntry
from extract.encode.clip import BATCH, Clip

START_AND_END = 2
"""The tokens of a text without words."""


def encode_texts(texts: Sequence[str], clip: Clip, max_words: int, batch_size: int = BATCH) -> Iterator[list[TextEntry]]:
    """The features of these texts, batch by batch, the shortest texts first.

    A batch of another size may round otherwise: what is cached is encoded in batches of BATCH; a single query would cost as much as those.
    """
    tokens = [clip.tokenizer.encode(text) for text in texts]
    ids_NL, length_N = clip.to_ids(tokens, max_words)
    positions = np.array([clip.positions(int(length)) for length in length_N])
    for count in np.unique(positions):
        alike = np.flatnonzero(positions == count)
        for first in range(0, len(alike), batch_size):
            batch = alike[first : first + batch_size]
            sentence_ND, token_NLD = clip.encode_texts(ids_NL[batch, :count], batch_size)
            # Copies: a view would keep the features of all positions of the batch until the part is written.
            yield [
                TextEntry(texts[i], token_NLD[n, : int(length_N[i])].copy(), sentence_ND[n], clip.tokenizer.count(tokens[i]))
                for n, i in enumerate(batch)
            ]


@dataclass(frozen=True)
class Unread:
    """Texts that CLIP did not read as a whole: of `count` different ones those that were cut, to `most` tokens, and those in which its
    tokenizer finds no word."""

    count: int
    most: int
    cut: list[str]
    empty: list[str]

    def lines(self) -> Iterator[str]:
        """In sentences, where there are such texts."""
        if self.cut:
            yield f"{len(self.cut):,} of {self.count:,} texts have more than {self.most} tokens and were cut, such as {quote(self.cut[0])}"
        if self.empty:
            yield f"{len(self.empty):,} of {self.count:,} texts have no word that the model reads, such as {quote(self.empty[0])}"


def find_unread(captions: Iterable[str], cache: FeatureCache, clip: Clip) -> Unread:
    """Those of these captions that are in the cache and were not read as a whole, also if they were encoded long ago."""
    texts = [text for text in dict.fromkeys(captions) if ("texts", text) in cache]
    cut = cache.truncated_texts(texts, lambda text: clip.tokenizer.count(clip.tokenizer.encode(text)))
    empty = [text for text, length in zip(texts, cache.text_lengths(texts), strict=True) if length == START_AND_END]
    return Unread(len(texts), int(cache.settings["max_words"]), cut, empty)
