"""How many captions of a cache were cut."""

from collections.abc import Sequence

from data.cache import FeatureCache
from data.errors import UserError
from extract.models import load_tokenizer
from extract.tokens import Tokenizer


def count_cut(cache: FeatureCache, captions: Sequence[str]) -> int | None:
    """How many of these captions, all there, have more tokens than the cache keeps.

    A cache of format 3 does not say; its model's tokenizer is then asked, and where that cannot be had the answer is None.
    """
    loaded: list[Tokenizer] = []

    def count(text: str) -> int:
        if not loaded:
            model = cache.provenance.get("options", {}).get("model")
            if model is None:
                raise UserError(f"{cache.path} does not say which model made it")
            loaded.append(load_tokenizer(model, cache.settings["special_tokens"]))
        return loaded[0].count(loaded[0].encode(text))

    try:
        cut = set(cache.cut_texts(list(dict.fromkeys(captions)), count))
    except UserError:
        return None
    return sum(caption in cut for caption in captions)
