"""Frames by ffmpeg, which takes any video: in sequence, or sought where few are wanted of a long one."""

import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from PIL import Image

from data.ffmpeg import FfmpegFailed, Running, last_words, run_ffmpeg
from data.sampling import choose_frames
from extract.clock import BACK_S, LONGEST_STILL_S
from extract.ending import breaks_off
from extract.frames import DecodeFailed, Picture, Sampled, Sampling
from extract.header import Header, read_header
from extract.input import video_file
from extract.raw import Shown, has_alpha, on_every_tick, read_shown

SEEK_APART_S = 15.0
"""Chosen frames so many seconds apart or more are sought one by one: decoding from the last key frame then costs less than all between."""

TAIL_S = 10.0
"""The end of a long video, decoded to count its frames as a decoding of the whole would."""

LEAD_S = 30.0
"""In a container without an index, decoding begins so much before a moment: between two key frames there is less, as a rule."""

GUESS = 2
"""How many sampled frames the length in the header may be wrong by before a video is decoded a second time."""


@dataclass(frozen=True)
class Part:
    """The part of a file that is looked at, in seconds."""

    path: Path
    start: float
    end: float | None

    def length(self, whole: float | None) -> float | None:
        """Its seconds, those of the whole being known."""
        return None if whole is None else min(whole, self.end if self.end is not None else whole) - self.start


@dataclass(frozen=True)
class _Look:
    """What a stream needs beyond plain decoding. It is told by the header and by the pictures, so the first attempt is at a plain stream.

    `late`: seconds to leave out before the video begins; `steady`: whether moments can be sought; `lead`: seconds to seek before a moment,
    where that leads to no key frame; `turned`, `interlaced`, `alpha`: whether pictures are; `decoder`: in place of ffmpeg's choice.
    """

    late: float = 0.0
    steady: bool = True
    lead: float = 0.0
    turned: bool = False
    interlaced: bool = False
    alpha: bool = False
    decoder: str = ""


class _LooksOther(Exception):
    """The stream needs something that was not done."""

    def __init__(self, look: _Look) -> None:
        super().__init__()
        self.look = look


class _FarApart(Exception):
    """The frames to choose are so far apart that they are better sought; `length` in seconds is the header's."""

    def __init__(self, length: float) -> None:
        super().__init__()
        self.length = length


class _NotThere(Exception):
    """Seeking gave no frame where the header announces one."""


def by_ffmpeg(part: Part, sampling: Sampling, takes: Iterator[Callable[[Image.Image], Picture]], deadline: float) -> Sampled[Picture]:
    """What ffmpeg makes of any video: in sequence, or sought where the chosen frames are far apart. Each attempt has one of `takes`."""
    decoding = _Decoding(part, sampling, takes, deadline)
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
            raise DecodeFailed(error.reason, error.words) from error


Result = TypeVar("Result")


