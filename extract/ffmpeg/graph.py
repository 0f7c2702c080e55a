"""The ffmpeg graph that decodes a span of a file: the sampled frames as raw pixels, each reported in the log by `showinfo`."""

from dataclasses import dataclass
from typing import Any

from data.span import Span
from extract.decode.frames import Sampling
from extract.ffmpeg.clock import BACK_S, LONGEST_STILL_S
from extract.ffmpeg.input import video_file


@dataclass(frozen=True)
class StreamNeeds:
    """What a stream needs beyond plain decoding. The header and the pictures tell, so the first attempt assumes a plain stream.

    late: seconds from the start of the file to the start of the video.
    recounted: ffmpeg subtracts `late` itself unless it seeks.
    steady: the file can be sought by time.
    lead: seconds to seek ahead of the target, for containers without an index of key frames.
    still: decode from the key frame before the target, because the frame on the screen began before it.
    turned, interlaced, alpha: the pictures are rotated, are interlaced, have an alpha channel.
    decoder: the decoder to use instead of ffmpeg's choice; empty for ffmpeg's choice.
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


def decoding_graph(span: Span, sampling: Sampling, needs: StreamNeeds, showinfo: str, frames: int | None) -> Any:
    """The graph for a span of a file with these needs. It gives at most `frames` frames; `showinfo` is the name of
    the filter that logs them.

    If the span does not start with the file, a first frame that comes a tick or more after the start keeps its own time.
    """
    ticks = span.ticks(sampling.fps)
    begin = needs.late + span.begin
    options: dict[str, Any] = {}
    if needs.steady and span.begin and begin > needs.lead:
        options["ss"] = begin - needs.lead
        begin = needs.lead
        if needs.still:
            options["noaccurate_seek"] = None
    elif needs.recounted:
        begin = span.begin
    if needs.decoder:
        options["c:v"] = needs.decoder
    restarts = needs.turned or needs.interlaced
    if not restarts:
        # When parameters change, ffmpeg rebuilds the filters and loses the frames that they hold. The filters below
        # tolerate a change, except those that rotate or deinterlace: they would read beyond the end of a picture.
        options |= {"reinit_filter": 0, "noautorotate": None}
    # Frames stay on the GPU until the sampled ones are chosen. 10-bit or rotated video fails here and is decoded on the CPU.
    options |= {} if sampling.cuda is None else {"hwaccel": "cuda", "hwaccel_output_format": "cuda"}
    filters = [_steady_clock(begin, sampling.fps, restarts or span.begin > 0)]
    if span.begin:
        # The first frame that begins in the span counts from its start. The frame before it, on the screen for less
        # than a tick, is dropped.
        filters.append(f"setpts='if(lt(PREV_INPTS,0)*gte(PTS,0)*lt(PTS,1/({sampling.fps}*TB)),0,PTS)'")
    if needs.interlaced:
        filters.append("bwdif=mode=send_frame:deint=interlaced")
    # Without round=up the filter is half a period late.
    filters.append(f"fps={sampling.fps}:round=up")
    if span.begin or ticks is not None:
        # Frames before the start were decoded only because later ones depend on them; frames after the end belong to another span.
        filters.append(f"trim=start_pts=0{'' if ticks is None else f':end_pts={ticks}'}")
    if ticks is not None and not restarts:
        # Stop at the last tick. Not with filters that restart: they repeat some ticks.
        frames = min(frames or ticks, ticks)
    if sampling.cuda is not None:
        filters += ["hwdownload", "format=nv12"]
    filters += [f"{showinfo}=checksum=0", "scale=eval=frame", f"format={'rgba' if needs.alpha else 'rgb24'}"]
    # One thread: files are decoded in parallel, so more threads per file would only add overhead.
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
    """The setpts filter that puts time 0 at `late` seconds and removes jumps of the clock, logging each.

    After a jump, the next frame follows after the interval of the frames before, at most one sampling tick.
    `restarts` is true if the filter may restart within the video, or if decoding starts within it.

    Registers of the expression: 0 is the last interval; 1 is the offset subtracted from time stamps; 2 is the offset before the last jump,
    for frames that still carry, or again carry, the old clock.
    """
    tick, longest, near = f"1/({fps}*TB)", f"{LONGEST_STILL_S}/TB", f"-{BACK_S}/TB,{BACK_S}/TB"
    passed, passed_before = "(PTS-ld(1)-PREV_OUTPTS)", "(PTS-ld(2)-PREV_OUTPTS)"
    # The first frame is on the screen from the start.
    at_once, else_ = (f"lt(PTS-ld(1),{tick})", "PTS-ld(1)") if restarts else (f"lte(PTS-ld(1),{longest})", "0*st(1,st(2,PTS))")
    first = f"st(1,st(2,round({late}/TB))); if({at_once},min(PTS-ld(1),0),{else_})"
    step = f"if(gt(ld(0),0),min(ld(0),{tick}),{tick})"
    go_on = f"st(0,{passed}); PTS-ld(1)"
    set_clock = f"print({passed}*TB); st(2,ld(1)); st(1,PTS-PREV_OUTPTS-{step}); PTS-ld(1)"
    others = f"if(between({passed_before},{near}),PTS-ld(2),if(between({passed},0,{longest}),{go_on},{set_clock}))"
    return f"setpts='if(isnan(PREV_INPTS),{first},if(between({passed},{near}),{go_on},{others}))'"
