"""What ffmpeg says of a file before the first picture comes out."""

import re
from dataclasses import dataclass, replace

LATE_S = 1.0
"""A video stream that begins so much later than its file, or more, begins the time: what comes before it has no pictures."""

UNINDEXED = {"mpegts", "mpeg", "mpegvideo", "flv", "gif"}
"""Containers whose length is written by whom it pleases or found from the time stamps at both ends."""

RECOUNTED = {"mpegts", "mpeg", "ogg"}
"""Containers whose time stamps may jump: where ffmpeg seeks nothing, it counts from the first of the streams that it decodes. So their time
begins with the video, however little later that is."""

ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""Decoders of these codecs that give the second stream, of alpha, in which WebM keeps it. ffmpeg's own leave it out."""


@dataclass(frozen=True)
class Header:
    """What the header says of a file and of the video stream that is decoded.

    `container`: libavformat's name, or names; `length`: seconds from the beginning of the time, if it says so; `late`: seconds from the
    start of the file to the beginning of the time, None where no frame came among the packets that were looked at; `alpha_decoder`: what
    must decode the stream so that its alpha is seen, else empty; `hdr`: the transfer function of high dynamic range, else empty; `cover`:
    whether the stream is a cover picture.
    """

    container: str
    length: float | None
    late: float | None
    alpha_decoder: str
    hdr: str
    cover: bool

    @property
    def indexed(self) -> bool:
        """Whether the header tells of all of the file, and not of its ends alone."""
        return self.container not in UNINDEXED

    @property
    def recounted(self) -> bool:
        """Whether ffmpeg begins the time with the video by itself, where it reads the file from the start."""
        return self.container in RECOUNTED

    def beginning(self, late: float) -> "Header":
        """The header, once it is known by how many seconds the first frame comes after the start of the file."""
        late = late if late > LATE_S or self.recounted else 0.0
        return replace(self, late=late, length=None if self.length is None else max(0.0, self.length - late))


def read_header(said: str) -> Header:
    """The header in ffmpeg's log."""
    stream = _decoded_stream(said)
    line = stream.partition("\n")[0]
    start = _number(r"^\[info\]   Duration: .*, start: (-?\d+\.\d+)", said) or 0.0
    begins = _number(r", start (-?\d+\.\d+)", line)
    container = re.search(r"^\[info\] Input #0, (\S+),", said, re.MULTILINE)
    codec = re.search(r"Video: (vp[89])\b", line)
    alpha = codec and re.search(r"^\[info\] +alpha_mode +: 1\r?$", stream, re.MULTILINE)
    hdr = re.search(r"smpte2084|arib-std-b67", line)
    header = Header(
        container[1] if container else "",
        _length(said, start),
        None,
        ALPHA_DECODERS[codec[1]] if codec and alpha else "",
        hdr[0] if hdr else "",
        "(attached pic)" in line,
    )
    # Of a start at 0 nothing is said, nor of one that is not known; but then the pixels are not known either.
    unknown = begins is None and re.search(r"Video: .*, none\b", line)
    return header if unknown else header.beginning(0.0 if begins is None else begins - start)


def _length(said: str, start: float) -> float | None:
    """Seconds from the start of the file to its end, whatever the first time stamp is."""
    found = re.search(r"^\[info\]   Duration: (\d+):(\d+):(\d+\.\d+)", said, re.MULTILINE)
    if not found:
        return None
    duration = int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3])
    # Matroska's is the time of the end.
    return duration - max(0.0, start) if re.search(r"^\[info\] Input #0, matroska", said, re.MULTILINE) else duration


def _decoded_stream(said: str) -> str:
    """What the header says of the stream that is decoded, its metadata included."""
    chosen = re.search(r"^\[info\]   Stream #0:(\d+) -> #0:0", said, re.MULTILINE)
    lines = chosen and re.search(rf"^\[info\]   Stream #0:{chosen[1]}\b.*Video: .*(\n\[info\]     .*)*", said, re.MULTILINE)
    return lines[0] if lines else ""


def _number(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text, re.MULTILINE)
    return float(found[1]) if found else None
