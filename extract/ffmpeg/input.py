"""Open an untrusted file in ffmpeg: no other file or address, and only containers that hold their own pictures."""

from typing import Any

import ffmpeg

from data.datasets.containers import FORMATS
from extract.ffmpeg.run import SOURCE

MAX_PIXELS = 8192 * 8192


def video_file(**options: Any) -> Any:
    """The file that replaces SOURCE, as the input of a graph. `options` are further ffmpeg options."""
    return ffmpeg.input(SOURCE, protocol_whitelist="file", format_whitelist=FORMATS, max_pixels=MAX_PIXELS, **options)
