"""Parse what ffmpeg logs about a file before its first picture."""

import re
from dataclasses import dataclass, replace

LATE_S = 1.0
"""Seconds. If the video stream starts later than this after its file, time 0 is the start of the stream: before it
there are no pictures."""

UNINDEXED = {"mpegts", "mpeg", "mpegvideo", "flv", "gif"}
"""Containers whose length is unreliable metadata, or is estimated from the time stamps at both ends."""

RECOUNTED = {"mpegts", "mpeg", "ogg"}
"""Containers whose time stamps may jump. Unless ffmpeg seeks, it counts from the first stream that it decodes, so
their time 0 is always the start of the video."""

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders that read the alpha of WebM, which is a second stream. ffmpeg's own decoders ignore it."""


@dataclass(frozen=True)
class Header:
    """The header of a file and of the video stream that is decoded.

    `container` is libavformat's name, or names. `length` is the seconds from time 0 to the end, or None if not given. `late` is the seconds
    from the start of the file to time 0, or None if the packets that ffmpeg probed hold no frame. `alpha_decoder` is the decoder needed to
    read the stream's alpha, else empty. `hdr` is the transfer function of a high-dynamic-range video, else empty. `cover` is true if the
    stream is a cover picture.
    """

    container: str
    length: float | None
    late: float | None
    alpha_decoder: str
    hdr: str
    cover: bool

    @property
    def indexed(self) -> bool:
        """True if the header describes the whole file and not only its ends."""
        return self.container not in UNINDEXED

    @property
    def recounted(self) -> bool:
        """True if ffmpeg itself puts time 0 at the start of the video when it reads the file from the start."""
        return self.container in RECOUNTED

    def beginning(self, late: float) -> "Header":
        """The header, given that the first frame comes `late` seconds after the start of the file."""
        late = late if late > LATE_S or self.recounted else 0.0
        return replace(self, late=late, length=None if self.length is None else max(0.0, self.length - late))


def read_header(log: str) -> Header:
    """Parse the header in ffmpeg's log."""
    stream = _decoded_stream(log)
    line = stream.partition("\n")[0]
    start = _number(r"^\[info\]   Duration: .*, start: (-?\d+\.\d+)", log) or 0.0
    begins = _number(r", start (-?\d+\.\d+)", line)
    container = re.search(r"^\[info\] Input #0, (\S+),", log, re.MULTILINE)
    codec = re.search(r"Video: (vp[89])\b", line)
    alpha = codec and re.search(r"^\[info\] +alpha_mode +: 1\r?$", stream, re.MULTILINE)
    hdr = re.search(r"smpte2084|arib-std-b67", line)
    header = Header(
        container[1] if container else "",
        _length(log, start),
        None,
        ALPHA_DECODERS[codec[1]] if codec and alpha else "",
        hdr[0] if hdr else "",
        "(attached pic)" in line,
    )
    # ffmpeg prints no start if it is 0 or unknown. If it is unknown, the pixel format is unknown too.
    unknown = begins is None and re.search(r"Video: .*, none\b", line)
    return header if unknown else header.beginning(0.0 if begins is None else begins - start)


def rate_of(log: str) -> float | None:
    """Pictures a second of the video stream that is decoded, as its header announces them or ffmpeg estimates; None if neither does."""
    found = re.search(r" (\d+(?:\.\d+)?)(k?) tbr\b", _decoded_stream(log))
    return float(found[1]) * (1000.0 if found[2] else 1.0) if found else None


def _length(log: str, start: float) -> float | None:
    """Seconds from the start of the file to its end, regardless of the first time stamp."""
    found = re.search(r"^\[info\]   Duration: (\d+):(\d+):(\d+\.\d+)", log, re.MULTILINE)
    if not found:
        return None
    duration = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    # Matroska's duration is the time stamp of the end.
    return duration - max(0.0, start) if re.search(r"^\[info\] Input #0, matroska", log, re.MULTILINE) else duration


def _decoded_stream(log: str) -> str:
    """The lines of the header about the stream that is decoded, with its metadata."""
    chosen = re.search(r"^\[info\]   Stream #0:(\d+) -> #0:0", log, re.MULTILINE)
    lines = chosen and re.search(rf"^\[info\]   Stream #0:{chosen[1]}\b.*Video: .*(\n\[info\]     .*)*", log, re.MULTILINE)
    return lines[0] if lines else ""


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None
