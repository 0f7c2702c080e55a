"""Load the CLIP that made a cache again: search encodes queries with it, and fine-tuning trains it."""

import torch

from data.base.errors import UserError
from data.cache import FeatureCache
from extract.encode.clip import Clip, load_clip
from extract.encode.models import HUB, LOCAL, RANDOM, Precision, open_clip
from extract.encode.preprocessing import from_cache


def reload_clip(
    cache: FeatureCache, device: torch.device, model: str | None = None, pretrained: str | None = None, precision: Precision | None = None
) -> Clip:
    """Load the CLIP that made a cache, by default from the place that the cache records.

    `model` and `pretrained` override that place, for a model that has moved. `precision` defaults to the cache's. Raises UserError if the
    CLIP cannot be loaded, or if its weights, configuration or preprocessing differ from those that made the cache.
    """
    made, settings = cache.extraction, cache.settings
    name, weights = model or made.model, pretrained
    if name is None:
        raise UserError(f"{cache.path} does not say which CLIP made it: name it with --model and --pretrained")
    # A model folder named here brings its own weights, which replace the tag or file that the cache records.
    brings_its_own = model is not None and model.startswith((LOCAL, HUB)) and made.pretrained != RANDOM
    if weights is None and not brings_its_own:
        weights = made.pretrained
    open_clip()  # fail here if it is not installed, not with the message that the CLIP has moved
    try:
        clip = load_clip(
            name, weights, device, made.seed, precision or settings["precision"], from_cache(settings), settings["special_tokens"]
        )
    except UserError as error:
        if model or pretrained:
            raise
        raise UserError(f"the CLIP that made {cache.path} is not where it was ({error}): name it with --model and --pretrained") from error
    _check_same(clip, cache, name if weights is None else f"{name} with {weights}")
    return clip


def _check_same(clip: Clip, cache: FeatureCache, loaded: str) -> None:
    """Raise UserError if a CLIP is not the one that made the cache; `loaded` is its name in the message."""
    if clip.digest != cache.weights:
        raise UserError(
            f"{loaded} has the weights {clip.digest[:12]}..., but the cache {cache.path} was made with {cache.weights[:12]}...: "
            "name the same with --pretrained FILE, or with --model local-dir:FOLDER"
        )
    if clip.architecture != cache.settings["architecture"]:
        raise UserError(
            f"{loaded} has the weights of the cache {cache.path} but another configuration, such as its activation: name the same --model"
        )
    if clip.tokenizer.identity != cache.settings.get("tokenizer"):
        raise UserError(
            f"{loaded} has the weights of the cache {cache.path} but another tokenizer: name the same --model, or extract again, "
            "if the tokenizer was changed where it was published"
        )
    there = clip.image_settings()
    differing = [f"{key} is {value} and was {cache.settings[key]}" for key, value in there.items() if cache.settings[key] != value]
    if differing:
        raise UserError(
            f"{loaded} preprocesses pictures differently from the CLIP that made the cache {cache.path} ({'; '.join(differing)}): "
            "name the same --model, or extract again"
        )
