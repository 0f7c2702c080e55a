"""Queries in words, and the features that the cache's own CLIP makes of them.

Shape suffixes: A texts, T tokens of all texts together, D joint dimension.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch

from data.base.errors import UserError
from data.base.progress import Progress
from data.cache import FeatureCache, TextEntry
from data.cache.features import Ragged, TextFeatures
from data.sampling import choose_words
from extract.encode.clip import BATCH
from extract.encode.reload import reload_clip
from extract.encode.texts import encode_texts
from extract.encode.tokens import Cut, Tokenizer

MAX_QUERY = 10_000
"""Characters. A CLIP reads some hundred at most; the longest genuine paragraph of the field's data sets has fewer than 5,000."""


def clean_query(text: str) -> str:
    """A query as a tokenizer, a terminal and a page can take it: halves of characters become `?`, control characters blanks.

    Raises UserError where nothing is left, and where it is longer than MAX_QUERY characters.
    """
    if len(text) > MAX_QUERY:
        raise UserError(f"the query has {len(text):,} characters: shorten it to {MAX_QUERY:,} or fewer")
    query = shown(text)
    if not query:
        raise UserError("the query is empty: say in words what to look for")
    return query


def shown(text: str) -> str:
    """A text as it is shown and encoded, without control characters and blanks around it; empty where nothing else is in it."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in whole).strip()


class QueryEncoder:
    """The CLIP that made a cache, for texts that are not in it."""

    def __init__(
        self, cache: FeatureCache, model: str | None, pretrained: str | None, device: torch.device, most_words: int | None
    ) -> None:
        """Load it as the cache says, or from where `model` and `pretrained` say that it is now; `most_words` are those that the head takes.

        Raises UserError where it cannot be had, and where it is not the CLIP that made the cache.
        """
        self._clip = reload_clip(cache, device, model, pretrained)
        self._max_words, self._most_words, self._dtype = int(cache.settings["max_words"]), most_words, cache.settings["dtype"]

    @property
    def tokenizer(self) -> Tokenizer:
        """What reads the words."""
        return self._clip.tokenizer

    def cut_of(self, text: str) -> tuple[Cut | None, str]:
        """Where a text is cut, if it is, and why there: see `Notes`."""
        most = self._max_words if self._most_words is None else min(self._most_words, self._max_words)
        cut = self.tokenizer.cut_of(text, most)
        if cut is None:
            return None, ""
        if cut.tokens < most:
            return cut, ", by a special token, as the captions of this cache were"
        if most < self._max_words:
            return cut, f", all the words that the head takes; of its sentence {self._max_words} count"
        return cut, ", as the captions of the cache were" if most < self._clip.context_length else ""

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of a few queries, each encoded alone: they depend on nothing beside it, and one costs no more than one."""
        return self._features(texts, [entry for batch in encode_texts(texts, self._clip, self._max_words, 1) for entry in batch])

    def encode_many(self, texts: Sequence[str], quiet: bool) -> TextFeatures:
        """Features of many captions, in batches, as extraction makes them."""
        entries: list[TextEntry] = []
        with Progress("captions", len(texts), "captions", quiet) as progress:
            for batch in encode_texts(texts, self._clip, self._max_words, BATCH):
                entries += batch
                progress.update(len(batch))
        return self._features(texts, entries)

    def _features(self, texts: Sequence[str], entries: Sequence[TextEntry]) -> TextFeatures:
        """In the order of the texts, rounded as in the cache and cut as from there: a caption that is searched for scores as in an
        evaluation."""
        by_text = {entry.text: entry for entry in entries}
        ordered = [by_text[text] for text in texts]
        words = [entry.words_TD[choose_words(len(entry.words_TD), self._most_words)] for entry in ordered]
        words_TD = np.concatenate(words).astype(self._dtype)
        sentence_AD = np.stack([entry.sentence_D for entry in ordered]).astype(self._dtype)
        starts = np.cumsum([0, *map(len, words)])
        return TextFeatures(list(texts), Ragged.in_memory(words_TD, starts), Ragged.in_memory(sentence_AD, np.arange(len(texts) + 1)))
