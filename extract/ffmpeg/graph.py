"""The graph of ffmpeg that decodes a part of a file: its frames by the rule of sampling, each as raw pixels, and told of in the log."""

from dataclasses import dataclass
from typing import Any

from data.span import Span
from extract.decode.frames import Sampling
from extract.ffmpeg.clock import BACK_S, LONGEST_STILL_S
from extract.ffmpeg.input import video_file


@dataclass(frozen=True)
class Look:
    """What a stream needs beyond plain decoding. It is told by the header and by the pictures, so the first attempt is at a plain stream.

    `late`: seconds from the start of the file to where the video begins; `recounted`: whether ffmpeg leaves these out by itself where it
    seeks nothing; `steady`: whether moments can be sought; `lead`: seconds to seek before a moment, where that leads to no key frame;
    `still`: whether to decode from the key frame before a moment, since the frame that is on the screen began before it; `turned`,
    `interlaced`, `alpha`: whether pictures are; `decoder`: in place of ffmpeg's choice.
    """

    late: float = 0.0
    recounted: bool = False
    steady: bool = True
    lead: float = 0.0
    still: bool = False
    turned: bool = False
    interlaced: bool = False
    alpha: bool = False
    decoder: str = ""


def decoding_graph(span: Span, sampling: Sampling, look: Look, teller: str, frames: int | None) -> Any:
    """The graph for a part of a file that looks like this. With `frames` it gives no more than so many; `teller` tells of each.

    In a part that does not begin with the file, the first frame has its own time where that is a tick after the start, or more.
    """
    ticks = span.ticks(sampling.fps)
    begin = look.late + span.begin
    options: dict[str, Any] = {}
    if look.steady and span.begin and begin > look.lead:
        options["ss"] = begin - look.lead
        begin = look.lead
        if look.still:
            options["noaccurate_seek"] = None
    elif look.recounted:
        begin = span.begin
    if look.decoder:
        options["c:v"] = look.decoder
    restarts = look.turned or look.interlaced
    if not restarts:
        # Where parameters change, ffmpeg would make the filters anew, and what they hold would be lost. None of those below minds a change,
        # but those that turn or deinterlace do: they would read beyond the end of a picture.
        options |= {"reinit_filter": 0, "noautorotate": None}
    # On the GPU the frames stay there until those wanted are chosen. Of 10 bits, or turned, they fail here and go to the CPU.
    options |= {} if sampling.cuda is None else {"hwaccel": "cuda", "hwaccel_output_format": "cuda"}
    filters = [_steady_clock(begin, sampling.fps, restarts or span.begin > 0)]
    if span.begin:
        # The first frame that begins in the part is there from the start, and the one before it for less than a tick: it is left out.
        filters.append(f"setpts='if(lt(PREV_INPTS,0)*gte(PTS,0)*lt(PTS,1/({sampling.fps}*TB)),0,PTS)'")
    if look.interlaced:
        filters.append("bwdif=mode=send_frame:deint=interlaced")
    # round=up: without it the filter's frames are half a period late.
    filters.append(f"fps={sampling.fps}:round=up")
    if span.begin or ticks is not None:
        # What lies before was decoded for the sake of what follows; what lies behind belongs to another part.
        filters.append(f"trim=start_pts=0{'' if ticks is None else f':end_pts={ticks}'}")
    if ticks is not None and not restarts:
        # As soon as the frame after the last tick comes, all is known. Filters that begin anew give some ticks twice.
        frames = min(frames or ticks, ticks)
    if sampling.cuda is not None:
        filters += ["hwdownload", "format=nv12"]
    filters += [f"{teller}=checksum=0", "scale=eval=frame", f"format={'rgba' if look.alpha else 'rgb24'}"]
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
    at_once, else_ = (f"lt(PTS-ld(1),{tick})", "PTS-ld(1)") if restarts else (f"lte(PTS-ld(1),{longest})", "0*st(1,st(2,PTS))")
    first = f"st(1,st(2,round({late}/TB))); if({at_once},min(PTS-ld(1),0),{else_})"
    step = f"if(gt(ld(0),0),min(ld(0),{tick}),{tick})"
    go_on = f"st(0,{passed}); PTS-ld(1)"
    set_clock = f"print({passed}*TB); st(2,ld(1)); st(1,PTS-PREV_OUTPTS-{step}); PTS-ld(1)"
    others = f"if(between({passed_before},{near}),PTS-ld(2),if(between({passed},0,{longest}),{go_on},{set_clock}))"
    return f"setpts='if(isnan(PREV_INPTS),{first},if(between({passed},{near}),{go_on},{others}))'"
