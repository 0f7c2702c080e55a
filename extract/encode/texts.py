"""Encode texts in batches of similar length: a causal text tower needs no more positions than a text has tokens.

Shape suffixes: N texts of a batch, L text positions, D joint dimension.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data.base.quoting import quote
from data.cache import FeatureCache, TextEntry
from extract.encode.clip import BATCH, Clip


def encode_texts(texts: Sequence[str], clip: Clip, max_words: int, batch_size: int = BATCH) -> Iterator[list[TextEntry]]:
    """Encode texts, and yield their features batch by batch, shortest texts first.

    Features of another batch size may round differently, so everything in the cache is encoded with BATCH. For a single query a smaller
    `batch_size` saves the cost of the padding.
    """
    tokens = [clip.tokenizer.encode(text) for text in texts]
    ids_NL, length_N = clip.to_ids(tokens, max_words)
    positions = np.array([clip.positions(int(length)) for length in length_N])
    for count in np.unique(positions):
        alike = np.flatnonzero(positions == count)
        for first in range(0, len(alike), batch_size):
            batch = alike[first : first + batch_size]
            sentence_ND, token_NLD = clip.encode_texts(ids_NL[batch, :count], batch_size)
            # Copy: a view would keep the whole batch in memory until the part is written.
            yield [
                TextEntry(texts[i], token_NLD[n, : int(length_N[i])].copy(), sentence_ND[n], clip.tokenizer.count(tokens[i]))
                for n, i in enumerate(batch)
            ]


@dataclass(frozen=True)
class Unread:
    """Texts that CLIP did not read in full, out of `count` distinct texts.

    `cut` lists the texts that were cut to `most` tokens, `empty` those in which the tokenizer finds no word.
    """

    count: int
    most: int
    cut: list[str]
    empty: list[str]

    def lines(self) -> Iterator[str]:
        """One sentence for each kind of text that occurs."""
        if self.cut:
            yield f"{len(self.cut):,} of {self.count:,} texts have more than {self.most} tokens and were cut, such as {quote(self.cut[0])}"
        if self.empty:
            yield f"{len(self.empty):,} of {self.count:,} texts have no word that the model can read, such as {quote(self.empty[0])}"


def find_unread(captions: Iterable[str], cache: FeatureCache, clip: Clip) -> Unread:
    """The cached captions among these that CLIP did not read in full, including those of earlier runs."""
    texts = [text for text in dict.fromkeys(captions) if ("texts", text) in cache]
    cut = cache.truncated_texts(texts, lambda text: clip.tokenizer.count(clip.tokenizer.encode(text)))
    empty = [text for text, length in zip(texts, cache.text_lengths(texts), strict=True) if length == clip.tokenizer.empty_length]
    return Unread(len(texts), int(cache.settings["max_words"]), cut, empty)
