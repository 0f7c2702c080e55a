"""Makes strips of cached thumbnails as small JPEG files. The page embeds each strip once, however often it shows it.

A strip has one column for every frame that the head saw. With more than COLUMNS frames, a column stands for consecutive frames.
"""

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data.base.errors import UserError
from data.cache import FeatureCache
from data.sampling import choose_frames

COLUMNS = 12
HEIGHT = 64
QUALITIES = (75, 60, 50, 40, 30, 20)
BYTES = 2_600_000
"""Limit for all pictures of a report together. The highest of QUALITIES that stays below is used, or else the last."""


@dataclass(frozen=True)
class Picture:
    """A JPEG in base64, the name of its CSS class, and its width in pixels."""

    name: str
    width: int
    base64: str


class Pictures:
    """Collects the strips of videos and encodes them together, because the quality depends on how many there are."""

    def __init__(self, cache: FeatureCache, max_frames: int | None) -> None:
        """`max_frames`: the limit that the features were loaded with."""
        self._cache, self._max_frames = cache, max_frames
        self._strips: dict[str, Image.Image | None] = {}

    def add(self, video_id: str) -> None:
        """Add the strip of a video; does nothing if the cache has no thumbnails of it."""
        if video_id not in self._strips:
            files = self._cache.images("thumbnails", video_id)
            self._strips[video_id] = self._strip(video_id, files) if files else None

    def encode(self) -> dict[str, Picture]:
        """The encoded strips by video id. Videos with identical files share a strip."""
        strips = {video_id: strip for video_id, strip in self._strips.items() if strip is not None}
        for quality in QUALITIES:
            files = {video_id: _jpeg(strip, quality) for video_id, strip in strips.items()}
            if sum(map(len, set(files.values()))) * 4 / 3 <= BYTES:
                break
        names = {file: f"p{i}" for i, file in enumerate(dict.fromkeys(files.values()))}
        return {
            video_id: Picture(names[file], strips[video_id].width, base64.b64encode(file).decode("ascii"))
            for video_id, file in files.items()
        }

    def _strip(self, video_id: str, files: Sequence[bytes]) -> Image.Image:
        """Draw the middle frame of every column, side by side."""
        seen = choose_frames(len(files), self._max_frames)
        edges = column_edges(len(seen))
        try:
            frames = [_small(files[seen[(first + last) // 2]]) for first, last in itertools.pairwise(edges)]
        except OSError as error:
            raise UserError(
                f"a thumbnail of video {video_id} cannot be read ({error}): python -m data.verify {self._cache.path}"
            ) from error
        width = max(frame.width for frame in frames)
        strip = Image.new("RGB", (width * len(frames), HEIGHT))
        for column, frame in enumerate(frames):
            strip.paste(frame, (column * width, 0))
        return strip


def column_edges(frames: int) -> NDArray[np.int64]:
    """Column offsets [C + 1]: column i covers frames edges[i]:edges[i + 1]."""
    columns = min(frames, COLUMNS)
    return np.arange(columns + 1) * frames // columns


def _small(file: bytes) -> Image.Image:
    with Image.open(io.BytesIO(file)) as image:
        image.draft("RGB", (image.width * HEIGHT // image.height, HEIGHT))
        return image.convert("RGB").resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT), Image.Resampling.LANCZOS)


def _jpeg(strip: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    strip.save(file, format="JPEG", quality=quality, optimize=True)
    return file.getvalue()
