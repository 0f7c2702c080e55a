"""What --token-shift and --token-clusters change between the blocks of an image tower, and which towers they fit."""

import re
from dataclasses import dataclass
from typing import Any

from data.base.errors import UserError
from extract.encode.image.blocks import Blocks
from extract.encode.image.shift import FEWEST_PATCHES
from extract.options import ExtractOptions

SHIFTED_BLOCKS = 2
"""The last blocks, whose attention sees shifted tokens."""
KEYS = ("segments", "medoids", "block")
EXAMPLE = "segments=3,medoids=49,block=6"


@dataclass(frozen=True)
class Clusters:
    """The value of --token-clusters: S segments of a video, K medoids of each, after block B, counted from 1."""

    segments: int
    medoids: int
    block: int

    @classmethod
    def of(cls, option: str) -> "Clusters":
        """Read SEGMENTS, MEDOIDS and BLOCK in any order. Raises UserError for anything else."""
        found: dict[str, int] = {}
        for part in option.split(","):
            key, _, number = part.strip().partition("=")
            if key not in KEYS or key in found:
                which = "is given twice" if key in found else f"is not one of {', '.join(KEYS)}"
                raise UserError(f"--token-clusters {option}: {key!r} {which}: write them as in {EXAMPLE}")
            if not re.fullmatch(r"0*[1-9][0-9]{0,8}", number, re.ASCII):
                raise UserError(f"--token-clusters {option}: {key} must be a whole number of at least 1")
            found[key] = int(number)
        missing = [key for key in KEYS if key not in found]
        if missing:
            raise UserError(f"--token-clusters {option}: {' and '.join(missing)} missing: write them as in {EXAMPLE}")
        return cls(**found)

    def __str__(self) -> str:
        return f"segments={self.segments},medoids={self.medoids},block={self.block}"


@dataclass(frozen=True)
class Inside:
    """What happens inside the tower, beside its own blocks: the shift, the clusters, or nothing. Not both."""

    shift: bool = False
    clusters: Clusters | None = None

    @classmethod
    def of(cls, options: ExtractOptions) -> "Inside":
        """What the options ask for. Raises UserError for values that are wrong whatever the model is."""
        if options.token_clusters is None:
            return cls(options.token_shift)
        clusters = Clusters.of(options.token_clusters)
        where = f"--token-clusters {options.token_clusters}"
        if options.token_shift:
            raise UserError(f"{where}: medoids have no place in a neighbouring frame that --token-shift could shift: leave one of both out")
        if options.store_pixels:
            raise UserError(f"{where}: --store-pixels keeps pictures for fine-tuning, which does not cluster tokens: leave one of both out")
        if options.max_frames == "all":
            raise UserError(f"{where}: --max-frames must be a number, since all frames of a video are held until they are clustered")
        return cls(clusters=clusters)

    def settings(self) -> dict[str, Any]:
        """The settings of a cache that these make; none for nothing, as in caches from before there was a choice."""
        shift = {"token_shift": True} if self.shift else {}
        return shift if self.clusters is None else {**shift, "token_clusters": str(self.clusters)}

    def __str__(self) -> str:
        """As options; empty for nothing."""
        return " ".join(["--token-shift"] * self.shift + ([] if self.clusters is None else [f"--token-clusters {self.clusters}"]))

    def require_fits(self, model: str, blocks: Blocks | None, patches: int) -> None:
        """Raise UserError unless a tower with these blocks and this number of patch tokens can do it."""
        if self.shift:
            _require_blocks("--token-shift", model, blocks)
            if patches < FEWEST_PATCHES:
                raise UserError(f"--token-shift: {model} has {patches} patch tokens a frame, which must be at least {FEWEST_PATCHES}")
        if self.clusters is not None:
            where = f"--token-clusters {self.clusters}"
            found = _require_blocks(where, model, blocks)
            if self.clusters.medoids > patches:
                raise UserError(f"{where}: medoids must be at most {patches}, the patch tokens of a frame of {model}")
            if self.clusters.block >= len(found.blocks):
                raise UserError(f"{where}: block must be below {len(found.blocks)}, the number of blocks of {model}")
            if found.relative:
                raise UserError(f"{where}: the attention of {model} needs the patches in their places: use another model, or leave it out")


UNCHANGED = Inside()
"""The tower as it is."""


def _require_blocks(where: str, model: str, blocks: Blocks | None) -> Blocks:
    if blocks is None:
        raise UserError(
            f"{where}: the image tower of {model} is not a vision transformer that normalises before its attention: use one, such as "
            "ViT-B-32, or leave it out"
        )
    return blocks
