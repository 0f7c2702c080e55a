"""Encode texts in batches of similar length: a causal text tower needs no more positions than a text has tokens.

Shape suffixes: N texts of a batch, L text positions, D joint dimension.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.base.quoting import quote
from data.cache import FeatureCache, TextEntry
from extract.encode.clip import BATCH, Clip

POSITIONS_A_START = 30
"""Positions of texts for which ViT-B/32's tower takes as long as to start a batch, on 2 cores: it reads its weights from memory."""


def encode_texts(texts: Sequence[str], clip: Clip, max_words: int, batch_size: int = BATCH) -> Iterator[list[TextEntry]]:
    """Encode texts, and yield their features batch by batch, shortest texts first.

    Features of another batch size may round differently, so everything in the cache is encoded with BATCH. For a single query a smaller
    `batch_size` saves the cost of the padding.
    """
    tokenized = _Tokenized(texts, clip, max_words)
    for count in np.unique(tokenized.position_N):
        alike = np.flatnonzero(tokenized.position_N == count)
        for first in range(0, len(alike), batch_size):
            yield tokenized.encode(alike[first : first + batch_size], batch_size)


def encode_together(texts: Sequence[str], clip: Clip, max_words: int) -> list[TextEntry]:
    """Features of a few texts, in as few batches as saves time, shortest texts first.

    A feature differs from that of the text alone by the rounding of float32.
    """
    tokenized = _Tokenized(texts, clip, max_words)
    entries: list[TextEntry] = []
    batch: list[int] = []
    for i in np.argsort(tokenized.position_N, kind="stable").tolist():
        padding = int((tokenized.position_N[i] - tokenized.position_N[batch]).sum())
        if padding > POSITIONS_A_START:
            entries += tokenized.encode(batch, len(batch))
            batch = []
        batch.append(i)
    return [*entries, *tokenized.encode(batch, len(batch))]


class _Tokenized:
    """Texts as token ids, and the number of positions that each needs of the text tower."""

    def __init__(self, texts: Sequence[str], clip: Clip, max_words: int) -> None:
        self._texts, self._clip = texts, clip
        self._tokens = [clip.tokenizer.encode(text) for text in texts]
        self._ids_NL, self._length_N = clip.to_ids(self._tokens, max_words)
        self.position_N = np.array([clip.positions(int(length)) for length in self._length_N])

    def encode(self, batch: Sequence[int] | NDArray[np.int64], batch_size: int) -> list[TextEntry]:
        """The features of some of the texts, at the positions of the longest of them, in a batch that is padded to `batch_size`."""
        sentence_ND, token_NLD = self._clip.encode_texts(self._ids_NL[batch, : self.position_N[batch].max()], batch_size)
        # Copy: a view would keep the whole batch in memory until the part is written.
        return [
            TextEntry(
                self._texts[i], token_NLD[n, : int(self._length_N[i])].copy(), sentence_ND[n], self._clip.tokenizer.count(self._tokens[i])
            )
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
