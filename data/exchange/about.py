"""The JSON file of `--about`: what features do not say about the CLIP that made them."""

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache.extraction import Extraction
from data.cache.layout import LOGIT_SCALE, NO_CLIP, ClipParts
from data.datasets.files import read_json

IMPORTED = "imported"
"""The setting that marks a cache of imported features. Its value is the version of the settings below."""
CONTEXT_LENGTH = 77
"""CLIP's: assumed if the JSON does not say how many tokens a text may have."""
IMAGES = ("image_size", "image_mean", "image_std", "image_resize", "image_fill", "resize_on")
"""The keys of `preprocessing`, as extraction records them."""
INSIDE = ("token_shift", "token_clusters")
"""The keys of what happened inside the vision tower, as extraction records them; left out if nothing did."""
IMAGE_VALUES = {
    "image_size": "a list [height, width] of pixels",
    "image_mean": "a list of three numbers",
    "image_std": "a list of three numbers",
    "image_resize": 'text such as "bicubic, shortest"',
    "image_fill": "a whole number",
    "resize_on": 'the text "device"',
}
LARGEST_SCALE = 1e6
"""Above any logit scale."""
CLUSTERS = re.compile(r"segments=[1-9][0-9]*,medoids=[1-9][0-9]*,block=[1-9][0-9]*", re.ASCII)
"""`token_clusters` as extraction records it."""
DIGEST = re.compile(r"[0-9a-f]{64}")
UNKNOWN = "unknown-"
"""Prefix of `weights` in the settings if the JSON does not give the digest."""


@dataclass(frozen=True)
class About:
    """What is known about the CLIP that made imported features. Every field may be left out.

    model, pretrained: open_clip's names, or any text that tells this encoder from others. Search loads the CLIP by these names.
    weights: the SHA-256 that extraction records for these weights.
    logit_scale: the factor of the scores, not its logarithm.
    context_length: tokens of the longest text, start and end included.
    preprocessing: how pictures were prepared: `image_size`, `image_mean`, `image_std`, `image_resize`, `image_fill`,
        `resize_on`.
    token_shift: true if patches were shifted between frames (`extract --token-shift`).
    token_clusters: how patches were clustered over frames, in the form of `extract --token-clusters`.
    """

    model: str | None = None
    pretrained: str | None = None
    weights: str | None = None
    logit_scale: float = LOGIT_SCALE
    context_length: int = CONTEXT_LENGTH
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    token_shift: bool | None = None
    token_clusters: str | None = None

    def settings(self, dimension: int, dtype: str) -> dict[str, Any]:
        """The settings of a cache of features [*, dimension] that this CLIP made."""
        values = asdict(self)
        known = {name: values[name] for name in ("model", "pretrained", "logit_scale")}
        inside = {name: values[name] for name in INSIDE if values[name] is not None}
        identity = hashlib.sha256(json.dumps([known | inside, dict(self.preprocessing)], sort_keys=True).encode()).hexdigest()
        return {
            IMPORTED: 1,
            **known,
            **self.preprocessing,
            **inside,
            "weights": self.weights or UNKNOWN + identity[:16],
            "dimension": dimension,
            "max_words": self.context_length,
            "dtype": dtype,
            "pictures": "unknown",
            "special_tokens": "letters",
        }

    def parts(self) -> ClipParts:
        """The parts of CLIP that stage two needs; its text blocks are unknown."""
        return ClipParts(NO_CLIP.tensors, self.logit_scale, NO_CLIP.heads, NO_CLIP.activation)

    def extraction(self) -> Extraction:
        """Where to find the CLIP. `seed` is that of random weights, which nobody imports."""
        return Extraction(self.model, self.pretrained)

    def limits(self) -> str:
        """One line that says what will not work with the cache."""
        queries = "" if self.model else "queries in search (give `model` and `pretrained`, or name the CLIP when you search), "
        return f"imported features: what will not work is {queries}--temporal-init clip, --finetune, and pictures in reports and on pages"


