"""How ffmpeg opens a file that nobody vouches for: it alone, and only as a container that holds its own pictures."""

from typing import Any

import ffmpeg

from data.datasets.containers import FORMATS
from extract.ffmpeg.run import SOURCE

MAX_PIXELS = 8192 * 8192


def video_file(**options: Any) -> Any:
    """The file in place of SOURCE, as the input of a graph with further options of ffmpeg's."""
    return ffmpeg.input(SOURCE, protocol_whitelist="file", format_whitelist=FORMATS, max_pixels=MAX_PIXELS, **options)
