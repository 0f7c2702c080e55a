"""The worker process of `--decoder pyav`: it opens a video with PyAV, reports the number of frames, and writes wanted ones as PPM.

It refuses every video for which ffmpeg might do more than decode plain frames in order; ffmpeg then decodes that video. It is started by
path and imports nothing of this project. A request and its answer, on standard input (>) and output (<):

    > {"path": "a.mp4", "fps": "1.0", ...}
    < {"count": 12}         or {"refused": "a large file"}
    > [0, 5, 11]
    < three PPM pictures    or, after some of them, {"refused": ...}
    < {"done": true}
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Collection, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.logging

CODECS = {"h264", "vp9", "av1", "libdav1d"}
"""Not HEVC: its decoders do not report all damage, and versions conceal it differently."""
PLAIN_PIXELS = {"yuv420p", "yuvj420p"}
HDR = {16, 18}
"""The transfer functions smpte2084 and arib-std-b67, as numbered in H.273."""

LARGEST_BYTES = 2**26
"""All packets of a file are held in memory."""

LONGEST_S = 600
"""In a longer video seeking may be cheaper, which ffmpeg does."""

MICROSECONDS = 1_000_000

IDR = 5
SLICES_ONLY = {1, IDR, 9, 12}
"""Types of H.264 units (H.264, table 7-1) that matter to no picture after the next IDR: slices, delimiters, filler. Parameter sets and
supplemental information may hold beyond it."""
PARAMETERS = {7, 8, 13, 15}
"""Types of units that hold parameters of sequences and pictures."""


class NotPlain(Exception):
    """The video is left to ffmpeg."""


def container_of(path: str) -> str:
    """libavformat's name of the container, from the first bytes. Raises NotPlain unless it is MP4 or Matroska."""
    with Path(path).open("rb") as file:
        first = file.read(8)
    if first[4:] == b"ftyp":
        return "mp4"
    if first[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    raise NotPlain("neither MP4 nor Matroska")


class Video:
    """The packets of a plain video, and the frame on the screen at each sampled time."""

    def __init__(self, container: Any, rule: dict[str, Any]) -> None:
        if len(container.streams.video) != 1:
            raise NotPlain("not one video stream")
        if container.duration is None or container.duration > LONGEST_S * MICROSECONDS:
            raise NotPlain("long, or of unknown length")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context is None or context.name not in CODECS or context.pix_fmt not in PLAIN_PIXELS or context.color_trc in HDR:
            raise NotPlain("pixels that need more than the plain conversion")
        self.display = rule["display"]
        if self.display and (stream.sample_aspect_ratio or 1) != 1:
            raise NotPlain("pixels that are not square")
        if self.display and stream.metadata.get("alpha_mode"):
            raise NotPlain("alpha in a second stream")
        late = (stream.start_time or 0) * stream.time_base - Fraction(container.start_time or 0, MICROSECONDS)
        if late > rule["late"]:
            raise NotPlain("a video that begins after its file")
        # With threads, frames come out later, but skip_frame is set packet by packet.
        context.thread_count = 1
        context.thread_type = "NONE"
        # Damage is concealed with other pictures, some of which are not decoded here: fail instead, so that ffmpeg decodes the video.
        context.options = {**context.options, "err_detect": "explode"}
        self.context = context
        self.size: tuple[int, int] = (context.width, context.height)
        self.packets = [packet for packet in container.demux(stream) if packet.size]
        if any(packet.pts is None or packet.is_corrupt for packet in self.packets):
            raise NotPlain("packets without times, or damaged")
        shown = [packet for packet in self.packets if not packet.is_discard]
        fps = Fraction(rule["fps"])
        start = _rounded(Fraction(container.start_time or 0, MICROSECONDS) / stream.time_base)
        self.stamps = _on_screen(shown, start, 1 / (stream.time_base * fps), rule["longest_still"] / stream.time_base)
        """stamps[k]: time stamp of the frame on the screen at k / fps seconds."""
        if len(self.stamps) < int(container.duration * fps / MICROSECONDS):
            raise NotPlain("fewer frames than the header announces")

    def pictures(self, wanted: list[int], told: list[tuple[int, str, str]]) -> Iterator[Any]:
        """Decode these sampled frames, in order. `told` holds the libraries' messages so far: level, component and text."""
        times = Counter(self.stamps[k] for k in wanted)
        last = -math.inf
        for packet in [*needed(self.packets, times.keys(), self.context), None]:
            # Decode a non-reference frame only if it is wanted itself.
            self.context.skip_frame = "DEFAULT" if packet is None or packet.pts in times else "NONREF"
            frames = self.context.decode(packet)
            # Not every damaged picture counts as an error, nor is every concealed one told as one.
            if any(level <= av.logging.ERROR or text.startswith("concealing") for level, _, text in told):
                raise NotPlain("a damaged picture")
            for frame in frames:
                # ffmpeg tells the order of frames by the decoder's, this worker by their times.
                if frame.pts is None or frame.pts <= last:
                    raise NotPlain("frames whose times do not grow")
                last = frame.pts
                repeats = times.pop(frame.pts, 0)
                if not repeats:
                    continue
                if frame.is_corrupt or frame.rotation or (frame.width, frame.height) != self.size or frame.format.name not in PLAIN_PIXELS:
                    raise NotPlain("a frame that is damaged, turned, or of another size")
                # To be deinterlaced for a display; otherwise its colours have half the rows of each field.
                if frame.interlaced_frame:
                    raise NotPlain("a frame of two fields")
                for _ in range(repeats):
                    yield frame
            if not times:
                return
        raise NotPlain("frames that the decoder does not give")


def needed(packets: list[Any], wanted: Collection[int], context: Any) -> Iterator[Any]:
    """The packets that the frames with the time stamps `wanted` may depend on, in order.

    Nothing after an IDR picture of H.264 depends on anything before it. So the packets between a wanted frame and the next IDR picture are
    left out if no wanted frame is among them, and so are those after the last wanted frame. Where the parameters change, all are kept: a
    picture that still waits in the decoder would come out with those of the next.
    """
    since: list[Any] = []
    parameters: list[bytes] = []
    for packet in packets:
        units = _units(packet, context)
        own = [unit for kind, unit in units if kind in PARAMETERS]
        if (
            since
            and packet.is_keyframe
            and IDR in (kind for kind, _ in units)
            and own in ([], parameters)
            and all(kind in SLICES_ONLY for one in since for kind, _ in _units(one, context))
        ):
            since = []
        parameters = own or parameters
        since.append(packet)
        if packet.pts in wanted:
            yield from since
            since = []


def _units(packet: Any, context: Any) -> list[tuple[int, bytes]]:
    """The units in an H.264 packet, each of which follows its length (ISO/IEC 14496-15): type, and the bytes of parameters. A single one of
    type 0 if the packet has another form."""
    extra = context.extradata
    other = [(0, b"")]
    if context.name != "h264" or not extra or len(extra) < 5 or extra[0] != 1:
        return other
    width = (extra[4] & 3) + 1
    content = memoryview(packet)
    found = []
    place = 0
    while place + width < len(content):
        kind, end = content[place + width] & 31, place + width + int.from_bytes(content[place : place + width])
        found.append((kind, bytes(content[place + width : end]) if kind in PARAMETERS else b""))
        place = end
    return found if place == len(content) else other


def _on_screen(packets: list[Any], start: int, a_tick: Fraction, longest: Fraction) -> list[int]:
    """Time stamps of the frames on the screen 0, 1, 2, … ticks after the start, up to the end of the last frame.

    This is the rule of ffmpeg's filter `fps` with round=up. Raises NotPlain if a frame would stay for longer than `longest`.
    """
    stamps = sorted(packet.pts for packet in packets)
    if not stamps or len(set(stamps)) < len(stamps):
        raise NotPlain("no frames, or several at one time")
    if any(later - stamp > longest for stamp, later in pairwise([start, *stamps])):
        raise NotPlain("a clock that was set")
    last = max(packets, key=lambda packet: packet.pts)
    if not last.duration:
        raise NotPlain("the last frame has no duration")
    found: list[int] = []
    place = 0
    for k in range(math.ceil((last.pts + last.duration - start) / a_tick)):
        latest = math.floor(start + k * a_tick)
        while place + 1 < len(stamps) and stamps[place + 1] <= latest:
            place += 1
        found.append(stamps[place])
    return found


def _rounded(value: Fraction) -> int:
    """Round to the nearest integer, halves away from zero, as libavutil does for time stamps."""
    return math.floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def answer(request: dict[str, Any], requests: BinaryIO, out: BinaryIO) -> None:
    path = request["path"]
    if Path(path).stat().st_size > LARGEST_BYTES:
        raise NotPlain("a large file")
    options = {"protocol_whitelist": "file", "max_pixels": str(request["max_pixels"])}
    with (
        av.logging.Capture() as told,
        av.open(f"file:{path}", format=container_of(path), options=options, metadata_errors="replace") as container,
    ):
        video = Video(container, request)
        _say(out, {"count": len(video.stamps)})
        for frame in video.pictures(json.loads(requests.readline()), told):
            pixels = frame.to_ndarray(format="rgb24").tobytes()
            out.write(b"P6\n%d %d\n255\n" % (frame.width, frame.height))
            out.write(pixels)


def _say(out: BinaryIO, what: dict[str, Any]) -> None:
    out.write(json.dumps(what).encode() + b"\n")
    out.flush()


def serve(requests: BinaryIO, out: BinaryIO) -> None:
    """Answer requests until the other side closes the pipe or ends."""
    av.logging.set_level(av.logging.INFO)
    # A message that equals the last one of another video counts too.
    av.logging.set_skip_repeated(False)
    while line := requests.readline():
        try:
            answer(json.loads(line), requests, out)
        except (NotPlain, av.FFmpegError, OSError) as error:
            _say(out, {"refused": str(error)})
        _say(out, {"done": True})


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
