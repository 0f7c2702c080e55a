"""JPEG pictures of frames that the cache keeps next to the features."""

import io

from PIL import Image

THUMBNAIL_SIDE = 112
THUMBNAIL_QUALITY = 75
"""At this size about 2 KB per frame; docs/design/extraction.md has the figures."""

PIXELS_QUALITY = 95
"""With colour at full resolution, values differ from the encoder's input by a few levels of 255."""


def small(image: Image.Image) -> Image.Image:
    """Shrink a frame so that its longer side is at most THUMBNAIL_SIDE pixels; never enlarge it."""
    scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
    width, height = (max(1, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def thumbnail_file(small_image: Image.Image) -> bytes:
    """A picture from `small` as a JPEG file."""
    return _jpeg(small_image, quality=THUMBNAIL_QUALITY, optimize=True)


def pixels_file(picture: Image.Image) -> bytes:
    """A picture from `Clip.shrink` as a JPEG file of high quality."""
    return _jpeg(picture, quality=PIXELS_QUALITY, subsampling="4:4:4")


def read_pixels(file: bytes) -> Image.Image:
    """The picture in a file from `pixels_file`. Raises OSError if it is damaged."""
    return Image.open(io.BytesIO(file)).convert("RGB")


def _jpeg(image: Image.Image, **settings: int | str) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", **settings)
    return content.getvalue()
