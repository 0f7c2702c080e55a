"""Cuts a stretch out of a video file: a copy of its packets where a key frame allows that, otherwise encoded again."""

import errno
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from data.base.whole_files import written_whole
from extract.decode.reasons import reason_of
from extract.ffmpeg.clock import TINY_S, Clocks
from extract.ffmpeg.header import Header, rate_of, read_header
from extract.ffmpeg.input import video_file
from extract.ffmpeg.log import is_error
from extract.ffmpeg.packets import Packet, Packets, read_packets
from extract.ffmpeg.run import TARGET, FfmpegFailed, Processes, run_ffmpeg

KEY_NEAR_S = 0.5
"""A copy may begin so many seconds early, at a key frame. The three seconds that by default come before a moment then hardly differ."""

LEAD_S = 30.0
"""Seconds to start decoding ahead of the start in a container without an index. Key frames are usually closer together."""

LIMIT_S = 600.0
"""Seconds that one run of ffmpeg may take."""

SLACK_S = 0.05
"""Seconds by which a copy may be shorter or longer than its packets: containers round times, and some do not keep how long the last picture
stays."""

TICK_S = 0.001
"""The coarsest unit of time of the containers that are copied: that of Matroska."""

LEAST_FPS, MOST_FPS, USUAL_FPS = 10.0, 60.0, 25.0
"""Pictures a second of an encoded clip: at least, at most, and where the file announces none. Slides and screen recordings, whose pictures
stay for seconds, get more pictures than they had, so that players can seek in the clip."""

INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""Containers that say which of their pictures are key frames, by libavformat's names."""

CONTAINERS = {
    "mp4": ({"h264", "hevc", "av1"}, {"", "aac", "mp3", "ac3", "eac3"}),
    "webm": ({"vp8", "vp9", "av1"}, {"", "opus", "vorbis"}),
}
"""Codecs of pictures and of sound that can be copied into each kind of clip and that its players expect there; empty for no sound."""

NO_KEY = f"no key frame within {KEY_NEAR_S} s before the start"
OTHER_CODEC = "its codecs do not go into MP4 or WebM"
OTHER_CONTAINER = "its container does not say where key frames are"
BAD_COPY = "a copy would not have been whole"
NO_PICTURES = "it has no pictures there"


class CannotCut(Exception):
    """A file of which no clip can be cut; the text is the reason."""


class _NotWhole(Exception):
    """A copy that does not start or end where it should, or that cannot be decoded."""


@dataclass(frozen=True)
class Clip:
    """A clip that was cut. `again` is why it was encoded again; empty if its packets were copied."""

    path: Path
    again: str


@dataclass(frozen=True)
class _Source:
    """What is known of a file. `late`: seconds from the start of the file to time 0. `rate`: pictures a second of an encoded clip."""

    path: Path
    header: Header
    codec: str
    sound: str
    late: float
    rate: float


class Cutter:
    """Cuts clips of files, each of which is examined once."""

    def __init__(self) -> None:
        self._clocks, self._processes = Clocks(), Processes()
        self._sources: dict[Path, _Source] = {}

    def cut(self, path: Path, begin: float, end: float, target: Path) -> Clip:
        """Write what the file shows from `begin` to `end`, in seconds, to `target` with the suffix .mp4 or .webm.

        The clip starts with the picture that is on the screen at `begin`. A clip that is there already is replaced when the new one is
        whole. Raises CannotCut, and UserError if the disk is full.
        """
        with _reasons(path):
            source = self._source(path)
            start = source.late + begin
            container, again = _container(source)
            if source.header.container in INDEXED:
                packets = read_packets(path, start, end - begin, LIMIT_S)
                if not packets.video:
                    raise CannotCut(NO_PICTURES)
                if container:
                    key = _key_frame(packets.video)
                    if key is not None and (clip := _copied(source, packets, start, end - begin, key, target, container)):
                        return clip
                    again = NO_KEY if key is None else BAD_COPY
                # The pictures of the clip then have the times that they have in the file.
                on_screen = max((one.shown for one in packets.video if one.shown <= 0.0), default=0.0)
                start += on_screen if on_screen > -1.0 / source.rate else 0.0
            return _encoded(source, start, source.late + end, target.with_name(f"{target.name}.mp4"), again)

    def _source(self, path: Path) -> _Source:
        if path not in self._sources:
            first = read_packets(path, 0.0, 0.0, LIMIT_S)
            header = self._clocks.settled(path, read_header(first.log), LIMIT_S, self._processes)
            if not self._clocks.steady(path, header, LIMIT_S, self._processes):
                raise CannotCut("its clock jumps, so that no time in it can be found")
            rate = rate_of(first.log) or USUAL_FPS
            rate = min(rate * max(1, math.ceil(LEAST_FPS / rate)), MOST_FPS)
            assert header.late is not None
            self._sources[path] = _Source(path, header, first.codec, first.sound, header.late, rate)
        return self._sources[path]


@contextmanager
def _reasons(path: Path) -> Iterator[None]:
    """Turn a failure of ffmpeg into CannotCut."""
    try:
        yield
    except FfmpegFailed as error:
        raise CannotCut(reason_of(path, error.log, str(error))) from error


