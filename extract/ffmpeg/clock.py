"""How long a video is, from its first picture to its last, and whether its clock can be trusted to find a moment in it.

A header tells of all streams together, and in containers without an index of little more than the last time stamp. Where that may mislead,
the packets of the video are read, but not decoded.
"""

import math
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from extract.ffmpeg.header import Header, read_header
from extract.ffmpeg.input import video_file
from extract.ffmpeg.run import FfmpegFailed, Processes, Running, run_ffmpeg

LONGEST_STILL_S = 600.0
"""Seconds that one frame may stay on the screen. After more the clock of the recording was set, and the next frame follows at once."""

BACK_S = 1.0
"""A frame so much earlier than the one before it, or more, tells that the clock was set back; less is a damaged time stamp."""

TAIL_S = 10.0
"""The end of a file whose packets are looked at for the last picture."""

TINY_S = 1e-6
"""The least that ffmpeg can seek."""

NO_TIME = -(2**63)
"""What stands for a time stamp that is not known."""

READ_BYTES = 2**26
"""Of a file so large, or smaller, the packets are read where its header announces more than the longest still."""


class Clock(NamedTuple):
    """`length`: seconds from the first picture to the end of the last, without those by which the clock was set, or None where there is no
    picture; `steady`: whether it was never set; `begin` and `end`: the time stamps of the first and the last."""

    length: float | None
    steady: bool
    begin: float
    end: float


class Clocks:
    """The clocks of files, for several threads; each is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steady: dict[Path, bool] = {}
        self._late: dict[Path, float] = {}

    def steady(self, path: Path, header: Header, time_limit_s: float, processes: Processes) -> bool:
        """Whether a moment of the file can be sought. Raises FfmpegFailed."""
        if not _is_doubtful(path, header):
            return True
        with self._lock:
            if path not in self._steady:
                self._steady[path] = _read(path, time_limit_s, processes)[0].steady
            return self._steady[path]

    def settled(self, path: Path, header: Header, time_limit_s: float, processes: Processes) -> Header:
        """The header, with the beginning of the time that it may not know. Raises FfmpegFailed."""
        if header.late is not None:
            return header
        with self._lock:
            if path not in self._late:
                # ffmpeg would count from the first frame where it seeks nothing.
                sought = {"ss": TINY_S} if header.recounted else {}
                self._late[path] = _read(path, time_limit_s, processes, {"frames:v": 1}, **sought)[0].begin
            return header.beginning(self._late[path])


def length_of(path: Path, at_least: float, time_limit_s: float, processes: Processes) -> float | None:
    """The seconds from the first picture of a file to the end of the last; None where it is no video.

    Where the header announces less than `at_least`, that may be the answer: sound that goes on is counted then.
    """
    if not path.is_file():
        return None
    try:
        _, said = _read(path, time_limit_s, processes, t=0)
        if read_header(said).cover:
            return None
        header = Clocks().settled(path, read_header(said), time_limit_s, processes)
        if _is_doubtful(path, header):
            return _read(path, time_limit_s, processes)[0].length
        assert header.length is not None
        assert header.late is not None
        if header.length < at_least:
            return header.length
        begin = max(0.0, header.length - TAIL_S)
        tail, _ = _read(path, time_limit_s, processes, ss=begin + header.late)
        return begin + tail.end if tail.length is not None else _read(path, time_limit_s, processes)[0].length
    except FfmpegFailed:
        return None


def _is_doubtful(path: Path, header: Header) -> bool:
    """Whether the header may say something that only the packets put right."""
    if header.length is None or not header.indexed:
        return True
    return header.length > LONGEST_STILL_S and path.stat().st_size <= READ_BYTES


def _read(
    path: Path, time_limit_s: float, processes: Processes, output: Mapping[str, Any] = MappingProxyType({}), **part: float
) -> tuple[Clock, str]:
    """The clock by the packets of the video stream, in a part of the file from `ss` or of `t` seconds, and what ffmpeg said."""

    tick = 0.0

    def read(running: Running) -> Clock:
        nonlocal tick
        steady, length, usual = True, 0, 0
        before: int | None = None
        begin, last, end = math.inf, -math.inf, -math.inf
        for line in running.stdout:
            if line.startswith(b"#tb 0: "):
                above, below = map(int, line[7:].split(b"/"))
                tick = above / below
            elif not line.startswith(b"#"):
                decoded, shown, lasts = map(int, line.split(b",")[1:4])
                step = 0 if before is None else decoded - before
                if not -BACK_S <= step * tick <= LONGEST_STILL_S:
                    steady, step = False, usual
                length += step if step > 0 or before is None else usual
                # Where the clock was set, the packet before it lasts until then.
                interval = lasts or max(step, 0)
                usual = interval if interval * tick <= LONGEST_STILL_S else usual
                before = decoded
                shown = decoded if shown == NO_TIME else shown
                begin = min(begin, shown)
                # Packets come in the order of decoding: the last that is shown ends the video.
                if shown > last:
                    last, end = shown, shown + usual
        return Clock((length + usual) * tick, steady, begin * tick, end * tick) if before is not None else Clock(None, True, 0.0, 0.0)

    # Without a map ffmpeg takes the stream that it decodes without one.
    graph = video_file(**part).output("pipe:", an=None, sn=None, dn=None, c="copy", format="framecrc", **output)
    clock, said = run_ffmpeg(graph, source=path, read=read, time_limit_s=time_limit_s, processes=processes)
    # ffmpeg goes on after a clock that was set in containers where that is common, and lets no time stamp of a copy fall behind another.
    # Its own words begin with who speaks, those of the file, such as a title, do not.
    set_back = any(
        (int(before) - int(after)) * tick > BACK_S
        for before, after in re.findall(r"^\[[^]\n]* @ \w+\] .*previous: (-?\d+), current: (-?\d+)", said, re.MULTILINE)
    )
    if clock.steady and not set_back and not re.search(r"^\[[^]\n]* @ \w+\] .*timestamp discontinuity", said, re.MULTILINE):
        return clock._replace(length=None if clock.length is None else clock.end - clock.begin), said
    return clock._replace(steady=False), said