@dataclass(frozen=True)
class _Decoding(Generic[Picture]):
    """One attempt at a part of a file, and how its stream looks as far as is known."""

    part: Part
    sampling: Sampling
    takes: Iterator[Callable[[Image.Image], Picture]]
    deadline: float
    look: _Look = _Look()

    def in_sequence(self, seek: bool) -> Sampled[Picture]:
        """Decode everything from start to end, keeping what is wanted."""
        part, sampling, shrink = self.part, self.sampling, next(self.takes)
        limit = sampling.max_frames
        longest = math.ceil(LONGEST_STILL_S * sampling.fps)

        def keep(running: Running, wanted: Collection[int] | None) -> tuple[dict[int, Picture], int, int]:
            kept: dict[int, Picture] = {}
            count = 0
            for shown in on_every_tick(self._shown(running), longest):
                if wanted is None and limit is not None:
                    length = part.length(self._header(running.log.said()).length)
                    if length is not None and seek and self.look.steady and _are_far_apart(length, sampling.fps, limit):
                        raise _FarApart(length)
                    wanted = _could_be_chosen(length, sampling.fps, limit)
                if wanted is None or count in wanted:
                    kept[count] = shrink(shown.image(sampling.pictures == "display"))
                count += 1
            return kept, count, running.log.last_error()

        try:
            (kept, count, error_at), said = self._run(lambda running: keep(running, None))
        except FfmpegFailed as error:
            # It may be that a part has no packets, and another would have been it.
            if self.part.start and self._header(error.said).container:
                self._require_known_clock(self._header(error.said))
            raise
        header = self._require_known_clock(self._header(said))
        expected = self._check(said, header, count, error_at)
        chosen = choose_frames(count, limit).tolist()
        if not kept.keys() >= set(chosen):
            (kept, _, _), _ = self._run(lambda running: keep(running, set(chosen)))
            if not kept.keys() >= set(chosen):
                raise DecodeFailed("decoded twice, it gave different numbers of frames: was it being written?")
        seconds = [part.start + i / sampling.fps for i in chosen]
        jumps = said.count("[Eval @ ")
        return Sampled([kept[i] for i in chosen], seconds, expected, header.hdr, clock_jumps=jumps)

    def by_seeking(self, length: float) -> Sampled[Picture]:
        """Decode the chosen frames alone: the same that decoding in sequence gives, as long as the key frames can be found.

        Raises _NotThere where there is no frame at a moment before the announced end.
        """
        part, fps, shrink = self.part, self.sampling.fps, next(self.takes)
        assert self.sampling.max_frames is not None
        first = max(0, math.floor((length - TAIL_S) * fps))
        tail = self._from(first / fps, fps)
        longest = math.ceil(TAIL_S * fps)
        counted, said = tail._run(lambda running: sum(1 for _ in on_every_tick(tail._shown(running), longest)))
        if not counted:
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
        return Sampled(pictures, [part.start + k / fps for k in chosen], None, header.hdr)

    def _shown(self, running: Running) -> Iterator[Shown]:
        """The pictures of a run. Raises _LooksOther where the stream is not as this attempt takes it to be."""
        display = self.sampling.pictures == "display"
        header: Header | None = None
        for shown in read_shown(running, 4 if self.look.alpha else 3):
            header = header or self._require_known_clock(self._header(running.log.said()))
            look = replace(self.look, turned=self.look.turned or running.log.turned)
            if display:
                interlaced = look.interlaced or shown.said.interlaced
                alpha = look.alpha or has_alpha(shown.said.pixel_format) or bool(header.alpha_decoder)
                look = replace(look, interlaced=interlaced, alpha=alpha, decoder=header.alpha_decoder)
            if look != self.look:
                raise _LooksOther(look)
            yield shown

    def _header(self, said: str) -> Header:
        header = read_header(said)
        return self.sampling.clocks.settled(self.part.path, header, self._seconds_left(), self.sampling.processes)

    def _require_known_clock(self, header: Header) -> Header:
        """Raises _LooksOther where moments of the file lie elsewhere than this attempt takes them to."""
        assert header.late is not None
        look = replace(self.look, late=header.late)
        if look.steady and (self.part.start > 0 or self.part.end is not None):
            steady = self.sampling.clocks.steady(self.part.path, header, self._seconds_left(), self.sampling.processes)
            look = replace(look, steady=steady, lead=0.0 if header.indexed else LEAD_S)
        if look != self.look:
            raise _LooksOther(look)
        return header

    def _seconds_left(self) -> float:
        return max(self.deadline - time.monotonic(), 0.0)

    def _from(self, seconds: float, fps: float) -> "_Decoding[Picture]":
        """The part without its first seconds, sampled at another rate."""
        return replace(self, part=replace(self.part, start=self.part.start + seconds), sampling=replace(self.sampling, fps=fps))

    def _run(self, read: Callable[[Running], Result], frames: int | None = None) -> tuple[Result, str]:
        """`read` of the frames of the part, no more than `frames`, and what ffmpeg said."""
        part, sampling, look = self.part, self.sampling, self.look
        options: dict[str, Any] = {}
        begin = look.late + part.start
        if look.steady and part.start and begin > look.lead:
            options["ss"] = begin - look.lead
            begin = look.lead
        length = None if part.end is None else max(part.end - part.start, 0.001)
        if length is not None and look.steady:
            options["t"] = begin + length
        # What lies before the beginning was decoded for the sake of what follows, or belongs to another part.
        cut = f"trim=start=0{'' if length is None else f':end={length}'}"
        if look.decoder:
            options["c:v"] = look.decoder
        restarts = look.turned or look.interlaced
        if not restarts:
            # Where parameters change, ffmpeg would make the filters anew, and what they hold is lost. None of those below minds a change.
            # Those that turn and deinterlace do.
            options |= {"reinit_filter": 0, "noautorotate": None}
        # On the GPU the frames stay there until those wanted are chosen. Of 10 bits, or turned, they fail here and go to the CPU.
        options |= {} if sampling.cuda is None else {"hwaccel": "cuda", "hwaccel_output_format": "cuda"}
        filters = [
            _steady_clock(begin, sampling.fps, restarts or frames is not None),
            *([cut] if (part.start and begin) or not look.steady else []),
            *(["bwdif=mode=send_frame:deint=interlaced"] if look.interlaced else []),
            # round=up: without it the filter's frames are half a period late.
            f"fps={sampling.fps}:round=up",
            *([] if sampling.cuda is None else ["hwdownload", "format=nv12"]),
            "showinfo=checksum=0",
            "scale=eval=frame",
            f"format={'rgba' if look.alpha else 'rgb24'}",
        ]
        # One thread: files are decoded side by side, and more threads in each would only add overhead.
        graph = video_file(threads=1, **options).output(
            "pipe:",
            vf=",".join(filters),
            fps_mode="passthrough",
            noautoscale=None,
            map_metadata=-1,
            format="rawvideo",
            vcodec="rawvideo",
            **({} if frames is None else {"frames:v": frames}),
        )  # fmt: skip
        try:
            return run_ffmpeg(graph, source=part.path, read=read, time_limit_s=self._seconds_left(), processes=sampling.processes)
        except FfmpegFailed as error:
            if time.monotonic() < self.deadline:
                raise
            raise FfmpegFailed(f"not done after {sampling.time_limit_s:g} s (--time-limit)", error.words, error.said) from error

    def _check(self, said: str, header: Header, count: int, error_at: int) -> int | None:
        """ffmpeg ends with status 0 also where a file is cut short: how many frames were expected then, else None.

        `error_at`: how many frames had come out before the last error.
        """
        errors = last_words(said)
        length = self.part.length(header.length)
        announced = None if length is None else int(length * self.sampling.fps)
        if count == 0:
            cut = bool(errors and announced)
            raise DecodeFailed("no video frames", errors, announced if cut else None, 0 if cut else None)
        _require_no_cover(header)
        if errors and announced is not None and count < announced:
            expected, reason = announced, f"{count} of about {announced} frames"
        elif self.part.end is None and (
            self._ends_in_error(header, errors, count, error_at) or breaks_off(self.part.path, header.container)
        ):
            # How many are missing nobody says.
            expected, reason = max(announced or 0, count + 1), f"the file breaks off after {count} frames"
        else:
            return None
        if not self.sampling.allow_partial:
            raise DecodeFailed(f"cut short: {reason}; --allow-partial takes them", errors, expected, count)
        return expected

    def _ends_in_error(self, header: Header, errors: str, count: int, error_at: int) -> bool:
        """Whether there was an error in the last second, or a demuxer missed the end, where no header says how long the video should be."""
        if not errors or (header.indexed and header.length is not None):
            return False
        return "ended prematurely" in errors or error_at >= count - math.ceil(self.sampling.fps)


