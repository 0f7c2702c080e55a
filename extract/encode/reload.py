"""Load the CLIP that made a cache again: search encodes queries with it, and fine-tuning trains it."""

import re

import numpy as np
import torch

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache import FeatureCache
from data.cache.layout import UNRECORDED
from data.compute.processor import Precision
from extract.encode.clip import Clip, load_clip
from extract.encode.library import open_clip
from extract.encode.models import HUB, LOCAL, RANDOM
from extract.encode.preprocessing import from_cache
from extract.encode.texts import encode_texts

DIGEST = re.compile(r"[0-9a-f]{64}")
"""The form of `weights` in the settings, unless the features were imported and nobody knows the weights."""
COMPARED = 8
"""Cached texts that are encoded again to recognise a CLIP whose digest is unknown."""
LEAST_COSINE = 0.99
"""Between a cached sentence feature and the same text encoded again. Rounding to float16 and other precisions stay above it."""


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
    pictures = from_cache(settings) if "image_mean" in settings and "image_resize" in settings else {}
    open_clip()  # fail here if it is not installed, not with the message that the CLIP has moved
    try:
        clip = load_clip(
            *(name, weights, device, made.seed, precision or settings.get("precision", "fp32"), pictures, settings["special_tokens"]),
            resize_on=settings.get("resize_on", UNRECORDED["resize_on"]),
            matmul=settings.get("matmul", UNRECORDED["matmul"]),
        )
    except UserError as error:
        if model or pretrained:
            raise
        raise UserError(f"the CLIP that made {cache.path} is not where it was ({error}): name it with --model and --pretrained") from error
    _check_same(clip, cache, name if weights is None else f"{name} with {weights}")
    return clip


def _check_same(clip: Clip, cache: FeatureCache, loaded: str) -> None:
    """Raise UserError if a CLIP is not the one that made the cache; `loaded` is its name in the message."""
    if cache.imported and not DIGEST.fullmatch(cache.weights):
        _check_sentences(clip, cache, loaded)
    elif clip.digest != cache.weights:
        raise UserError(
            f"{loaded} has the weights {clip.digest[:12]}..., but the cache {cache.path} was made with {cache.weights[:12]}...: "
            "name the same with --pretrained FILE, or with --model local-dir:FOLDER"
        )
    if clip.architecture != cache.settings.get("architecture", clip.architecture):
        raise UserError(
            f"{loaded} has the weights of the cache {cache.path} but another configuration, such as its activation: name the same --model"
        )
    if clip.tokenizer.identity != cache.settings.get("tokenizer"):
        raise UserError(
            f"{loaded} has the weights of the cache {cache.path} but another tokenizer: name the same --model, or extract again, "
            "if the tokenizer was changed where it was published"
        )
    there = clip.image_settings()
    differing = [
        f"{key} is {value} and was {cache.settings[key]}" for key, value in there.items() if cache.settings.get(key, value) != value
    ]
    if differing:
        raise UserError(
            f"{loaded} preprocesses pictures differently from the CLIP that made the cache {cache.path} ({'; '.join(differing)}): "
            "name the same --model, or extract again"
        )


def _check_sentences(clip: Clip, cache: FeatureCache, loaded: str) -> None:
    """Raise UserError if the CLIP encodes cached texts to other sentence features. For imported features without a digest."""
    if clip.dimension != cache.dimension:
        raise UserError(
            f"{loaded} makes features {clip.dimension} wide, and the cache {cache.path} holds {cache.dimension}: name another CLIP"
        )
    texts = cache.names("texts")[:COMPARED]
    if not texts:
        raise UserError(f"{cache.path} has neither texts nor the digest of its weights to recognise {loaded} by: import texts, or weights")
    most = min(int(cache.settings["max_words"]), clip.context_length)
    for entry in (entry for batch in encode_texts(texts, clip, most) for entry in batch):
        cached_D, sentence_D = (torch.from_numpy(np.asarray(x, dtype=np.float64)) for x in (cache.sentence(entry.text), entry.sentence_D))
        cosine = float(torch.cosine_similarity(cached_D, sentence_D, dim=0))
        if cosine < LEAST_COSINE:
            raise UserError(
                f"{loaded} does not encode texts as in the cache {cache.path}: the cosine of {quote(entry.text)} to its cached feature is "
                f"{cosine:.2f}: name the CLIP that made the features with --model and --pretrained"
            )
