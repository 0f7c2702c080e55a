"""Frames by ffmpeg, which takes any video: in sequence, or sought where few are wanted of a long one."""

import math
import re
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import ffmpeg
from PIL import Image

from data.containers import FORMATS
from data.ffmpeg import SOURCE, FfmpegFailed, Running, last_words, run_ffmpeg
from data.sampling import choose_frames
from extract.frames import MAX_PIXELS, DecodeFailed, Picture, Sampled, Sampling
from extract.ppm import read_ppm
from extract.reasons import reason_of

SEEK_APART_S = 15.0
"""Chosen frames so many seconds apart or more are sought one by one: decoding from the last key frame then costs less than all between."""

TAIL_S = 10.0
"""The end of a long video, decoded to count its frames as a decoding of the whole would."""

GUESS = 2
"""How many sampled frames the length in the header may be wrong by before a video is decoded a second time."""


@dataclass(frozen=True)
class Part:
    """The part of a file that is looked at, in seconds."""

    path: Path
    start: float
    end: float | None

    def length(self, said: str) -> float | None:
        """Its seconds, as far as the header tells."""
        found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", said)
        if not found:
            return None
        duration = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
        return min(duration, self.end if self.end is not None else duration) - self.start


class _FarApart(Exception):
    """The frames to choose are so far apart that they are better sought; `length` in seconds is the header's."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length


class _NotThere(Exception):
    """Seeking gave no frame where the header announces one."""


def by_ffmpeg(part: Part, sampling: Sampling, shrink: Callable[[Image.Image], Picture], deadline: float) -> Sampled[Picture]:
    """What ffmpeg makes of any video: in sequence, or sought where the chosen frames are far apart."""
    try:
        return _in_sequence(part, sampling, shrink, deadline)
    except _FarApart as far:
        length = far.length
    except FfmpegFailed as error:
        raise _failed(part, error) from error
    try:
        try:
            return _by_seeking(part, length, sampling, shrink, deadline)
        except (_NotThere, FfmpegFailed):
            # Cut short, damaged, or without an index: decoding all of it says which frames there are.
            return _in_sequence(part, sampling, shrink, deadline, seek=False)
    except FfmpegFailed as error:
        raise _failed(part, error) from error


def _failed(part: Part, error: FfmpegFailed) -> DecodeFailed:
    return DecodeFailed(reason_of(part.path, error.said, error.reason), error.words)


def _in_sequence(
    part: Part, sampling: Sampling, shrink: Callable[[Image.Image], Picture], deadline: float, *, seek: bool = True
) -> Sampled[Picture]:
    """Decode everything from start to end, keeping what is wanted."""
    limit = sampling.max_frames

    def keep(running: Running, wanted: Collection[int] | None) -> tuple[dict[int, Picture], int]:
        kept: dict[int, Picture] = {}
        count = 0
        for image in read_ppm(running.stdout):
            if wanted is None and limit is not None:
                length = part.length(running.said())
                if seek and length is not None and length >= SEEK_APART_S * limit and length * sampling.fps > limit:
                    raise _FarApart(length)
                wanted = _could_be_chosen(length, sampling.fps, limit)
            if wanted is None or count in wanted:
                kept[count] = shrink(image)
            count += 1
        return kept, count

    (kept, count), said = _run(part, sampling, deadline, lambda running: keep(running, None))
    expected = _check(said, count, part, sampling)
    chosen = choose_frames(count, limit).tolist()
    if not kept.keys() >= set(chosen):
        (kept, _), _ = _run(part, sampling, deadline, lambda running: keep(running, set(chosen)))
        if not kept.keys() >= set(chosen):
            raise DecodeFailed("decoded twice, it gave different numbers of frames: was it being written?")
    return Sampled([kept[i] for i in chosen], [part.start + i / sampling.fps for i in chosen], expected, _hdr(said))


def _by_seeking(
    part: Part, length: float, sampling: Sampling, shrink: Callable[[Image.Image], Picture], deadline: float
) -> Sampled[Picture]:
    """Decode the chosen frames alone: the same that decoding in sequence gives, as long as the key frames can be found.

    Raises _NotThere where there is no frame at a moment before the announced end.
    """
    fps = sampling.fps
    assert sampling.max_frames is not None
    first = max(0, math.floor((length - TAIL_S) * fps))
    counted, said = _run(_from(part, first / fps), sampling, deadline, lambda running: sum(1 for _ in read_ppm(running.stdout)))
    if not counted:
        raise _NotThere
    chosen = choose_frames(first + counted, sampling.max_frames).tolist()
    # Seeking gives frames that begin at or after a moment, so it goes to a moment before: the second frame is then the one on the screen.
    lead = min(1.0, 1 / fps)
    pictures: list[Picture] = []
    for k in chosen:
        before = max(0.0, k / fps - lead)
        count = 2 if k else 1
        found, _ = _run(
            _from(part, before),
            replace(sampling, fps=1 / lead),
            deadline,
            lambda running, count=count: [shrink(image) for i, image in enumerate(read_ppm(running.stdout)) if i == count - 1],  # type: ignore[misc]
            frames=count,
        )
        if not found:
            raise _NotThere
        pictures += found
    _require_no_cover(said)
    return Sampled(pictures, [part.start + k / fps for k in chosen], None, _hdr(said))


def _from(part: Part, seconds: float) -> Part:
    """The part without its first seconds."""
    return replace(part, start=part.start + seconds)


Result = TypeVar("Result")


def _run(
    part: Part, sampling: Sampling, deadline: float, read: Callable[[Running], Result], frames: int | None = None
) -> tuple[Result, str]:
    """`read` of the frames of a part of a file as a stream of PPM, no more than `frames`, and what ffmpeg said."""
    cut: dict[str, Any] = {"ss": part.start} if part.start else {}
    if part.end is not None:
        cut["t"] = max(part.end - part.start, 0.001)
    # On the GPU the frames stay there until those wanted are chosen. Of 10 bits, or turned, they fail here and go to the CPU.
    cut |= {} if sampling.cuda is None else {"hwaccel": "cuda", "hwaccel_output_format": "cuda"}
    fetch = "" if sampling.cuda is None else ",hwdownload,format=nv12"
    # One thread: files are decoded side by side, and more threads in each would only add overhead.
    graph = ffmpeg.input(
        SOURCE, protocol_whitelist="file", format_whitelist=FORMATS, max_pixels=MAX_PIXELS, threads=1, **cut
    ).output(
        "pipe:",
        # round=up: without it the filter's frames are half a period late. start_time: else a stream that begins a moment after the start
        # (of the file, of the part) would lose its first second.
        vf=f"fps={sampling.fps}:round=up:start_time=0{fetch}",
        fps_mode="passthrough",
        format="image2pipe",
        vcodec="ppm",
        pix_fmt="rgb24",
        **({} if frames is None else {"frames:v": frames}),
    )  # fmt: skip
    left = deadline - time.monotonic()
    try:
        return run_ffmpeg(graph, source=part.path, read=read, time_limit_s=max(left, 0.0), processes=sampling.processes)
    except FfmpegFailed as error:
        if time.monotonic() < deadline:
            raise
        raise DecodeFailed(f"not done after {sampling.time_limit_s:g} s (--time-limit)", error.words) from error


def _could_be_chosen(length: float | None, fps: float, limit: int) -> Collection[int]:
    """The frames that may be among the chosen ones, the header's length being about right: no others need be held."""
    if length is None:
        return range(3 * limit)
    guess = math.ceil(length * fps)
    return {i for count in range(max(guess - GUESS, 1), max(guess + GUESS, 1) + 1) for i in choose_frames(count, limit).tolist()}


