"""Frames by ffmpeg, which takes any video: in sequence, or sought where few are wanted of a long one."""

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
from extract.ffmpeg.graph import Look, decoding_graph
from extract.ffmpeg.header import Header, read_header
from extract.ffmpeg.raw import Shown, has_alpha, on_every_tick, read_shown
from extract.ffmpeg.run import FfmpegFailed, Running, last_words, run_ffmpeg

SEEK_APART_S = 15.0
"""Chosen frames so many seconds apart or more are sought one by one: decoding from the last key frame then costs less than all between."""

TAIL_S = 10.0
"""The end of a long video, decoded to count its frames as a decoding of the whole would."""

LEAD_S = 30.0
"""In a container without an index, decoding begins so much before a moment: between two key frames there is less, as a rule."""

GUESS = 2
"""How many sampled frames the length in the header may be wrong by before a video is decoded a second time."""


class _LooksOther(Exception):
    """The stream needs something that was not done."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look


class _FarApart(Exception):
    """The frames to choose are so far apart that they are better sought; `length` in seconds is the header's."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length


class _NotThere(Exception):
    """Seeking gave no frame where the header announces one."""


def by_ffmpeg(
    path: Path, span: Span, sampling: Sampling, takes: Iterator[Callable[[Image.Image], Picture]], deadline: float
) -> Sampled[Picture]:
    """What ffmpeg makes of any video: in sequence, or sought where the chosen frames are far apart. Each attempt has one of `takes`."""
    decoding = _Decoding(path, span, sampling, takes, deadline)
    seek = True
    while True:
        try:
            return decoding.in_sequence(seek)
        except _LooksOther as other:
            decoding = replace(decoding, look=other.look)
        except _FarApart as far:
            # What seeking does not find is cut off, damaged, or without an index: decoding all of it says which frames there are.
            seek = False
            try:
                return decoding.by_seeking(far.length)
            except _LooksOther as other:
                decoding, seek = replace(decoding, look=other.look), True
            except (_NotThere, FfmpegFailed):
                pass
        except FfmpegFailed as error:
            raise DecodeFailed(reason_of(path, error.said, error.reason), error.words) from error


Result = TypeVar("Result")


