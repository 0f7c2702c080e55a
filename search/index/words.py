"""Candidates by the words of a text: the videos nearest to its sentence feature and to the features of its content words, joined.

Content words are all words but stop words and punctuation. The vector of a word is the text tower's feature of its last token, which the
cache holds for every caption; docs/design/scale.md compares it with others. Each vector finds K videos by their nearest frame. The lists
are joined into one of K by reciprocal rank fusion (Cormack et al. 2009), in which the sentence weighs as much as all words together:

    score(v) = m / (60 + r_0(v)) + sum over the m content words of 1 / (60 + r_w(v))        r: rank, from 1; 1 / infinity if not found

Shape suffixes: A texts, Q queries of all texts, M entries of the lists of one text, V videos in any of them, K videos found, D dimension.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache import FeatureCache
from data.cache.features import TextFeatures
from data.sampling import choose_words
from extract.encode.models import load_tokenizer
from extract.encode.tokens import Tokenizer

RANK_CONSTANT = 60
"""The constant of reciprocal rank fusion in its paper, by which first ranks differ less."""
DECIMALS = 12
"""Fused scores are rounded to these, so that the order in which equal summands are added does not decide."""
NOT_OF_A_WORD = re.compile(r"[\W_]+")

_LISTED = """
i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its itself they them
their theirs themselves what which who whom this that these those am is are was were be been being have has had having do does did doing
would should could ought a an the and but if or because as until while of at by for with about against between into through during before
after above below to from up down in out on off over under again further then once here there when where why how all any both each few
more most other some such no nor not only own same so than too very cannot

s t d m ll re ve isn aren wasn weren hasn haven hadn doesn don didn wouldn shan shouldn couldn mustn
"""
# The last line has the pieces of contractions, which tokenizers split at the apostrophe.
STOP_WORDS = frozenset(_LISTED.split())
"""The English stop words of Snowball, https://snowballstem.org/algorithms/english/stop.txt. Longer lists, made for web pages, hold words
that captions are about, such as "man", "fire" and "computer"."""


class Word(NamedTuple):
    """A content word, in lower case, and the places of its first and last token."""

    text: str
    first: int
    last: int


class ContentWords:
    """Finds the content words of texts among their token features."""

    def __init__(self, tokenizer: Tokenizer, max_words: int) -> None:
        """`max_words`: the most tokens that a text keeps, start and end included."""
        self._tokenizer, self._max_words = tokenizer, max_words

    @classmethod
    def of_cache(cls, cache: FeatureCache, texts: Sequence[str]) -> "ContentWords":
        """For cached texts, with the tokenizer that the cache names.

        Raises UserError if the cache names none, if it cannot be loaded, or if it splits a text into another number of tokens.
        """
        needs, remedy = f"--candidates-from words needs the tokenizer of the CLIP that made {cache.path}", "use --candidates-from frames"
        model = cache.extraction.model
        if model is None:
            raise UserError(f"{needs}, and the cache does not record which CLIP that was: {remedy}")
        try:
            tokenizer = load_tokenizer(model, cache.settings["special_tokens"])
        except UserError as error:
            raise UserError(f"{needs}, which is not available ({error}): put it back, or {remedy}") from error
        words = cls(tokenizer, int(cache.settings["max_words"]))
        for text, length in zip(texts, cache.text_lengths(texts), strict=True):
            count = len(tokenizer.spell(text, words._max_words))
            if count != length:
                raise UserError(f"{needs}, and that of {model} splits {quote(text)} into {count} tokens, not {length}: {remedy}")
        return words

    def find(self, text: str, length: int) -> list[Word]:
        """The content words of a text among its `length` token features, in order."""
        whole = self._tokenizer.spell(text, self._max_words)
        # A head may read fewer words than the cache holds.
        spelled = [whole[i] for i in choose_words(len(whole), length)]
        assert len(spelled) == length
        before, after = self._tokenizer.marks
        return [Word(word, before + first, before + last) for word, first, last in split_words(spelled[before : length - after])]

    def queries(self, texts: TextFeatures, some: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Unit vectors [Q, D] of the texts at these indices, for each its sentence and then its content words; and their numbers [A]."""
        sentence_AD, _ = texts.sentences.gather(some)
        word_RD, length_A = texts.words.gather(some)
        vectors, counts, first = [], [], 0
        for a, sentence_D, length in zip(some, sentence_AD, length_A.tolist(), strict=True):
            rows = [first + word.last for word in self.find(texts.texts[a], length)]
            vectors.append(torch.cat([sentence_D[None], word_RD[rows]]))
            counts.append(1 + len(rows))
            first += length
        return normalize(torch.cat(vectors), dim=-1).numpy(), np.array(counts, dtype=np.int64)


def split_words(spelled: Sequence[str]) -> list[Word]:
    """The content words of tokens from `Tokenizer.spell`, without the special tokens.

    >>> [tuple(word) for word in split_words(["a ", "skate", "boarder ", "on ", "the ", "beach ", ", "])]
    [('skateboarder', 1, 2), ('beach', 5, 5)]
    """
    found, pieces = [], list[tuple[str, int]]()
    for i, token in enumerate(spelled):
        bare = NOT_OF_A_WORD.sub("", token)
        if bare:
            pieces.append((bare, i))
        if token.endswith(" ") or i + 1 == len(spelled):
            word = "".join(piece for piece, _ in pieces).lower()
            if word and word not in STOP_WORDS:
                found.append(Word(word, pieces[0][1], pieces[-1][1]))
            pieces.clear()
    return found


def join_lists(video_QK: NDArray[np.int64], count_A: NDArray[np.int64]) -> NDArray[np.int64]:
    """Join the lists of each text, its sentence's first, into one of K videos [A, K], best first.

    `count_A`: number of lists of each text. -1 stands for a missing video. Equal scores come in the order of the sentence's list, and
    videos that it lacks by number.
    """
    k = video_QK.shape[1]
    joined_AK = np.full((len(count_A), k), -1)
    for joined_K, lists_QK in zip(joined_AK, np.split(video_QK, np.cumsum(count_A)[:-1]), strict=True):
        best = _fused(lists_QK)[:k]
        joined_K[: len(best)] = best
    return joined_AK


def _fused(lists_QK: NDArray[np.int64]) -> NDArray[np.int64]:
    """All videos of the lists of one text, best first."""
    queries, k = lists_QK.shape
    weight_QK = np.tile(1 / (RANK_CONSTANT + np.arange(1, k + 1)), (queries, 1))
    weight_QK[0] *= max(1, queries - 1)
    video_M, weight_M = lists_QK.ravel(), weight_QK.ravel()
    there = video_M >= 0
    video_V, first_V, of_M = np.unique(video_M[there], return_index=True, return_inverse=True)
    score_V = np.bincount(of_M, weight_M[there]).round(DECIMALS)
    # The sentence's list comes first, so the first entry of a video is its place there.
    rank_V = np.minimum(np.flatnonzero(there)[first_V], k)
    return video_V[np.lexsort((video_V, rank_V, -score_V))]
