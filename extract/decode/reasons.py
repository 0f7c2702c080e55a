"""Why a file gives no frames, in one line: what its first bytes show, and what ffmpeg's log says of it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

HEAD_BYTES = 2**16

NO_VIDEOS: tuple[tuple[bytes, str], ...] = (
    (rb"\s*(<!--.*?-->\s*)*<(?i:!doctype html|html|head|body)", "an HTML page, such as a server sends in place of a file"),
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
"""How files begin that are no videos, as patterns, and what they are."""

OTHER_CONTAINERS: tuple[tuple[bytes, str], ...] = (
    (rb"YUV4MPEG2", "YUV4MPEG"),
    (rb"nut/multimedia container", "NUT"),
    (rb"DKIF", "IVF"),
    (rb"[FC]WS", "Flash (SWF)"),
    (rb"BIK[a-k]|KB2", "Bink"),
    (rb"\0\0\0?\x01[\x06\x09\x27\x67\x40\x42\x46\x4e]", "raw H.264 or HEVC"),
    (rb"\x12\0\x0a", "raw AV1"),
)
"""How videos begin whose containers are not taken."""

SAID: tuple[tuple[str, str], ...] = (
    (r"Permission denied", "permission denied"),
    (r"Input/output error", "the disk reports an input or output error"),
    (r"No space left on device", "no space is left on a disk that ffmpeg writes to"),
    (r"Cannot allocate memory|Out of memory", "out of memory"),
    (r"(?i)\bDRM\b|\bencrypted\b", "encrypted (DRM): only its player can show it"),
    (r"Picture size (\d+x\d+) exceeds specified max pixel count", "pictures of {0} pixels, more than are taken"),
    (r"no decoder found for: (?!none\b)(\w+)", "no decoder for the codec {0}"),
    (r"Video: none \((\S+) / 0x\w+\)", "no decoder for the codec {0}"),
    (r"Decoder \(codec (\w+)\) not found", "no decoder for the codec {0}"),
    (r"no decoder found for: none", "no decoder for its codec, which is unknown"),
)
"""What stands in ffmpeg's log, and what it means; groups of the pattern are put into it. The first that is found counts."""

ENCRYPTED = "encrypted (DRM): only its player can show it"
SCRAMBLED = "encrypted (scrambled, as pay television is): only its receiver can show it"
NOTHING_DECODED = "nothing in it could be decoded: damaged, or encrypted"
UNFINISHED = "incomplete: the index (moov) is missing, as while a file is downloaded, copied or recorded, or where that was broken off"
NOT_TAKEN = "its container is not among those that are taken (docs/design/extraction.md)"

SYNC = 0x47
"""The first byte of every packet of a transport stream."""

BOXES_AROUND = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
ENCRYPTED_ENTRIES = (b"encv", b"drmi")


def reason_of(path: Path, said: str, otherwise: str) -> str:
    """Why ffmpeg, which `said` this, gave no frames of a file; `otherwise` where neither log nor file tell."""
    for pattern, meaning in SAID:
        found = re.search(pattern, said)
        if found:
            return meaning.format(*found.groups())
    opened = re.search(r"^(\[\w+\] )?Input #0", said, re.MULTILINE) is not None
    if opened and "Video:" not in said:
        return "no video, only sound" if "Audio:" in said else "no video stream"
    head = _head(path)
    if opened and _is_scrambled(head):
        return SCRAMBLED
    if opened:
        return NOTHING_DECODED if re.search("Decode error rate|Could not find codec parameters", said) else otherwise
    for patterns, meant in ((NO_VIDEOS, "no video, but {0}"), (OTHER_CONTAINERS, "the container {0} is not taken")):
        for start, what in patterns:
            if re.match(start, head, re.DOTALL):
                return meant.format(what)
    if head and not head.strip(b"\0"):
        return "no video, but zeros: a download or a copy that did not begin"
    if "moov atom not found" in said and re.match(rb"....(ftyp|mdat|wide|free|skip|moov)", head, re.DOTALL):
        return UNFINISHED
    if _is_text(head):
        return "no video, but text"
    if "not on whitelist" in said:
        return NOT_TAKEN
    return "no video in any container that is taken" if "Error opening input" in said else otherwise


def is_encrypted(path: Path) -> bool:
    """Whether the video of an MP4 file is declared encrypted (ISO/IEC 23001-7), or bought from iTunes.

    Decoded all the same, it gives errors or, worse, pictures of noise.
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        return any(entry in ENCRYPTED_ENTRIES for entry in _sample_entries(file, 0, size, BOXES_AROUND))


def _sample_entries(file: IO[bytes], start: int, end: int, around: tuple[bytes, ...]) -> Iterator[bytes]:
    """The types of the sample entries of all tracks: those in the boxes `stsd` that lie in boxes of these types, one in the other."""
    for kind, inner, after in _boxes(file, start, end):
        if around and kind == around[0]:
            yield from _sample_entries(file, inner, after, around[1:])
        elif not around and kind == b"stsd":
            yield from (entry for entry, _, _ in _boxes(file, inner + 8, after))


def _boxes(file: IO[bytes], start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of the content of the boxes between two places (ISO/IEC 14496-12, section 4.2), until one makes no sense."""
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
    """Whether most packets of an MPEG transport stream (ISO/IEC 13818-1, section 2.4.3) say that they are scrambled. Disc files have
    packets of 192 bytes, with 4 before each."""
    for size, first in ((188, 0), (192, 4)):
        packets = [head[place : place + 4] for place in range(first, len(head) - 3, size)]
        if packets and all(packet[0] == SYNC for packet in packets):
            # Tables, which lie under low numbers, are never scrambled, and padding is none of it.
            scrambled = [packet[3] & 0xC0 != 0 for packet in packets if 0x20 <= (packet[1] & 0x1F) << 8 | packet[2] < 0x1FFF]
            return 2 * sum(scrambled) > len(scrambled)
    return False


def _is_text(head: bytes) -> bool:
    """Whether the beginning of a file is UTF-8 without control characters; its last character may be cut."""
    text = head.decode("utf-8", "ignore")
    return len(text.encode()) >= len(head) - 3 and not re.search(r"[\0-\x08\x0e-\x1a\x1c-\x1f]", text)
