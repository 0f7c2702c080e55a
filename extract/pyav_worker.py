"""The process behind `--decoder pyav`: it opens a video with PyAV, says how many frames there are, and writes those asked for as PPM.

It gives up wherever ffmpeg might do anything but decode plain frames in order, and says why: the video is then ffmpeg's. Run by its path,
it imports nothing of this project. One request on standard input is two lines of JSON: the file and the rate, answered by a line with the
number of frames, and then the numbers of those wanted, answered by the pictures and a line that says how it ended.
"""

import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av

CODECS = {"h264", "hevc", "vp9", "av1", "libdav1d"}
PLAIN_PIXELS = {"yuv420p", "yuvj420p"}
HDR = {16, 18}
"""Transfer functions smpte2084 and arib-std-b67, as H.273 counts them."""

LARGEST_BYTES = 2**26
"""The packets of a file are held while it is read. Longer videos are better sought, which ffmpeg does."""

MICROSECONDS = 1_000_000


class NotPlain(Exception):
    """Better left to ffmpeg."""


def container_of(path: str) -> str:
    """The container that the first bytes show, by libavformat's name. Raises NotPlain for any but MP4 and Matroska."""
    with Path(path).open("rb") as file:
        first = file.read(8)
    if first[4:] == b"ftyp":
        return "mp4"
    if first[:4] == b"\x1aE\xdf\xa3":
        return "matroska"
    raise NotPlain("neither MP4 nor Matroska")


class Video:
    """The packets of a plain video, and which frame is on the screen at which moment."""

    def __init__(self, container: Any, fps: Fraction, start: float, end: float | None) -> None:
        if len(container.streams.video) != 1:
            raise NotPlain("not one video stream")
        stream = container.streams.video[0]
        context = stream.codec_context
        if context.name not in CODECS or context.pix_fmt not in PLAIN_PIXELS or context.color_trc in HDR:
            raise NotPlain("pixels that need more than the plain conversion")
        # More threads give frames later, and whether to skip a frame is said packet by packet.
        context.thread_count = 1
        context.thread_type = "NONE"
        self.context = context
        self.packets = [packet for packet in container.demux(stream) if packet.size]
        shown = [packet for packet in self.packets if not packet.is_discard]
        if not shown or any(packet.pts is None or packet.is_corrupt for packet in self.packets):
            raise NotPlain("packets without times, or damaged")
        self.size: tuple[int, int] = (context.width, context.height)
        self._place_frames(shown, stream.time_base, container.start_time or 0, fps, start, end)
        if container.duration is not None:
            length = container.duration / MICROSECONDS
            self._require_whole((min(length, length if end is None else end) - start) * fps)

    def _place_frames(self, shown: list[Any], base: Fraction, origin: int, fps: Fraction, start: float, end: float | None) -> None:
        """`ticks`: for sampled frame k the time stamp of the frame on the screen at k / fps.

        As ffmpeg's filter `fps` has it with round=up and start_time=0, the whole in integers.
        """
        begin = _rounded(Fraction(origin + round(start * MICROSECONDS), MICROSECONDS) / base)
        stamps = sorted(packet.pts for packet in shown)
        last = max(shown, key=lambda packet: packet.pts)
        if not last.duration:
            raise NotPlain("the last frame has no duration")
        stop = last.pts + last.duration
        if start:
            stamps = [stamp for stamp in stamps if stamp >= begin]
        if end is not None:
            limit = begin + _rounded(Fraction(round(max(end - start, 0.001) * MICROSECONDS), MICROSECONDS) / base)
            stamps, stop = [stamp for stamp in stamps if stamp < limit], min(stop, limit)
        if not stamps or len(set(stamps)) < len(stamps):
            raise NotPlain("no frames, or several at one time")
        a_tick = 1 / (base * fps)
        self.ticks: list[int] = []
        place = 0
        for k in range(math.ceil((stop - begin) / a_tick)):
            latest = math.floor(begin + k * a_tick)
            while place + 1 < len(stamps) and stamps[place + 1] <= latest:
                place += 1
            self.ticks.append(stamps[place])

    def _require_whole(self, expected: Fraction | float) -> None:
        if not self.ticks or len(self.ticks) < int(expected):
            raise NotPlain("fewer frames than the header announces")

    def pictures(self, wanted: list[int]) -> Iterator[Any]:
        """The pictures of these sampled frames, in order, decoding no frame that nothing wanted is made from."""
        times = Counter(self.ticks[k] for k in wanted)
        for packet in self._needed(times):
            # A frame that no other is predicted from is decoded only for its own sake.
            self.context.skip_frame = "DEFAULT" if packet is None or packet.pts in times else "NONREF"
            for frame in self.context.decode(packet):
                repeats = times.pop(frame.pts, 0)
                if not repeats:
                    continue
                if frame.is_corrupt or frame.rotation or (frame.width, frame.height) != self.size or frame.format.name not in PLAIN_PIXELS:
                    raise NotPlain("a frame that is damaged, turned, or of another size")
                for _ in range(repeats):
                    yield frame
        if times:
            raise NotPlain("frames that the decoder does not give")

    def _needed(self, times: Counter[int]) -> Iterator[Any]:
        """Packets up to the last wanted frame of each group from one key frame to the next; None ends them."""
        first = 0
        for place in range(1, len(self.packets) + 1):
            if place == len(self.packets) or self.packets[place].is_keyframe:
                group = self.packets[first:place]
                wanted = [i for i, packet in enumerate(group) if packet.pts in times]
                yield from group[: wanted[-1] + 1] if wanted else []
                first = place
        yield None


def _rounded(value: Fraction) -> int:
    """To the nearest integer, halves away from zero, as libavutil scales time stamps."""
    return math.floor(abs(value) + Fraction(1, 2)) * (1 if value >= 0 else -1)


def answer(request: dict[str, Any], requests: BinaryIO, out: BinaryIO) -> None:
    path = request["path"]
    if Path(path).stat().st_size > LARGEST_BYTES:
        raise NotPlain("a large file")
    options = {"protocol_whitelist": "file", "max_pixels": str(request["max_pixels"])}
    with av.open(f"file:{path}", format=container_of(path), options=options, metadata_errors="replace") as container:
        video = Video(container, Fraction(request["fps"]), request["start"], request["end"])
        _say(out, {"count": len(video.ticks)})
        for frame in video.pictures(json.loads(requests.readline())):
            pixels = frame.to_ndarray(format="rgb24")
            out.write(b"P6\n%d %d\n255\n" % (frame.width, frame.height))
            out.write(pixels.data)
        _say(out, {"done": True})


def _say(out: BinaryIO, what: dict[str, Any]) -> None:
    out.write(json.dumps(what).encode() + b"\n")
    out.flush()


def serve(requests: BinaryIO, out: BinaryIO) -> None:
    """Answer until the other side closes the pipe, or ends."""
    while line := requests.readline():
        try:
            answer(json.loads(line), requests, out)
        except (NotPlain, av.FFmpegError, OSError) as error:
            _say(out, {"refused": str(error)})


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout.buffer)
