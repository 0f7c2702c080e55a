"""Length of a video from its first picture to its last, and whether its time stamps are reliable enough to seek.

The length in a header covers all streams, and in a container without an index it rests on little more than the last time stamp. Where that
may be wrong, the packets of the video are read without decoding them.
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
"""Seconds that a frame may stay on the screen. A longer gap counts as a jump of the clock, and the next frame follows at once."""

BACK_S = 1.0
"""Seconds. A frame earlier than the previous one by more than this is a jump of the clock; by less, a damaged time stamp."""

TAIL_S = 10.0
"""Seconds at the end of a file whose packets are read to find the last picture."""

TINY_S = 1e-6
"""The smallest seek of ffmpeg, in seconds."""

NO_TIME = -(2**63)
"""libavformat's value for an unknown time stamp."""

READ_BYTES = 2**26
"""Size in bytes up to which the packets are read if the header announces more than LONGEST_STILL_S."""


class Clock(NamedTuple):
    """The clock of a video stream.

    `length` is the seconds from the first picture to the end of the last, without the jumps; None if there is no picture. `steady` is true
    if the clock never jumps. `begin` and `end` are the time stamps, in seconds, of the first picture and of the end of the last.
    """

    length: float | None
    steady: bool
    begin: float
    end: float


class Clocks:
    """The clocks of files. Threads may share it; each file is read once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steady: dict[Path, bool] = {}
        self._late: dict[Path, float] = {}

    def steady(self, path: Path, header: Header, time_limit_s: float, processes: Processes) -> bool:
        """True if the file can be sought by time. Raises FfmpegFailed."""
        if not _is_doubtful(path, header):
            return True
        with self._lock:
            if path not in self._steady:
                self._steady[path] = _read(path, time_limit_s, processes)[0].steady
            return self._steady[path]

    def settled(self, path: Path, header: Header, time_limit_s: float, processes: Processes) -> Header:
        """The header with `late` filled in, if necessary by reading a packet. Raises FfmpegFailed."""
        if header.late is not None:
            return header
        with self._lock:
            if path not in self._late:
                # Without a seek, ffmpeg would count from the first frame.
                sought = {"ss": TINY_S} if header.recounted else {}
                self._late[path] = _read(path, time_limit_s, processes, {"frames:v": 1}, **sought)[0].begin
            return header.beginning(self._late[path])


def length_of(path: Path, at_least: float, time_limit_s: float, processes: Processes) -> float | None:
    """Seconds from the first picture of a file to the end of the last; None if the file is not a video.

    If the header announces less than `at_least`, its length is returned as is, and may include sound after the last picture.
    """
    if not path.is_file():
        return None
    try:
        _, log = _read(path, time_limit_s, processes, t=0)
        if read_header(log).cover:
            return None
        header = Clocks().settled(path, read_header(log), time_limit_s, processes)
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
    """True if the length in the header may be wrong, so that the packets must be read."""
    if header.length is None or not header.indexed:
        return True
    return header.length > LONGEST_STILL_S and path.stat().st_size <= READ_BYTES


def _read(
    path: Path, time_limit_s: float, processes: Processes, output: Mapping[str, Any] = MappingProxyType({}), **input_options: float
) -> tuple[Clock, str]:
    """The clock, read from the packets of the video stream, and ffmpeg's log. `ss` starts at a time, `t` limits the
    duration, in seconds."""

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
                decoded, shown, duration = map(int, line.split(b",")[1:4])
                step = 0 if before is None else decoded - before
                if not -BACK_S <= step * tick <= LONGEST_STILL_S:
                    steady, step = False, usual
                length += step if step > 0 or before is None else usual
                # Before a jump, a packet may last until the jump: then keep the usual interval.
                interval = duration or max(step, 0)
                usual = interval if interval * tick <= LONGEST_STILL_S else usual
                before = decoded
                shown = decoded if shown == NO_TIME else shown
                begin = min(begin, shown)
                # Packets come in decoding order, so the one shown last need not come last.
                if shown > last:
                    last, end = shown, shown + usual
        return Clock((length + usual) * tick, steady, begin * tick, end * tick) if before is not None else Clock(None, True, 0.0, 0.0)

    # No -map: ffmpeg then selects the same stream as it does when decoding.
    graph = video_file(**input_options).output("pipe:", an=None, sn=None, dn=None, c="copy", format="framecrc", **output)
    clock, log = run_ffmpeg(graph, source=path, read=read, time_limit_s=time_limit_s, processes=processes)
    # In containers whose clocks often jump, ffmpeg corrects the jumps, and it never writes decreasing time stamps in
    # a copy. Both show in the log. Its own messages start with a component in brackets; metadata of the file, such as
    # a title, does not.
    set_back = any(
        (int(before) - int(after)) * tick > BACK_S
        for before, after in re.findall(r"^\[[^]\n]* @ \w+\] .*previous: (-?\d+), current: (-?\d+)", log, re.MULTILINE)
    )
    if clock.steady and not set_back and not re.search(r"^\[[^]\n]* @ \w+\] .*timestamp discontinuity", log, re.MULTILINE):
        return clock._replace(length=None if clock.length is None else clock.end - clock.begin), log
    return clock._replace(steady=False), log
