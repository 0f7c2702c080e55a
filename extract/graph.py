"""The graph of ffmpeg that decodes a part of a file: its frames by the rule of sampling, each as raw pixels, and told of in the log."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from extract.clock import BACK_S, LONGEST_STILL_S
from extract.frames import Sampling
from extract.input import video_file


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
class Look:
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


def decoding_graph(part: Part, sampling: Sampling, look: Look, frames: int | None) -> Any:
    """The graph for a part of a file that looks like this. With `frames` it gives no more than so many.

    Where key frames have to be found, and with `frames`, the first frame has its own time where that is later than the first tick.
    """
    length = None if part.end is None else max(part.end - part.start, 0.001)
    begin = look.late + part.start
    options: dict[str, Any] = {}
    if look.steady and part.start and begin > look.lead:
        options["ss"] = begin - look.lead
        begin = look.lead
    if length is not None and look.steady:
        # Where the filters find the end, a little more is read than they need.
        options["t"] = begin + length + (1.0 if begin else 0.0)
    if look.decoder:
        options["c:v"] = look.decoder
    restarts = look.turned or look.interlaced
    if not restarts:
        # Where parameters change, ffmpeg would make the filters anew, and what they hold would be lost. None of those below minds a change,
        # but those that turn or deinterlace do: they would read beyond the end of a picture.
        options |= {"reinit_filter": 0, "noautorotate": None}
    # On the GPU the frames stay there until those wanted are chosen. Of 10 bits, or turned, they fail here and go to the CPU.
    options |= {} if sampling.cuda is None else {"hwaccel": "cuda", "hwaccel_output_format": "cuda"}
    filters = [_steady_clock(begin, sampling.fps, restarts or frames is not None or look.lead > 0)]
    if (begin or not look.steady) and (part.start or length is not None):
        # What lies before was decoded for the sake of what follows, or belongs to another part.
        filters.append(f"trim=start=0{'' if length is None else f':end={length}'}")
    if look.interlaced:
        filters.append("bwdif=mode=send_frame:deint=interlaced")
    # round=up: without it the filter's frames are half a period late.
    filters.append(f"fps={sampling.fps}:round=up")
    if sampling.cuda is not None:
        filters += ["hwdownload", "format=nv12"]
    filters += ["showinfo=checksum=0", "scale=eval=frame", f"format={'rgba' if look.alpha else 'rgb24'}"]
    # One thread: files are decoded side by side, and more threads in each would only add overhead.
    return video_file(threads=1, **options).output(
        "pipe:",
        vf=",".join(filters),
        fps_mode="passthrough",
        noautoscale=None,
        map_metadata=-1,
        format="rawvideo",
        vcodec="rawvideo",
        **({} if frames is None else {"frames:v": frames}),
    )


def _steady_clock(late: float, fps: float, restarts: bool) -> str:
    """The filter that begins the time at `late` seconds, and goes on where the clock was set, saying so: with the interval of the frames
    before, at most one tick of the sampling. `restarts`: whether this filter may begin anew on the way, or at a moment within the video.

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
