"""From a video file to the pictures the encoder sees: 1 frame a second (or --fps), in order, as RGB.

Frame k of a video is the one on the screen k / fps seconds after its start: the last frame that begins at or before that moment, or the
first of all. A video starts with its file, or with its first frame where that comes more than a second later (LATE_S): sound alone has no
frames. In MPEG streams and Ogg it always starts with its first frame.

A part from `start` to `end` has the frames at the moments start + k / fps before `end`. Its first frame is the first that begins in it, as
seeking gives it, unless none does within 1 / fps seconds: then it is the one that is on the screen.

A frame may stay on the screen for ten minutes (LONGEST_STILL_S). Where the next one comes later than that, or more than a second before the
one on the screen (BACK_S), the clock of the recording was set: the next frame follows after the time that the one before it took, or after
1 / fps seconds if that is less, and time goes on from there. `Sampled.clock_jumps` counts how often that was done.

Each frame has the size, the format of pixels and the range of colours that the stream says at that place.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image

from data.sampling import choose_frames
from data.span import WHOLE_FILE, Span
from extract.decode.by_ffmpeg import by_ffmpeg
from extract.decode.frames import DecodeFailed, Picture, Sampled, Sampling
from extract.decode.pyav import NotPlain, PyavProcesses
from extract.decode.reasons import ENCRYPTED, is_encrypted
from extract.ffmpeg.clock import LONGEST_STILL_S
from extract.ffmpeg.header import LATE_S
from extract.ffmpeg.input import MAX_PIXELS

__all__ = ["DecodeFailed", "Sampled", "Sampling", "sample_frames"]


def sample_frames(
    path: Path,
    sampling: Sampling,
    shrink: Callable[[Image.Image], Picture],
    span: Span = WHOLE_FILE,
) -> Sampled[Picture]:
    """Decode frames of the best video stream of a file, handing each to `shrink` as it comes, in order.

    Without `max_frames` every sampled frame is handed over once. With it, some more than those chosen may be. Frames are rotated as the
    file says; `span` cuts a part out of the file. Raises DecodeFailed for what is no regular file, holds no video,
    takes longer than the time limit, or ends in an error before its announced length.
    """
    if not path.is_file():
        raise DecodeFailed("no regular file")
    if path.stat().st_size == 0:
        raise DecodeFailed("the file is empty")
    if is_encrypted(path):
        raise DecodeFailed(ENCRYPTED)
    deadline = time.monotonic() + sampling.time_limit_s
    # Where every frame is handed over once, in order, what a decoder gave before it failed is not handed over again.
    takes = _made_once(shrink) if sampling.max_frames is None else itertools.repeat(shrink)
    if sampling.pyav is not None and span.is_whole:
        with suppress(NotPlain):
            return _by_pyav(sampling.pyav, path, sampling, next(takes), deadline)
    if sampling.cuda is not None and sampling.cuda.works:
        try:
            sampled = by_ffmpeg(path, span, sampling, takes, deadline)
        except DecodeFailed:
            if time.monotonic() >= deadline:
                raise
        else:
            sampling.cuda.succeeded()
            return replace(sampled, decoder="cuda")
        sampled = by_ffmpeg(path, span, replace(sampling, cuda=None), takes, deadline)
        # Only now: a video that the CPU cannot decode either says nothing about the GPU.
        sampling.cuda.failed()
        return sampled
    return by_ffmpeg(path, span, replace(sampling, cuda=None), takes, deadline)


def _made_once(shrink: Callable[[Image.Image], Picture]) -> Iterator[Callable[[Image.Image], Picture]]:
    """`shrink` for one attempt after the other at the same frames: each frame is handed to it once, and remembered."""
    made: list[Picture] = []
    while True:
        count = itertools.count()

        def take(image: Image.Image, count: Iterator[int] = count) -> Picture:
            place = next(count)
            if place == len(made):
                made.append(shrink(image))
            return made[place]

        yield take


def _by_pyav(
    pyav: PyavProcesses, path: Path, sampling: Sampling, shrink: Callable[[Image.Image], Picture], deadline: float
) -> Sampled[Picture]:
    """What PyAV makes of a plain video. Raises NotPlain for any other, which ffmpeg is to judge."""

    def choose(count: int) -> list[int]:
        return [int(k) for k in choose_frames(count, sampling.max_frames)]

    asked = {"fps": str(sampling.fps), "max_pixels": MAX_PIXELS, "display": sampling.pictures == "display"}
    asked |= {"longest_still": LONGEST_STILL_S, "late": LATE_S}
    try:
        pictures, chosen = pyav.decode(path, asked, choose, shrink, max(deadline - time.monotonic(), 0.0))
    except TimeoutError as error:
        raise DecodeFailed(f"not done after {sampling.time_limit_s:g} s (--time-limit)") from error
    return Sampled(pictures, [i / sampling.fps for i in chosen], decoder="pyav")
