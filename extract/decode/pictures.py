"""Pictures of frames that are kept beside their features, as JPEG."""

import io

from PIL import Image

THUMBNAIL_SIDE = 112
THUMBNAIL_QUALITY = 75
"""With that side about 2 KB a frame: docs/design/extraction.md has the figures."""

PIXELS_QUALITY = 95
"""With colour at full resolution, values differ by a few levels of 255 from the picture that the encoder saw."""


def small(image: Image.Image) -> Image.Image:
    """A whole frame, never enlarged, its longer side at most THUMBNAIL_SIDE pixels."""
    scale = min(1.0, THUMBNAIL_SIDE / max(image.size))
    width, height = (max(1, round(scale * side)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=2.0)


def thumbnail_file(small_image: Image.Image) -> bytes:
    """What `small` gave, as JPEG."""
    return _jpeg(small_image, quality=THUMBNAIL_QUALITY, optimize=True)


def pixels_file(picture: Image.Image) -> bytes:
    """A picture as the encoder sees it before normalisation (`Clip.shrink`), nearly as it is, as JPEG."""
    return _jpeg(picture, quality=PIXELS_QUALITY, subsampling="4:4:4")


def _jpeg(image: Image.Image, **settings: int | str) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", **settings)
    return content.getvalue()
