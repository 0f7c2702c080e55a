"""Find out why a file gives no frames, from its first bytes and ffmpeg's log, and say it in one line."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HEAD_BYTES = 2**16

NOT_VIDEOS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*(<!--.*?-->\s*)*<(?i:!doctype html|html|head|body)", "an HTML page, such as a server sends instead of a file"),
    (rb"#EXTM3U", "a playlist, which only names videos"),
    (rb"\[playlist\]|\[Reference\]|<asx", "a playlist, which only names videos"),
    (rb"ffconcat version", "a list of videos"),
    (rb"\s*<\?xml|\s*<[A-Za-z]", "an XML file"),
    (rb"\s*[{\[]\s*[\"{\[\d}\]]", "a JSON file"),
    (rb"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
    (rb"PK(\x03\x04|\x05\x06)", "a ZIP archive"),
    (rb"Rar!\x1a\x07", "a RAR archive"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"\x1f\x8b", "a gzip archive"),
    (rb"%PDF-", "a PDF document"),
    (rb"\xff\xd8\xff", "a JPEG picture"),
    (rb"\x89PNG\r\n", "a PNG picture"),
    (rb"RIFF....WEBP", "a WebP picture"),
    (rb"....ftyp(heic|heix|mif1|avif)", "a HEIF or AVIF picture"),
    (rb"II\*\0|MM\0\*", "a TIFF picture"),
    (rb"BM.{12}\x28\0\0\0", "a BMP picture"),
    (rb"ID3|\xff[\xfb\xf3\xf2\xfa]", "an MP3 sound file"),
    (rb"RIFF....WAVE", "a WAV sound file"),
    (rb"fLaC", "a FLAC sound file"),
    (rb"\xff[\xf1\xf9]", "an AAC sound file"),
    (rb"#!AMR", "an AMR sound file"),
    (rb"MZ|\x7fELF", "a program"),
)
"""Patterns of the first bytes of files that are not videos, and what these files are."""

OTHER_CONTAINERS: tuple[tuple[bytes, str], ...] = (
    (rb"YUV4MPEG2", "YUV4MPEG"),
    (rb"nut/multimedia container", "NUT"),
    (rb"DKIF", "IVF"),
    (rb"[FC]WS", "Flash (SWF)"),
    (rb"BIK[a-k]|KB2", "Bink"),
    (rb"\0\0\0?\x01[\x06\x09\x27\x67\x40\x42\x46\x4e]", "raw H.264 or HEVC"),
    (rb"\x12\0\x0a", "raw AV1"),
)
"""Patterns of the first bytes of videos whose containers are not supported."""

LOG_REASONS: tuple[tuple[str, str], ...] = (
    (r"Permission denied", "permission denied"),
    (r"Input/output error", "the disk reports an input or output error"),
    (r"No space left on device", "no space is left on a disk that ffmpeg writes to"),
    (r"Cannot allocate memory|Out of memory", "out of memory"),
    (r"(?i)\bDRM\b|\bencrypted\b", "encrypted (DRM): only its player can show it"),
    (r"Picture size (\d+x\d+) exceeds specified max pixel count", "pictures of {0} pixels, more than the limit"),
    (r"no decoder found for: (?!none\b)(\w+)", "no decoder for the codec {0}"),
    (r"Video: none \((\S+) / 0x\w+\)", "no decoder for the codec {0}"),
    (r"Decoder \(codec (\w+)\) not found", "no decoder for the codec {0}"),
    (r"no decoder found for: none", "no decoder for its codec, which is unknown"),
)
"""Patterns in ffmpeg's log and the reason that each shows, with {0} for the first group. The first match counts."""

ENCRYPTED = "encrypted (DRM): only its player can show it"
SCRAMBLED = "encrypted (scrambled, as pay television is): only its receiver can show it"
NOTHING_DECODED = "nothing in it could be decoded: damaged, or encrypted"
UNFINISHED = "incomplete: the index (moov) is missing, as in a download, copy or recording that is in progress or was interrupted"
NOT_SUPPORTED = "its container is not supported (docs/design/extraction.md lists those that are)"

