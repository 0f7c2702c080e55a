"""Pictures of frames that are kept beside their features, as JPEG."""

import io

from PIL import Image

THUMBNAIL_SIDE = 112
THUMBNAIL_QUALITY = 75
"""With that side about 2 KB a frame: docs/extraction.md has the figures."""

PIXELS_QUALITY = 95
"""With colour at full resolution, values differ by a few levels of 255 from the picture that the encoder saw."""


def thumbnail(image: Image.Image) -> bytes:
    """A whole frame, never enlarged, its longer side at most THUMBNAIL_SIDE pixels."""
    small = image.copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return _jpeg(small, quality=THUMBNAIL_QUALITY, optimize=True)


def pixels(picture: Image.Image) -> bytes:
    """A picture as the encoder sees it before normalisation (`Clip.shrink`), nearly as it is."""
    return _jpeg(picture, quality=PIXELS_QUALITY, subsampling="4:4:4")


def _jpeg(image: Image.Image, **settings: int | str) -> bytes:
    content = io.BytesIO()
    image.save(content, format="JPEG", **settings)
    return content.getvalue()
