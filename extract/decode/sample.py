"""Sample a video file into the pictures that the encoder sees: 1 frame per second (or --fps), in order, as RGB.

Sampled frame k is the frame on the screen k / fps seconds after the start of the video: the last frame that begins at or before that time,
or else the first frame. For frames that begin at 0.0, 0.4, 0.9 and 1.4 s, fps=2 samples

    k      0    1    2    3
    time   0.0  0.5  1.0  1.5
    frame  0.0  0.4  0.9  1.4

A video starts with its file, or with its first frame if that comes more than a second later (LATE_S), since sound alone has no frames. In
MPEG streams and Ogg it always starts with its first frame.

A span from `start` to `end` has the frames at the times start + k / fps before `end`. Its first frame is the first one that begins in the
span, as seeking returns it. If none begins within 1 / fps seconds, it is the frame on the screen at `start`.

A frame may stay on the screen for ten minutes (LONGEST_STILL_S). If the next one comes later than that, or more than a second before the
current one (BACK_S), the clock of the recording has jumped. The next frame then follows after the duration of the previous one, at most
1 / fps seconds, and time continues from there. `Sampled.clock_jumps` counts these jumps.

Each frame has the size, pixel format and colour range that the stream declares at that point.
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
    """Decode the best video stream of a file, and pass each sampled frame to `shrink`, in order, as it is decoded.

    Without `max_frames`, each sampled frame is passed once. With it, frames that are not chosen in the end may be passed too. Frames are
    rotated as the file says. `span` limits sampling to a part of the file. Raises DecodeFailed if the file is not a regular file, holds no
    video, exceeds the time limit, or ends in an error before its announced length.
    """
    if not path.is_file():
        raise DecodeFailed("not a regular file")
    if path.stat().st_size == 0:
        raise DecodeFailed("the file is empty")
    if is_encrypted(path):
        raise DecodeFailed(ENCRYPTED)
    deadline = time.monotonic() + sampling.time_limit_s
    # Without a limit each frame is passed once, so a second attempt must not pass again what a failed one has passed.
    callbacks = _made_once(shrink) if sampling.max_frames is None else itertools.repeat(shrink)
    if sampling.pyav is not None and span.is_whole:
        with suppress(NotPlain):
            return _by_pyav(sampling.pyav, path, sampling, next(callbacks), deadline)
    if sampling.cuda is not None and sampling.cuda.works:
        try:
            sampled = by_ffmpeg(path, span, sampling, callbacks, deadline)
        except DecodeFailed:
            if time.monotonic() >= deadline:
                raise
        else:
            sampling.cuda.succeeded()
            return replace(sampled, decoder="cuda")
        sampled = by_ffmpeg(path, span, replace(sampling, cuda=None), callbacks, deadline)
        # Only now: if the CPU cannot decode the video either, the GPU is not at fault.
        sampling.cuda.failed()
        return sampled
    return by_ffmpeg(path, span, replace(sampling, cuda=None), callbacks, deadline)


def _made_once(shrink: Callable[[Image.Image], Picture]) -> Iterator[Callable[[Image.Image], Picture]]:
    """Callbacks for successive attempts at the same frames: they call `shrink` once per frame and remember the results."""
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
    """Sample a plain video with PyAV. Raises NotPlain for any other video, which is left to ffmpeg."""

    def choose(count: int) -> list[int]:
        return [int(k) for k in choose_frames(count, sampling.max_frames)]

    rule = {"fps": str(sampling.fps), "max_pixels": MAX_PIXELS, "display": sampling.pictures == "display"}
    rule |= {"longest_still": LONGEST_STILL_S, "late": LATE_S}
    try:
        pictures, chosen = pyav.decode(path, rule, choose, shrink, max(deadline - time.monotonic(), 0.0))
    except TimeoutError as error:
        raise DecodeFailed(f"not done after {sampling.time_limit_s:g} s (--time-limit)") from error
    return Sampled(pictures, [i / sampling.fps for i in chosen], decoder="pyav")
