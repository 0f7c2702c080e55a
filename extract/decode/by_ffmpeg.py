"""Sample frames with ffmpeg, which accepts any video. It decodes in sequence, or seeks if it needs few frames of a long video."""

import math
import secrets
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from PIL import Image

from data.sampling import choose_frames
from data.span import Span
from extract.decode.frames import DecodeFailed, Picture, Sampled, Sampling
from extract.decode.reasons import reason_of
from extract.ffmpeg.clock import LONGEST_STILL_S
from extract.ffmpeg.ending import breaks_off
from extract.ffmpeg.graph import StreamNeeds, decoding_graph
from extract.ffmpeg.header import Header, read_header
from extract.ffmpeg.raw import Frame, has_alpha, on_every_tick, read_frames
from extract.ffmpeg.run import FfmpegFailed, Running, last_words, run_ffmpeg

SEEK_APART_S = 15.0
"""Seconds between chosen frames from which on each is sought: decoding from its key frame then costs less than decoding in sequence."""

TAIL_S = 10.0
"""Seconds at the end of a long video that are decoded to count its frames exactly."""

LEAD_S = 30.0
"""Seconds to start decoding ahead of the target in a container without an index. Key frames are usually closer together."""

HEADER_SLACK = 2
"""Error of the header's length, in sampled frames, that is tolerated before a video is decoded a second time."""


class _NeedsDiffer(Exception):
    """The stream has other needs than this attempt assumed."""

    def __init__(self, needs: StreamNeeds) -> None:
        super().__init__()
        self.needs = needs


