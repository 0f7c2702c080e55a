"""The pictures that a cache keeps beside the features of a video's frames, as CLIP takes them.

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
    """The frames of these videos, thinned out to `max_frames` as their features are; `to_tensor` is CLIP's own normalisation.

    Pictures are read when they are used, and decoded by threads.
    """

    cache: FeatureCache
    ids: Sequence[str]
    max_frames: int | None
    to_tensor: Callable[[Image.Image], Tensor]

    def read(self, indices: Sequence[int] | NDArray[np.int64]) -> list[Tensor]:
        """The frames [F, C, H, W] of each of the videos with these indices, normalised, float32."""
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
    """Raises UserError, which lists them, where the cache has no pictures of some of these videos."""
    lacking = [video_id for video_id in ids if "pixels" not in cache.images_of(video_id)]
    if lacking:
        raise UserError(
            f"--finetune: the cache {cache.path} has no pictures of {len(lacking)} of {len(ids)} videos, such as "
            f"{', '.join(lacking[:3])}: extract again with --store-pixels",
            [f"without pictures: {video_id}" for video_id in lacking],
        )