KINDS: Mapping[str, tuple[type, ...]] = {
    "model": (str,),
    "pretrained": (str,),
    "weights": (str,),
    "logit_scale": (int, float),
    "context_length": (int,),
    "preprocessing": (dict,),
    "token_shift": (bool,),
    "token_clusters": (str,),
}
WANTED = {name: {str: "text", dict: "an object", int: "a number", bool: "true"}[kinds[0]] for name, kinds in KINDS.items()}


def read_about(path: Path) -> About:
    """Read the JSON. Raises UserError, naming the nearest key, if it is malformed or has an unknown key."""
    if not path.is_file():
        raise UserError(f"--about {path} does not exist: write a JSON object with some of {', '.join(KINDS)}")
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"--about {path}: expected a JSON object with some of {', '.join(KINDS)}")
    _require_known(found, KINDS, f"--about {path}")
    for name, value in found.items():
        if not isinstance(value, KINDS[name]) or isinstance(value, bool) != (name == "token_shift") or value == "" or value is False:
            raise UserError(f"--about {path}: {name} is {quote(value)}: expected {WANTED[name]}")
    _require_known(found.get("preprocessing", {}), dict.fromkeys(IMAGES), f"--about {path}: preprocessing")
    for name, value in found.get("preprocessing", {}).items():
        if not _is_recorded(name, value):
            raise UserError(f"--about {path}: preprocessing: {name} is {quote(value)}: expected {IMAGE_VALUES[name]}")
    about = About(**found)
    if not 0 < about.logit_scale < LARGEST_SCALE:
        raise UserError(
            f"--about {path}: logit_scale is {quote(about.logit_scale)}: expected the factor itself, such as 100, not its logarithm"
        )
    if not 2 <= about.context_length <= 100_000:
        raise UserError(f"--about {path}: context_length is {about.context_length}: expected the most tokens of a text, such as 77")
    if about.weights is not None and not DIGEST.fullmatch(about.weights):
        raise UserError(f"--about {path}: weights is {quote(about.weights)}: expected the 64 hexadecimal digits of a SHA-256")
    if about.token_clusters is not None and not CLUSTERS.fullmatch(about.token_clusters):
        raise UserError(
            f"--about {path}: token_clusters is {quote(about.token_clusters)}: expected text such as segments=3,medoids=49,block=6"
        )
    # 100 and 100.0 are one scale, and must give one digest of the settings.
    return replace(about, logit_scale=float(about.logit_scale))


def _is_recorded(name: str, value: Any) -> bool:
    """Whether extraction could have recorded this value of `preprocessing`."""
    if name == "image_resize":
        return isinstance(value, str) and len(value.split(", ")) == 2
    if name == "image_fill":
        return type(value) is int
    if name == "resize_on":
        return isinstance(value, str) and value == "device"
    length, kinds = (2, (int,)) if name == "image_size" else (3, (int, float))
    return isinstance(value, list) and len(value) == length and all(type(number) in kinds for number in value)


def recorded_about(settings: Mapping[str, Any]) -> About:
    """What the settings of a cache of imported features record."""
    known = {name: settings[name] for name in ("model", "pretrained", "logit_scale") if settings.get(name) is not None}
    weights = str(settings["weights"])
    if not DIGEST.fullmatch(weights) and not weights.startswith(UNKNOWN):
        # Written from Python, where any text may tell the encoder from others.
        known.setdefault("model", weights)
    return About(
        **known,
        weights=weights if DIGEST.fullmatch(weights) else None,
        context_length=int(settings["max_words"]),
        preprocessing={name: settings[name] for name in IMAGES if name in settings},
        **inside_of(settings),
    )


def inside_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What the settings of a cache record of the inside of the vision tower; empty if nothing happened there."""
    return {name: settings[name] for name in INSIDE if name in settings}


def _require_known(found: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    for name in found:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UserError(f"{where}: {quote(name)} is not a key: {f'did you mean {near[0]}?' if near else 'use ' + ', '.join(known)}")
