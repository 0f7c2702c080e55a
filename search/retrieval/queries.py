"""Text queries, encoded by the CLIP that made the cache.

Shape suffixes: A texts, T tokens of all texts together, D joint dimension.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from data.base.errors import UserError
from data.base.progress import Progress
from data.cache import FeatureCache, TextEntry
from data.cache.features import Ragged, TextFeatures
from data.sampling import choose_words
from extract.encode.clip import BATCH
from extract.encode.reload import reload_clip
from extract.encode.texts import encode_texts, encode_together
from extract.encode.tokens import Cut, Tokenizer
from search.index.words import ContentWords
from search.query.query import Picture

MAX_QUERY = 10_000
"""Characters. CLIP reads a few hundred at most; the longest paragraph in the field's data sets has fewer than 5,000."""


def clean_query(text: str) -> str:
    """The query in a form that tokenizers, terminals and web pages accept; see `clean_text`.

    Raises UserError if nothing is left, or if the text is longer than MAX_QUERY characters.
    """
    if len(text) > MAX_QUERY:
        raise UserError(f"the query has {len(text):,} characters: shorten it to {MAX_QUERY:,} or fewer")
    query = clean_text(text)
    if not query:
        raise UserError("the query is empty: describe what to look for")
    return query


def cut_texts(texts: TextFeatures, most_words: int | None) -> TextFeatures:
    """The texts with at most this many words each: see `choose_words`. None for no limit."""
    if most_words is None or int(texts.words.length_N.max()) <= most_words:
        return texts
    words = [texts.words.gather([i])[0].numpy() for i in range(len(texts.texts))]
    kept = [word_TD[choose_words(len(word_TD), most_words)] for word_TD in words]
    return replace(texts, words=Ragged.in_memory(np.concatenate(kept), np.cumsum([0, *map(len, kept)])))


def clean_text(text: str) -> str:
    """The text with lone surrogates replaced by `?` and control characters by spaces, stripped; possibly empty."""
    whole = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(" " if unicodedata.category(character) == "Cc" else character for character in whole).strip()


class QueryEncoder:
    """Encodes new texts with the CLIP that made the cache."""

    def __init__(
        self, cache: FeatureCache, model: str | None, pretrained: str | None, device: torch.device, *most_words: int | None
    ) -> None:
        """Load the CLIP that the cache names, or the one that `model` and `pretrained` name if it has moved.

        `most_words`: the token limit of every head that reads the texts, None for no limit. Texts keep the words that any of these heads
        reads, and each head cuts them to its own limit. Raises UserError if the CLIP cannot be loaded or is not the one that
        made the cache.
        """
        self._clip = reload_clip(cache, device, model, pretrained)
        # A cache of imported features may not know how many tokens its CLIP takes.
        self._max_words = min(int(cache.settings["max_words"]), self._clip.context_length)
        limits = [most for most in most_words if most is not None]
        self._kept_words = max(limits) if len(limits) == len(most_words) else None
        self._fewest_words = min(limits, default=None)
        self._dtype = cache.settings["dtype"]

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of that CLIP."""
        return self._clip.tokenizer

    @cached_property
    def content_words(self) -> ContentWords:
        """The content words of texts that this object encodes."""
        return ContentWords(self.tokenizer, self._max_words)

    def cut_of(self, text: str) -> tuple[Cut | None, str]:
        """Where a text is cut, None if it is not, and the reason: see `Notes`. Of several heads, the one that reads least counts."""
        most = self._max_words if self._fewest_words is None else min(self._fewest_words, self._max_words)
        cut = self.tokenizer.cut_of(text, most)
        if cut is None:
            return None, ""
        if cut.tokens < most:
            return cut, ", at a special token, like the captions of this cache"
        if most < self._max_words:
            return cut, f", the head's limit; its sentence feature covers {self._max_words}"
        return cut, ", like the captions of the cache" if most < self._clip.context_length else ""

    def encode(self, texts: Sequence[str]) -> TextFeatures:
        """Features of a few queries, each encoded in a batch of its own so that they do not depend on each other."""
        return self._features(texts, [entry for batch in encode_texts(texts, self._clip, self._max_words, 1) for entry in batch])

    def encode_together(self, texts: Sequence[str]) -> TextFeatures:
        """Like `encode`, but in few batches, which takes less than half of the time for a dozen texts. Single numbers may be rounded to the
        next one."""
        return self._features(texts, encode_together(texts, self._clip, self._max_words))

    def shrunk(self, picture: Picture) -> Picture:
        """The picture in the size that CLIP sees. Its feature stays the same, bit for bit."""
        return replace(picture, image=self._clip.shrink(picture.image))

    def encode_picture(self, picture: Picture) -> NDArray[np.float32]:
        """The feature of a picture [D], prepared as frames are, and rounded as in the cache."""
        image_CHW = self._clip.to_tensor(self._clip.shrink(picture.image))
        feature_D: NDArray[np.float32] = self._clip.encode_images(image_CHW[None]).feature_ND[0].astype(self._dtype).astype(np.float32)
        return feature_D

    def encode_many(self, texts: Sequence[str], quiet: bool) -> TextFeatures:
        """Features of many captions, encoded in batches as in extraction."""
        entries: list[TextEntry] = []
        with Progress("captions", len(texts), "captions", quiet) as progress:
            for batch in encode_texts(texts, self._clip, self._max_words, BATCH):
                entries += batch
                progress.update(len(batch))
        return self._features(texts, entries)

    def _features(self, texts: Sequence[str], entries: Sequence[TextEntry]) -> TextFeatures:
        """Features in the order of the texts, rounded and cut as in the cache, so that a caption scores as it does in an evaluation."""
        by_text = {entry.text: entry for entry in entries}
        ordered = [by_text[text] for text in texts]
        words = [entry.words_TD[choose_words(len(entry.words_TD), self._kept_words)] for entry in ordered]
        words_TD = np.concatenate(words).astype(self._dtype)
        sentence_AD = np.stack([entry.sentence_D for entry in ordered]).astype(self._dtype)
        starts = np.cumsum([0, *map(len, words)])
        return TextFeatures(list(texts), Ragged.in_memory(words_TD, starts), Ragged.in_memory(sentence_AD, np.arange(len(texts) + 1)))