def _steady_clock(late: float, fps: float, restarts: bool) -> str:
    """The filter that begins the time at `late` seconds, and goes on where the clock was set, saying so: with the interval of the frames
    before, at most one tick of the sampling. `restarts`: whether this filter may begin anew on the way.

    Registers of the expression: 0 the last interval; 1 what is taken off the time stamps; 2 what was before the clock was set, for frames
    that still come by that clock, or again.
    """
    tick, longest, near = f"1/({fps}*TB)", f"{LONGEST_STILL_S}/TB", f"-{BACK_S}/TB,{BACK_S}/TB"
    passed, passed_before = "(PTS-ld(1)-PREV_OUTPTS)", "(PTS-ld(2)-PREV_OUTPTS)"
    # The first frame is on the screen from the beginning.
    at_once, else_ = (tick, "PTS-ld(1)") if restarts else (longest, "0*st(1,st(2,PTS))")
    first = f"st(1,st(2,round({late}/TB))); if(gt(PTS-ld(1),{at_once}),{else_},min(PTS-ld(1),0))"
    step = f"if(gt(ld(0),0),min(ld(0),{tick}),{tick})"
    go_on = f"st(0,{passed}); PTS-ld(1)"
    set_clock = f"print({passed}*TB); st(2,ld(1)); st(1,PTS-PREV_OUTPTS-{step}); PTS-ld(1)"
    others = f"if(between({passed_before},{near}),PTS-ld(2),if(between({passed},0,{longest}),{go_on},{set_clock}))"
    return f"setpts='if(isnan(PREV_INPTS),{first},if(between({passed},{near}),{go_on},{others}))'"


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
