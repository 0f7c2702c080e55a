"""Counts the captions that were cut, by the cache or by the head.

The cache keeps the first `max_words` tokens of a text; CLIP never saw the rest. A head whose learned matrices support fewer
words keeps the first tokens and the end token. Its sentence feature still covers everything that CLIP saw.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.base.errors import UserError
from data.cache import FeatureCache
from extract.encode.models import load_tokenizer
from extract.encode.tokens import Tokenizer
from train_head.heads import Head


def cut_figures(cache: FeatureCache, head: Head, captions: Sequence[str]) -> dict[str, int | None]:
    """Entries for metrics.json: how many captions the cache and the head cut, and the token limit of each."""
    most = head.most_words
    return {
        "captions_cut": count_cut(cache, captions),
        "max_words": int(cache.settings["max_words"]),
        "captions_cut_by_head": 0 if most is None else int((cache.text_lengths(captions) > most).sum()),
        "head_max_words": most,
    }


def cut_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """Sentences about the captions that were cut, from metrics.json; none if nothing was cut or the results predate the count."""
    if "captions_cut" not in result:
        return
    count = f"of {result['queries']:,} captions"
    if result["captions_cut"] is None:
        yield f"how many {count} were cut to {result['max_words']} tokens is unknown: the tokenizer of the cache's model is not available"
    elif result["captions_cut"]:
        yield f"{result['captions_cut']:,} {count} have more than {result['max_words']} tokens and were cut"
    by_head = result["captions_cut_by_head"]
    if by_head:
        yield f"the head cuts texts to {result['head_max_words']} tokens: {by_head:,} {count} are longer"


def count_cut(cache: FeatureCache, captions: Sequence[str]) -> int | None:
    """How many of these captions, all of them in the cache, have more tokens than the cache keeps.

    Caches of format 3 do not record this, so their captions are tokenized again. None if that tokenizer is not available.
    """
    loaded: list[Tokenizer] = []

    def count(text: str) -> int:
        if not loaded:
            model = cache.extraction.model
            if model is None:
                raise UserError(f"{cache.path} does not record which model made it: extract again")
            loaded.append(load_tokenizer(model, cache.settings["special_tokens"]))
        return loaded[0].count(loaded[0].encode(text))

    try:
        cut = set(cache.truncated_texts(list(dict.fromkeys(captions)), count))
    except UserError:
        return None
    return sum(caption in cut for caption in captions)
