"""Reads the packets of a stretch of a file without decoding them: which pictures are there, and where decoding can start."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from extract.ffmpeg.clock import TINY_S
from extract.ffmpeg.input import video_file
from extract.ffmpeg.run import Running, run_ffmpeg

DISCARDED = 4
"""libavcodec's flag of a packet that is decoded but not shown, as before the start of an edit list."""


class Packet(NamedTuple):
    """A packet of the video stream, with times in seconds: `decoded` and `shown` are when its picture is, `until` is when that ends.

    `key` if decoding can start there.
    """

    decoded: float
    shown: float
    until: float
    key: bool


@dataclass(frozen=True)
class Packets:
    """The packets of a stretch, in decoding order, with times from its start; the codecs of both streams, empty for none; ffmpeg's log.

    Seeking lands on the key frame before the start, so that the first packets may have negative times.
    """

    video: list[Packet]
    codec: str
    sound: str
    log: str


def read_packets(path: Path, begin: float, length: float, time_limit_s: float) -> Packets:
    """The packets from `begin`, in seconds from the start of the file, until so many seconds later. Raises FfmpegFailed."""

    def read(running: Running) -> tuple[list[Packet], list[str]]:
        found, codecs, tick = [], ["", ""], 0.0
        for line in running.stdout:
            text = line.decode("ascii", "replace").strip()
            if named := re.match(r"#codec_id ([01]): (\S+)", text):
                codecs[int(named[1])] = named[2]
            elif text.startswith("#tb 0: "):
                above, below = map(int, text[7:].split("/"))
                tick = above / below
            elif text.startswith("0,"):
                _, decoded, shown, duration, _, _, *more = (cell.strip() for cell in text.split(","))
                flags = next((int(cell[2:], 16) for cell in more if cell.startswith("F=")), 1)
                if not flags & DISCARDED:
                    until = int(shown) + int(duration)
                    found.append(Packet(int(decoded) * tick, int(shown) * tick, until * tick, bool(flags & 1)))
        return found, codecs

    # ffmpeg counts from the start of the file only if it seeks. No -map: it then takes the streams that it takes for decoding.
    graph = video_file(ss=f"{max(begin, TINY_S):.6f}").output("pipe:", sn=None, dn=None, c="copy", format="framecrc", t=f"{length:.6f}")
    (video, (codec, sound)), log = run_ffmpeg(graph, source=path, read=read, time_limit_s=time_limit_s)
    return Packets(video, codec, sound, log)
