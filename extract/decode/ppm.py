"""Pictures in a stream, one binary PPM file after the other: their headers carry the size, so that nobody has to probe the video first."""

from collections.abc import Iterator
from typing import IO

from PIL import Image


def read_ppm(stream: IO[bytes]) -> Iterator[Image.Image]:
    """The RGB pictures of a stream, until it ends or a line comes that begins none. That line is read too."""
    while stream.readline() == b"P6\n":
        width, height = map(int, stream.readline().split())
        stream.readline()  # the largest value, 255 for rgb24
        pixels = stream.read(3 * width * height)
        if len(pixels) == 3 * width * height:
            yield Image.frombytes("RGB", (width, height), pixels)