def _check(said: str, count: int, part: Part, sampling: Sampling) -> int | None:
    """ffmpeg ends with status 0 also where a file is cut short: its log tells. How many frames were expected then, else None."""
    errors = last_words(said)
    length = part.length(said)
    expected = None if length is None else int(length * sampling.fps)
    if count == 0:
        cut = bool(errors and expected)
        raise DecodeFailed(reason_of(part.path, said, "no video frames"), errors, expected if cut else None, 0 if cut else None)
    _require_no_cover(said)
    if expected is None or count >= expected or not errors:
        return None
    if not sampling.allow_partial:
        raise DecodeFailed(f"cut short: {count} of about {expected} frames; --allow-partial takes them", errors, expected, count)
    return expected


def _require_no_cover(said: str) -> None:
    if re.search(r"\(attached pic\)", _video_line(said)):
        raise DecodeFailed("no video, only a cover picture")


def _hdr(said: str) -> str:
    found = re.search(r"smpte2084|arib-std-b67", _video_line(said))
    return found[0] if found else ""


def _video_line(said: str) -> str:
    """What ffmpeg says of the stream that it decodes."""
    chosen = re.search(r"Stream #0:(\d+) -> #0:0", said)
    line = chosen and re.search(rf"Stream #0:{chosen[1]}\b.*Video: .*", said)
    return line[0] if line else ""
