"""How many captions of an evaluation were cut, by the cache or by the head.

The cache keeps `max_words` tokens of a text, and CLIP has seen no others. A head with matrices learned for fewer words reads the first of
them and the end token; its sentence feature is that of all that CLIP has seen.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from data.base.errors import UserError
from data.cache import FeatureCache
from extract.encode.models import load_tokenizer
from extract.encode.tokens import Tokenizer
from train_head.heads import Head


def cut_figures(cache: FeatureCache, head: Head, captions: Sequence[str]) -> dict[str, int | None]:
    """For metrics.json: the captions that were cut, and the tokens that were kept of them."""
    most = head.most_words
    return {
        "captions_cut": count_cut(cache, captions),
        "max_words": int(cache.settings["max_words"]),
        "captions_cut_by_head": 0 if most is None else int((cache.text_lengths(captions) > most).sum()),
        "head_max_words": most,
    }


def cut_notes(result: Mapping[str, Any]) -> Iterator[str]:
    """What metrics.json says of it, in sentences where there is something to know; earlier results say nothing."""
    if "captions_cut" not in result:
        return
    count = f"of {result['queries']:,} captions"
    if result["captions_cut"] is None:
        yield f"it is not known how many {count} were cut to {result['max_words']} tokens: the tokenizer of the cache's model is not here"
    elif result["captions_cut"]:
        yield f"{result['captions_cut']:,} {count} have more than {result['max_words']} tokens and were cut"
    by_head = result["captions_cut_by_head"]
    if by_head:
        yield f"the head takes {result['head_max_words']} tokens of a text and cuts there: {by_head:,} {count} are longer"


def count_cut(cache: FeatureCache, captions: Sequence[str]) -> int | None:
    """How many of these captions, all there, have more tokens than the cache keeps.

    A cache of format 3 does not say; its model's tokenizer is then asked, and where that cannot be had the answer is None.
    """
    loaded: list[Tokenizer] = []

    def count(text: str) -> int:
        if not loaded:
            model = cache.extraction.model
            if model is None:
                raise UserError(f"{cache.path} does not say which model made it: extract again")
            loaded.append(load_tokenizer(model, cache.settings["special_tokens"]))
        return loaded[0].count(loaded[0].encode(text))

    try:
        cut = set(cache.truncated_texts(list(dict.fromkeys(captions)), count))
    except UserError:
        return None
    return sum(caption in cut for caption in captions)
