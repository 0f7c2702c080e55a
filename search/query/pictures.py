"""Reads the picture of a query, which may come from anybody: its size is limited before it is decoded."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import BoundedSemaphore

from PIL import Image, ImageFile, ImageOps

from data.base.errors import Unavailable, UserError
from data.base.quoting import quote
from search.query.query import Picture

MAX_BYTES = 20 * 2**20
"""Bytes of a picture file: more than a telephone's camera writes."""
MAX_PIXELS = 80_000_000
"""Pixels of a picture: 320 MB when decoded, and below the number at which Pillow warns."""
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")

MOST_WAITING = 16
"""Pictures that may wait for another to be decoded. Each holds a thread of the server."""

_DECODER = ThreadPoolExecutor(1, "pictures")
"""A large picture takes 300 to 700 MB while it is decoded and turned upright, so that threads of a server take turns. They also leave it to
one thread: the C library keeps some of what each thread has freed."""
_PLACES = BoundedSemaphore(1 + MOST_WAITING)


def read_picture(path: Path, name: str) -> Picture:
    """The picture in a file. `name` is what the user calls the option, for errors. Raises UserError if it is none, or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name} {path} cannot be read ({error.strerror}): name a picture file") from error
    return decode_picture(content, path.name, f"{name} {path}")


def decode_picture(content: bytes, name: str, place: str) -> Picture:
    """The picture in these bytes, upright, in RGB, its first frame if it moves. `place` begins an error.

    Raises UserError if it is no picture of a known format, or exceeds MAX_BYTES or MAX_PIXELS, and Unavailable if too many pictures wait.
    """
    if len(content) > MAX_BYTES:
        raise UserError(f"{place}: the picture has more than {MAX_BYTES // 2**20} MiB: make it smaller")
    if not _PLACES.acquire(blocking=False):
        raise Unavailable(f"{MOST_WAITING} pictures are waiting to be read already: try again in a few seconds")
    try:
        return Picture(name, _DECODER.submit(_decoded, content).result())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow raises these too, when it has read no more than the header.
        raise UserError(f"{place}: the picture has more than {MAX_PIXELS:,} pixels: make it smaller") from error
    except (OSError, ValueError, SyntaxError, EOFError, MemoryError) as error:
        raise UserError(f"{place}: {quote(name)} is no picture that can be read: use JPEG, PNG or WebP") from error
    finally:
        _PLACES.release()


def _decoded(content: bytes) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError
        _require_fast(image)
        ImageOps.exif_transpose(image, in_place=True)
        return _on_black(image)


def _require_fast(image: Image.Image) -> None:
    """Raise ValueError for what Pillow decodes in Python: a few KB of a run-length encoded BMP take it half a minute."""
    if isinstance(image, ImageFile.ImageFile) and any(codec in Image.DECODERS for codec, *_ in image.tile):
        raise ValueError("decoded in Python")


def _on_black(image: Image.Image) -> Image.Image:
    """In RGB; transparency over black, as extraction shows it."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image if image.mode == "RGBA" else image.convert("RGBA")
    opaque = Image.new("RGB", layered.size)
    opaque.paste(layered, mask=layered)
    return opaque
