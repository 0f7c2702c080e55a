"""From a video file to the pictures the encoder sees: 1 frame a second (or --fps), in order, as RGB."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Generic, TypeVar

import ffmpeg
from PIL import Image

from data.ffmpeg import SOURCE, FfmpegFailed, last_words, run_ffmpeg

TIME_LIMIT_S = 1800.0
MAX_PIXELS = 8192 * 8192

# Containers that hold their own pictures. Anything else that ffmpeg can open (playlists, scripts of file names) could make it
# read other files or the network.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,mxf,dv,rm,wtv"

Picture = TypeVar("Picture")


class DecodeFailed(Exception):
    """The video gives no frames that could be trusted; the text is one line with the decoder's last words."""


@dataclass(frozen=True)
class Sampled(Generic[Picture]):
    """The sampled frames of a video, what was made of each, and their times in seconds from the start of the video."""

    pictures: list[Picture]
    seconds: list[float]


def sample_frames(
    path: Path, fps: float, shrink: Callable[[Image.Image], Picture], start: float | None = None, end: float | None = None
) -> Sampled[Picture]:
    """Decode `fps` frames a second from the best video stream of a file, handing each to `shrink` as it comes.

    The frames are those at 0, 1/fps, 2/fps, ... seconds (the first at or after each moment), rotated as the file says; `start` and `end`
    in seconds cut a part out of the file. Raises DecodeFailed for what is no regular file, holds no video, or ends in an error before
    its announced length.
    """
    if not path.is_file() or path.stat().st_size == 0:
        raise DecodeFailed("empty, or no regular file")
    cut = {} if start is None else {"ss": start}
    if end is not None:
        cut["t"] = end - (start or 0.0)
    # One thread: files are decoded side by side, and more threads in each would only add overhead.
    graph = ffmpeg.input(
        SOURCE, protocol_whitelist="file", format_whitelist=FORMATS, max_pixels=MAX_PIXELS, threads=1, **cut
    ).output(
        "pipe:",
        # round=up: without it the filter's frames are half a period late.
        vf=f"fps={fps}:round=up",
        fps_mode="passthrough",
        format="image2pipe",
        vcodec="ppm",
        pix_fmt="rgb24",
    )  # fmt: skip
    try:
        pictures, said = run_ffmpeg(
            graph, source=path, read=lambda stdout: [shrink(image) for image in _read_ppm(stdout)], time_limit_s=TIME_LIMIT_S
        )
    except FfmpegFailed as error:
        raise DecodeFailed(str(error)) from error
    _check(said, len(pictures), fps, start or 0.0, end)
    return Sampled(pictures, [(start or 0.0) + i / fps for i in range(len(pictures))])


def _read_ppm(stdout: IO[bytes]) -> Iterator[Image.Image]:
    """The pictures of a stream of binary PPM files, whose headers carry the size, so that nobody has to probe the file first."""
    while stdout.readline() == b"P6\n":
        width, height = map(int, stdout.readline().split())
        stdout.readline()  # the largest value, 255 for rgb24
        pixels = stdout.read(3 * width * height)
        if len(pixels) == 3 * width * height:
            yield Image.frombytes("RGB", (width, height), pixels)


def _check(said: str, count: int, fps: float, start: float, end: float | None) -> None:
    """ffmpeg ends with status 0 also where a file is cut short: its log tells."""
    if count == 0:
        raise DecodeFailed(last_words(said) or "no video frames")
    chosen = re.search(r"Stream #0:(\d+) -> #0:0", said)
    if chosen and re.search(rf"Stream #0:{chosen[1]}\b.*Video: .*\(attached pic\)", said):
        raise DecodeFailed("no video, only a cover picture")
    duration = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", said)
    errors = last_words(said)
    if duration and errors:
        seconds = int(duration[1]) * 3600 + int(duration[2]) * 60 + float(duration[3])
        expected = int((min(seconds, end if end is not None else seconds) - start) * fps)
        if count < expected:
            raise DecodeFailed(f"cut short: {count} of about {expected} frames; {errors}")