class _FarApart(Exception):
    """The frames to choose are so far apart that seeking is cheaper. `length` is the header's, in seconds."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length


class _NotThere(Exception):
    """Seeking found no frame at a time before the end that the header announces."""


def by_ffmpeg(
    path: Path, span: Span, sampling: Sampling, callbacks: Iterator[Callable[[Image.Image], Picture]], deadline: float
) -> Sampled[Picture]:
    """Sample a video with ffmpeg, in sequence or by seeking. Each attempt uses the next of `callbacks`."""
    decoding = _Decoding(path, span, sampling, callbacks, deadline)
    seek = True
    while True:
        try:
            return decoding.in_sequence(seek)
        except _NeedsDiffer as other:
            decoding = replace(decoding, needs=other.needs)
        except _FarApart as far:
            # A file in which seeking fails is truncated, damaged, or has no index: decode all of it to see which frames it has.
            seek = False
            try:
                return decoding.by_seeking(far.length)
            except _NeedsDiffer as other:
                decoding, seek = replace(decoding, needs=other.needs), True
            except (_NotThere, FfmpegFailed):
                pass
        except FfmpegFailed as error:
            raise DecodeFailed(reason_of(path, error.log, error.reason), error.last_words) from error


Result = TypeVar("Result")


@dataclass(frozen=True)
class _Decoding(Generic[Picture]):
    """One attempt to decode a span of a file, and the needs of its stream that are known so far."""

    path: Path
    span: Span
    sampling: Sampling
    callbacks: Iterator[Callable[[Image.Image], Picture]]
    deadline: float
    needs: StreamNeeds = field(default_factory=StreamNeeds)

    def in_sequence(self, seek: bool) -> Sampled[Picture]:
        """Decode everything from start to end, and keep the wanted frames."""
        span, sampling, shrink = self.span, self.sampling, next(self.callbacks)
        limit = sampling.max_frames
        ticks = span.ticks(sampling.fps)
        longest = math.ceil(LONGEST_STILL_S * sampling.fps)

        def keep(running: Running, wanted: Collection[int] | None) -> tuple[dict[int, Picture], int, int, int]:
            kept: dict[int, Picture] = {}
            count = 0
            for frame in islice(on_every_tick(self._frames(running), longest), ticks):
                if wanted is None and limit is not None:
                    length = span.length(self._header(running.log.text()).length)
                    if length is not None and seek and self.needs.steady and _are_far_apart(length, sampling.fps, limit):
                        raise _FarApart(length)
                    wanted = _could_be_chosen(length, sampling.fps, limit)
                if wanted is None or count in wanted:
                    kept[count] = shrink(frame.image(sampling.pictures == "display"))
                count += 1
            return kept, count, running.log.last_error(), running.log.clock_jumps

        try:
            (kept, count, error_at, jumps), log = self._run(lambda running: keep(running, None))
        except FfmpegFailed as error:
            # If the clock differs from what was assumed, the span may have held no packets.
            header = self._header(error.log)
            if header.container:
                self._require_known_clock(header)
            raise
        header = self._require_known_clock(self._header(log))
        if not count and span.begin and (header.length is None or not header.indexed or span.begin < header.length):
            # No frame begins in the span, but an earlier one may still be on the screen.
            self._look_further_back()
        expected = self._check(log, header, count, error_at)
        chosen = choose_frames(count, limit).tolist()
        if not kept.keys() >= set(chosen):
            (kept, _, _, _), _ = self._run(lambda running: keep(running, set(chosen)))
            if not kept.keys() >= set(chosen):
                raise DecodeFailed("two decodings gave different numbers of frames: was the file being written?")
        seconds = [span.begin + i / sampling.fps for i in chosen]
        return Sampled([kept[i] for i in chosen], seconds, expected, header.hdr, clock_jumps=jumps)

    def by_seeking(self, length: float) -> Sampled[Picture]:
        """Decode only the chosen frames. They equal those of `in_sequence` as long as the key frames can be found.

        Raises _NotThere if there is no frame at a time before the announced end.
        """
        span, fps, shrink = self.span, self.sampling.fps, next(self.callbacks)
        assert self.sampling.max_frames is not None
        first = max(0, math.floor((length - TAIL_S) * fps))
        tail = self._from(first / fps, fps)
        longest = math.ceil(TAIL_S * fps)
        counted, log = tail._run(lambda running: sum(1 for _ in on_every_tick(tail._frames(running), longest)))
        if not counted or (span.end is None and breaks_off(self.path, self._header(log).container)):
            raise _NotThere
        chosen = choose_frames(first + counted, self.sampling.max_frames).tolist()
        # Seeking returns frames that begin at or after its target, so seek one lead earlier: the frame at the second
        # tick is then the one on the screen.
        lead = min(1.0, 1 / fps)
        pictures: list[Picture] = []
        for k in chosen:
            there = self._from(max(0.0, k / fps - lead), 1 / lead)
            last = 1 if k else 0

            def take(running: Running, there: "_Decoding[Picture]" = there, last: int = last) -> list[Picture]:
                # The first frame is on the screen from the start.
                found = [frame for frame in there._frames(running) if frame.tick <= last or not last]
                return [shrink(found[-1].image(self.sampling.pictures == "display"))] if found else []

            taken, _ = there._run(take, frames=last + 1)
            if not taken:
                raise _NotThere
            pictures += taken
        header = self._header(log)
        _require_no_cover(header)
        return Sampled(pictures, [span.begin + k / fps for k in chosen], None, header.hdr)

    def _frames(self, running: Running) -> Iterator[Frame]:
        """The frames of a running ffmpeg. Raises _NeedsDiffer if the stream has other needs than assumed."""
        display = self.sampling.pictures == "display"
        header: Header | None = None
        begun = False
        for frame in read_frames(running, 4 if self.needs.alpha else 3):
            header = header or self._require_known_clock(self._header(running.log.text()))
            needs = replace(self.needs, turned=self.needs.turned or running.log.turned)
            if display:
                interlaced = needs.interlaced or frame.info.interlaced
                alpha = needs.alpha or has_alpha(frame.info.pixel_format) or bool(header.alpha_decoder)
                needs = replace(needs, interlaced=interlaced, alpha=alpha, decoder=header.alpha_decoder)
            if needs != self.needs:
                raise _NeedsDiffer(needs)
            if not begun and frame.tick > 0 and self.span.begin:
                # The frame on the screen at the start of the span began before it.
                self._look_further_back()
            begun = True
            yield frame

    def _header(self, log: str) -> Header:
        header = read_header(log)
        return self.sampling.clocks.settled(self.path, header, self._seconds_left(), self.sampling.processes)

    def _require_known_clock(self, header: Header) -> Header:
        """Raise _NeedsDiffer if the clock of the file differs from what this attempt assumes."""
        assert header.late is not None
        needs = replace(self.needs, late=max(self.needs.late, header.late), recounted=header.recounted)
        if needs.steady and (self.span.begin > 0 or self.span.end is not None):
            steady = self.sampling.clocks.steady(self.path, header, self._seconds_left(), self.sampling.processes)
            needs = replace(needs, steady=steady, lead=0.0 if header.indexed else LEAD_S)
        if needs != self.needs:
            raise _NeedsDiffer(needs)
        return header

    def _look_further_back(self) -> None:
        """Raise _NeedsDiffer to start decoding earlier, unless this attempt decoded from the start of the file."""
        if self.needs.steady:
            further = self.needs.still or self.needs.lead > 0
            raise _NeedsDiffer(replace(self.needs, steady=False) if further else replace(self.needs, still=True))

    def _seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def _from(self, seconds: float, fps: float) -> "_Decoding[Picture]":
        """The span without its first `seconds`, sampled at `fps`."""
        return replace(self, span=replace(self.span, start=self.span.begin + seconds), sampling=replace(self.sampling, fps=fps))

    def _run(self, read: Callable[[Running], Result], frames: int | None = None) -> tuple[Result, str]:
        """Run ffmpeg for at most `frames` frames. Returns what `read` makes of them, and the log."""
        sampling = self.sampling
        showinfo = f"showinfo@{secrets.token_hex(8)}"
        graph = decoding_graph(self.span, sampling, self.needs, showinfo, frames)
        limit = self._seconds_left()
        try:
            return run_ffmpeg(graph, source=self.path, read=read, time_limit_s=limit, processes=sampling.processes, showinfo=showinfo)
        except FfmpegFailed as error:
            if time.monotonic() < self.deadline:
                raise
            raise FfmpegFailed(f"not done after {sampling.time_limit_s:g} s (--time-limit)", error.log) from error

    def _check(self, log: str, header: Header, count: int, error_at: int) -> int | None:
        """The number of frames expected of a truncated file, else None. ffmpeg ends with status 0 in either case.

        `error_at` is the number of frames that came out before the last error. Raises DecodeFailed if there are no frames, or if the file
        is truncated and not allowed to be.
        """
        errors = last_words(log)
        length = self.span.length(header.length)
        announced = None if length is None else int(length * self.sampling.fps)
        if count == 0:
            truncated = bool(errors and announced)
            expected, decoded = (announced, 0) if truncated else (None, None)
            raise DecodeFailed(reason_of(self.path, log, "no video frames"), errors, expected, decoded)
        _require_no_cover(header)
        if errors and announced is not None and count < announced:
            expected, reason = announced, f"{count} of about {announced} frames"
        elif self.span.end is None and self._is_truncated(header, errors, count, error_at):
            # The number of missing frames is unknown.
            expected, reason = max(announced or 0, count + 1), f"the file breaks off after {count} frames"
        else:
            return None
        if not self.sampling.allow_partial:
            raise DecodeFailed(f"cut short: {reason}; --allow-partial accepts such files", errors, expected, count)
        return expected

    def _is_truncated(self, header: Header, errors: str, count: int, error_at: int) -> bool:
        """True if the file is truncated, where the header does not give its length reliably.

        The sign is an incomplete last packet, an end that the demuxer misses, or an error in the last second.
        """
        if breaks_off(self.path, header.container):
            return True
        if not errors or (header.indexed and header.length is not None):
            return False
        return "ended prematurely" in errors or error_at >= count - math.ceil(self.sampling.fps)


def _are_far_apart(length: float, fps: float, limit: int) -> bool:
    return length >= SEEK_APART_S * limit and length * fps > limit


def _could_be_chosen(length: float | None, fps: float, limit: int) -> Collection[int]:
    """Frames that may turn out to be chosen, if the header's length is about right. Only these are kept in memory."""
    if length is None:
        return range(3 * limit)
    guess = math.ceil(length * fps)
    return {
        i for count in range(max(guess - HEADER_SLACK, 1), max(guess + HEADER_SLACK, 1) + 1) for i in choose_frames(count, limit).tolist()
    }


def _require_no_cover(header: Header) -> None:
    if header.cover:
        raise DecodeFailed("no video, only a cover picture")