@dataclass(frozen=True)
class _Decoding(Generic[Picture]):
    """One attempt at a part of a file, and how its stream looks as far as is known."""

    path: Path
    span: Span
    sampling: Sampling
    takes: Iterator[Callable[[Image.Image], Picture]]
    deadline: float
    look: Look = field(default_factory=Look)

    def in_sequence(self, seek: bool) -> Sampled[Picture]:
        """Decode everything from start to end, keeping what is wanted."""
        span, sampling, shrink = self.span, self.sampling, next(self.takes)
        limit = sampling.max_frames
        ticks = span.ticks(sampling.fps)
        longest = math.ceil(LONGEST_STILL_S * sampling.fps)

        def keep(running: Running, wanted: Collection[int] | None) -> tuple[dict[int, Picture], int, int, int]:
            kept: dict[int, Picture] = {}
            count = 0
            for shown in islice(on_every_tick(self._shown(running), longest), ticks):
                if wanted is None and limit is not None:
                    length = span.length(self._header(running.log.said()).length)
                    if length is not None and seek and self.look.steady and _are_far_apart(length, sampling.fps, limit):
                        raise _FarApart(length)
                    wanted = _could_be_chosen(length, sampling.fps, limit)
                if wanted is None or count in wanted:
                    kept[count] = shrink(shown.image(sampling.pictures == "display"))
                count += 1
            return kept, count, running.log.last_error(), running.log.clock_jumps

        try:
            (kept, count, error_at, jumps), said = self._run(lambda running: keep(running, None))
        except FfmpegFailed as error:
            # Where moments lie elsewhere there may be no packets to decode.
            header = self._header(error.said)
            if header.container:
                self._require_known_clock(header)
            raise
        header = self._require_known_clock(self._header(said))
        if not count and span.begin and (header.length is None or not header.indexed or span.begin < header.length):
            # No frame begins in the part, and maybe one is on the screen.
            self._look_further_back()
        expected = self._check(said, header, count, error_at)
        chosen = choose_frames(count, limit).tolist()
        if not kept.keys() >= set(chosen):
            (kept, _, _, _), _ = self._run(lambda running: keep(running, set(chosen)))
            if not kept.keys() >= set(chosen):
                raise DecodeFailed("decoded twice, it gave different numbers of frames: was it being written?")
        seconds = [span.begin + i / sampling.fps for i in chosen]
        return Sampled([kept[i] for i in chosen], seconds, expected, header.hdr, clock_jumps=jumps)

    def by_seeking(self, length: float) -> Sampled[Picture]:
        """Decode the chosen frames alone: the same that decoding in sequence gives, as long as the key frames can be found.

        Raises _NotThere where there is no frame at a moment before the announced end.
        """
        span, fps, shrink = self.span, self.sampling.fps, next(self.takes)
        assert self.sampling.max_frames is not None
        first = max(0, math.floor((length - TAIL_S) * fps))
        tail = self._from(first / fps, fps)
        longest = math.ceil(TAIL_S * fps)
        counted, said = tail._run(lambda running: sum(1 for _ in on_every_tick(tail._shown(running), longest)))
        if not counted or (span.end is None and breaks_off(self.path, self._header(said).container)):
            raise _NotThere
        chosen = choose_frames(first + counted, self.sampling.max_frames).tolist()
        # Seeking gives frames that begin at or after a moment, so it goes to a moment before: the frame at the second tick is then the one
        # on the screen.
        lead = min(1.0, 1 / fps)
        pictures: list[Picture] = []
        for k in chosen:
            there = self._from(max(0.0, k / fps - lead), 1 / lead)
            last = 1 if k else 0

            def take(running: Running, there: "_Decoding[Picture]" = there, last: int = last) -> list[Picture]:
                # The first of all is on the screen from the beginning.
                shown = [one for one in there._shown(running) if one.tick <= last or not last]
                return [shrink(shown[-1].image(self.sampling.pictures == "display"))] if shown else []

            found, _ = there._run(take, frames=last + 1)
            if not found:
                raise _NotThere
            pictures += found
        header = self._header(said)
        _require_no_cover(header)
        return Sampled(pictures, [span.begin + k / fps for k in chosen], None, header.hdr)

    def _shown(self, running: Running) -> Iterator[Shown]:
        """The pictures of a run. Raises _LooksOther where the stream is not as this attempt takes it to be."""
        display = self.sampling.pictures == "display"
        header: Header | None = None
        begun = False
        for shown in read_shown(running, 4 if self.look.alpha else 3):
            header = header or self._require_known_clock(self._header(running.log.said()))
            look = replace(self.look, turned=self.look.turned or running.log.turned)
            if display:
                interlaced = look.interlaced or shown.said.interlaced
                alpha = look.alpha or has_alpha(shown.said.pixel_format) or bool(header.alpha_decoder)
                look = replace(look, interlaced=interlaced, alpha=alpha, decoder=header.alpha_decoder)
            if look != self.look:
                raise _LooksOther(look)
            if not begun and shown.tick > 0 and self.span.begin:
                # The frame that is on the screen at the start began before it.
                self._look_further_back()
            begun = True
            yield shown

    def _header(self, said: str) -> Header:
        header = read_header(said)
        return self.sampling.clocks.settled(self.path, header, self._seconds_left(), self.sampling.processes)

    def _require_known_clock(self, header: Header) -> Header:
        """Raises _LooksOther where moments of the file lie elsewhere than this attempt takes them to."""
        assert header.late is not None
        look = replace(self.look, late=max(self.look.late, header.late), recounted=header.recounted)
        if look.steady and (self.span.begin > 0 or self.span.end is not None):
            steady = self.sampling.clocks.steady(self.path, header, self._seconds_left(), self.sampling.processes)
            look = replace(look, steady=steady, lead=0.0 if header.indexed else LEAD_S)
        if look != self.look:
            raise _LooksOther(look)
        return header

    def _look_further_back(self) -> None:
        """Raises _LooksOther unless everything from the start of the file was decoded."""
        if self.look.steady:
            further = self.look.still or self.look.lead > 0
            raise _LooksOther(replace(self.look, steady=False) if further else replace(self.look, still=True))

    def _seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def _from(self, seconds: float, fps: float) -> "_Decoding[Picture]":
        """The part without its first seconds, sampled at another rate."""
        return replace(self, span=replace(self.span, start=self.span.begin + seconds), sampling=replace(self.sampling, fps=fps))

    def _run(self, read: Callable[[Running], Result], frames: int | None = None) -> tuple[Result, str]:
        """`read` of the frames of the part, no more than `frames`, and what ffmpeg said."""
        sampling = self.sampling
        teller = f"showinfo@{secrets.token_hex(8)}"
        graph = decoding_graph(self.span, sampling, self.look, teller, frames)
        limit = self._seconds_left()
        try:
            return run_ffmpeg(graph, source=self.path, read=read, time_limit_s=limit, processes=sampling.processes, teller=teller)
        except FfmpegFailed as error:
            if time.monotonic() < self.deadline:
                raise
            raise FfmpegFailed(f"not done after {sampling.time_limit_s:g} s (--time-limit)", error.said) from error

    def _check(self, said: str, header: Header, count: int, error_at: int) -> int | None:
        """ffmpeg ends with status 0 also where a file is cut short: how many frames were expected then, else None.

        `error_at`: how many frames had come out before the last error.
        """
        errors = last_words(said)
        length = self.span.length(header.length)
        announced = None if length is None else int(length * self.sampling.fps)
        if count == 0:
            cut = bool(errors and announced)
            raise DecodeFailed(reason_of(self.path, said, "no video frames"), errors, announced if cut else None, 0 if cut else None)
        _require_no_cover(header)
        if errors and announced is not None and count < announced:
            expected, reason = announced, f"{count} of about {announced} frames"
        elif self.span.end is None and self._is_cut(header, errors, count, error_at):
            # How many are missing nobody says.
            expected, reason = max(announced or 0, count + 1), f"the file breaks off after {count} frames"
        else:
            return None
        if not self.sampling.allow_partial:
            raise DecodeFailed(f"cut short: {reason}; --allow-partial takes them", errors, expected, count)
        return expected

    def _is_cut(self, header: Header, errors: str, count: int, error_at: int) -> bool:
        """Whether the file breaks off, where no header says how long the video should be: its last packet is incomplete, a demuxer missed
        the end, or there was an error in the last second."""
        if breaks_off(self.path, header.container):
            return True
        if not errors or (header.indexed and header.length is not None):
            return False
        return "ended prematurely" in errors or error_at >= count - math.ceil(self.sampling.fps)


def _are_far_apart(length: float, fps: float, limit: int) -> bool:
    return length >= SEEK_APART_S * limit and length * fps > limit


def _could_be_chosen(length: float | None, fps: float, limit: int) -> Collection[int]:
    """The frames that may be among the chosen ones, the header's length being about right: no others need be held."""
    if length is None:
        return range(3 * limit)
    guess = math.ceil(length * fps)
    return {i for count in range(max(guess - GUESS, 1), max(guess + GUESS, 1) + 1) for i in choose_frames(count, limit).tolist()}


def _require_no_cover(header: Header) -> None:
    if header.cover:
        raise DecodeFailed("no video, only a cover picture")