def _container(source: _Source) -> tuple[str, str]:
    """The kind of clip that the packets of a file can be copied into; or empty, and why there is none."""
    if source.header.container not in INDEXED:
        return "", OTHER_CONTAINER
    fitting = (name for name, (codecs, sounds) in CONTAINERS.items() if source.codec in codecs and source.sound in sounds)
    return next(fitting, ""), OTHER_CODEC


def _key_frame(packets: list[Packet]) -> Packet | None:
    """The last key frame in the KEY_NEAR_S before time 0, or the first picture of the file if that comes later; None if there is none.

    A key frame does not count if a picture that is stored after it is shown before it: that may need a picture before the key frame.
    """
    near = None
    latest = max(TICK_S, min(one.shown for one in packets))
    for place, one in enumerate(packets):
        if one.key and -KEY_NEAR_S <= one.shown <= latest and all(later.shown >= one.shown for later in packets[place:]):
            near = one
    return near


def _copied(source: _Source, packets: Packets, start: float, length: float, key: Packet, target: Path, container: str) -> Clip | None:
    """A clip whose packets are copied from the key frame on; None if it does not come out whole."""
    path = target.with_name(f"{target.name}.{container}")
    # ffmpeg ends a copy by the time of decoding, which comes before that of showing.
    last = max(one.decoded for one in packets.video if one.shown < length)
    kept = [one for one in packets.video if key.decoded <= one.decoded <= last]
    expected = max(one.until for one in kept) - key.shown
    fast = {"movflags": "+faststart"} if container == "mp4" else {}
    # Seeking may land on an earlier key frame, whose packets are dropped up to the time sought, just before this one.
    sought = max(0.0, start + key.shown - TICK_S / 2)
    try:
        with written_whole(path) as temporary:
            _write(
                source.path,
                temporary,
                {"ss": f"{sought:.6f}"},
                format=container,
                c="copy",
                copypriorss=0,
                t=f"{last - key.shown + TICK_S:.6f}",
                **fast,
            )
            _require_whole(temporary, expected)
    except (_NotWhole, FfmpegFailed):
        return None
    return Clip(path, "")


def _require_whole(clip: Path, expected: float) -> None:
    """Raise _NotWhole or FfmpegFailed unless the copy starts with a key frame, lasts as long as expected, and can be decoded."""
    found = read_packets(clip, 0.0, 2 * expected + 1.0, LIMIT_S).video
    if not found or not found[0].key or abs(found[0].shown) > SLACK_S:
        raise _NotWhole
    if abs(max(one.until for one in found) - found[0].shown - expected) > SLACK_S:
        raise _NotWhole
    graph = video_file().output("pipe:", an=None, sn=None, dn=None, format="null")
    _, log = run_ffmpeg(graph, source=clip, read=lambda running: running.stdout.read(), time_limit_s=LIMIT_S)
    if any(map(is_error, log.splitlines())):
        raise _NotWhole


def _encoded(source: _Source, start: float, end: float, path: Path, again: str) -> Clip:
    """A clip in H.264 and AAC. Raises FfmpegFailed, and CannotCut if the file has no picture there."""
    lead = 0.0 if source.header.container in INDEXED else min(start, LEAD_S)
    with written_whole(path) as temporary:
        _write(
            source.path,
            temporary,
            # From the key frame before the start: a picture that is on the screen there may have come long before.
            {"ss": f"{max(start - lead, TINY_S):.6f}", "noaccurate_seek": None},
            ss=f"{lead:.6f}",
            t=f"{end - start:.6f}",
            format="mp4",
            # H.264 in yuv420p has even sizes.
            vf=f"bwdif=mode=send_frame:deint=interlaced,fps={source.rate},pad=ceil(iw/2)*2:ceil(ih/2)*2",
            vcodec="libx264",
            pix_fmt="yuv420p",
            preset="veryfast",
            crf=20,
            acodec="aac",
            ac=2,
            movflags="+faststart",
        )
        if not _has_pictures(temporary):
            raise CannotCut(NO_PICTURES)
    return Clip(path, again)


def _has_pictures(clip: Path) -> bool:
    try:
        return bool(read_packets(clip, 0.0, LIMIT_S, LIMIT_S).video)
    except FfmpegFailed:
        return False  # ffmpeg wrote a file without streams


def _write(source: Path, target: Path, seek: dict[str, Any], **options: Any) -> None:
    """Run ffmpeg from a file to a file. Raises FfmpegFailed, and UserError if the disk is full."""
    # Chapters would keep the times that they had in the file.
    graph = video_file(**seek).output(TARGET, sn=None, dn=None, map_chapters=-1, **options).overwrite_output()
    try:
        run_ffmpeg(graph, source=source, target=target, read=lambda running: running.stdout.read(), time_limit_s=LIMIT_S)
    except FfmpegFailed as error:
        if os.strerror(errno.ENOSPC) in error.log:
            raise UserError(f"{target.parent} has no room for a clip: make room or choose another --clips") from error
        raise
