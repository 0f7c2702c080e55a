"""Small videos made for tests: frame i, of the first 60 and again from there, is grey with the level 4 i + 8."""

from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
from PIL import Image

from extract.ffmpeg.run import encode_video, run_ffmpeg

SIDE = 32


def numbered_video(path: Path, frames: int, fps: int) -> Path:
    """A plain H.264 file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = b"".join(bytes([4 * (i % 60) + 8]) * (SIDE * SIDE * 3) for i in range(frames))
    encode_video(path, pixels, SIDE, SIDE, fps)
    return path


def frame_number(image: Image.Image) -> int:
    return round((float(np.asarray(image).mean()) - 8) / 4)


def convert(graph: Any) -> bytes:
    """Run a graph of ffmpeg-python; its standard output."""
    return run_ffmpeg(graph.overwrite_output(), read=lambda running: running.stdout.read(), time_limit_s=60)[0]


def pattern(**settings: Any) -> Any:
    """A moving test pattern, `size`, `rate` and `duration` as ffmpeg's testsrc takes them."""
    return ffmpeg.input("testsrc=" + ":".join(f"{key}={value}" for key, value in settings.items()), f="lavfi")


def cut_video(path: Path, frames: int = 100, fps: int = 5, share: float = 0.6) -> Path:
    """A file that breaks off, its header still announcing everything."""
    whole = numbered_video(path.with_name(f"whole {path.name}"), frames, fps)
    convert(ffmpeg.input(f"file:{whole}").output(f"file:{path}", c="copy", movflags="faststart"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    whole.unlink()
    return path
