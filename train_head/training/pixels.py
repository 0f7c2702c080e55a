"""The pictures of frames that a cache stores, as inputs for CLIP.

Shape suffixes: F frames of a video, C colour channels, H and W image sides.
"""

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from data.base.errors import UserError
from data.cache import FeatureCache
from data.sampling import choose_frames


@dataclass(frozen=True)
class Pixels:
    """The pictures of these videos, at most `max_frames` each: the same frames as their features. `to_tensor` is CLIP's normalisation.

    Pictures are read on demand and decoded by threads.
    """

    cache: FeatureCache
    ids: Sequence[str]
    max_frames: int | None
    to_tensor: Callable[[Image.Image], Tensor]

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> list[Tensor]:
        """The normalised frames [F, C, H, W] of each video at these indices, as float32."""
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return list(threads.map(self._read, [self.ids[i] for i in indices]))

    def _read(self, video_id: str) -> Tensor:
        files = self.cache.images("pixels", video_id)
        try:
            chosen = [Image.open(io.BytesIO(files[i])).convert("RGB") for i in choose_frames(len(files), self.max_frames)]
        except (OSError, UnidentifiedImageError) as error:
            raise UserError(f"the pictures of {video_id} in {self.cache.path} are damaged ({error}): run extract again") from error
        return torch.stack([self.to_tensor(image) for image in chosen])


def require_pixels(cache: FeatureCache, ids: Sequence[str]) -> None:
    """Raise UserError if the features of the cache are not the tower's own, or, listing the videos, if it lacks pictures of any of them."""
    if cache.imported:
        raise UserError(
            f"--finetune: the cache {cache.path} holds imported features, without pictures: extract with --store-pixels instead"
        )
    for setting in ("token_shift", "token_clusters"):
        if setting in cache.settings:
            raise UserError(
                f"--finetune: the cache {cache.path} was made with --{setting.replace('_', '-')}, which training does not repeat: extract "
                "without it into another --cache"
            )
    lacking = [video_id for video_id in ids if "pixels" not in cache.images_of(video_id)]
    if lacking:
        raise UserError(
            f"--finetune: the cache {cache.path} has no pictures of {len(lacking)} of {len(ids)} videos, such as "
            f"{', '.join(lacking[:3])}: extract again with --store-pixels",
            [f"without pictures: {video_id}" for video_id in lacking],
        )