TS_SYNC = 0x47
"""The first byte of every packet of a transport stream."""

BOXES_AROUND = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
ENCRYPTED_ENTRIES = (b"encv", b"drmi")


def reason_of(path: Path, log: str, otherwise: str) -> str:
    """Why ffmpeg, with this `log`, gave no frames of a file; `otherwise` if neither the log nor the file shows it."""
    for pattern, reason in LOG_REASONS:
        found = re.search(pattern, log)
        if found:
            return reason.format(*found.groups())
    opened = re.search(r"^(\[\w+\] )?Input #0", log, re.MULTILINE) is not None
    if opened and "Video:" not in log:
        return "no video, only sound" if "Audio:" in log else "no video stream"
    head = _head(path)
    if opened and _is_scrambled(head):
        return SCRAMBLED
    if opened:
        return NOTHING_DECODED if re.search("Decode error rate|Could not find codec parameters", log) else otherwise
    for patterns, template in ((NOT_VIDEOS, "no video, but {0}"), (OTHER_CONTAINERS, "the container {0} is not supported")):
        for start, what in patterns:
            if re.match(start, head, re.DOTALL):
                return template.format(what)
    if head and not head.strip(b"\0"):
        return "no video, but only zeros: a download or copy that never started"
    if "moov atom not found" in log and re.match(rb"....(ftyp|mdat|wide|free|skip|moov)", head, re.DOTALL):
        return UNFINISHED
    if _is_text(head):
        return "no video, but text"
    if "not on whitelist" in log:
        return NOT_SUPPORTED
    return "no video in a supported container" if "Error opening input" in log else otherwise


def is_encrypted(path: Path) -> bool:
    """True if the video of an MP4 file is marked as encrypted (ISO/IEC 23001-7), or was bought from iTunes.

    Decoding such a file gives errors or, worse, pictures of noise.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        return any(entry in ENCRYPTED_ENTRIES for entry in _sample_entries(file, 0, size, BOXES_AROUND))


def _sample_entries(file: IO[bytes], start: int, end: int, around: tuple[bytes, ...]) -> Iterator[bytes]:
    """Types of the sample entries of all tracks: the entries of every `stsd` box nested in boxes of the types `around`, outermost first."""
    for kind, inner, after in _boxes(file, start, end):
        if around and kind == around[0]:
            yield from _sample_entries(file, inner, after, around[1:])
        elif not around and kind == b"stsd":
            yield from (entry for entry, _, _ in _boxes(file, inner + 8, after))


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of the content of each box between two offsets, up to the first invalid one (ISO/IEC 14496-12, section 4.2)."""
    while start + 8 <= end:
        file.seek(start)
        header = file.read(16)
        length, kind, inner = int.from_bytes(header[:4]), header[4:8], start + 8
        if length == 1:
            length, inner = int.from_bytes(header[8:]), start + 16
        elif length == 0:
            length = end - start
        if start + length < inner or start + length > end or not kind.strip().isalnum():
            return
        yield kind, inner, start + length
        start += length


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def _is_scrambled(head: bytes) -> bool:
    """True for an MPEG transport stream most of whose packets are marked as scrambled (ISO/IEC 13818-1, section 2.4.3).

    Files from discs have 4 more bytes before each packet, 192 in all.
    """
    for size, first in ((188, 0), (192, 4)):
        packets = [head[place : place + 4] for place in range(first, len(head) - 3, size)]
        if packets and all(packet[0] == TS_SYNC for packet in packets):
            # Skip tables, which have low numbers and are never scrambled, and padding.
            scrambled = [packet[3] & 0xC0 != 0 for packet in packets if 0x20 <= (packet[1] & 0x1F) << 8 | packet[2] < 0x1FFF]
            return 2 * sum(scrambled) > len(scrambled)
    return False


def _is_text(head: bytes) -> bool:
    """True if the first bytes of a file are UTF-8 without control characters. The last character may be incomplete."""
    text = head.decode("utf-8", "ignore")
    return len(text.encode()) >= len(head) - 3 and not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text)
