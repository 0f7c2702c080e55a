"""Read a stream of binary PPM pictures. Their headers give the size, so the video need not be probed first."""

from collections.abc import Iterator
from typing import IO

from PIL import Image


def read_ppm(stream: IO[bytes]) -> Iterator[Image.Image]:
    """Yield RGB pictures until the stream ends or a line does not start a picture. That line is consumed."""
    while stream.readline() == b"P6\n":
        width, height = map(int, stream.readline().split())
        stream.readline()  # the maximum value, 255 for rgb24
        pixels = stream.read(3 * width * height)
        if len(pixels) == 3 * width * height:
            yield Image.frombytes("RGB", (width, height), pixels)
