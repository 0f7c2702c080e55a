"""Detect truncated files by an incomplete last packet, for containers whose header gives no reliable length."""

import os
from pathlib import Path

TAIL_BYTES = 2**17
"""Bytes read from the end of a file: more than the largest packet of a program stream."""

TS_SYNC, TS_PACKET_BYTES = 0x47, 188
TS_SPACINGS = (188, 192, 204)
"""Distance of transport stream packets in bytes: plain, with a time stamp before each (Blu-ray), with a checksum after each."""

PACK = 0xBA


def breaks_off(path: Path, container: str) -> bool:
    """True if the last packet, tag or chunk is incomplete. `container` is libavformat's name; False if the container gives no clue."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = file.read(8)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
    if container == "mpegts":
        return _transport_breaks_off(tail)
    if container == "mpeg":
        return _program_breaks_off(tail)
    if container == "flv":
        return _flash_breaks_off(tail, size)
    if container == "avi":
        # RIFF: the size of all after the first eight bytes; 0 or the largest number if the writer never filled it in.
        announced = int.from_bytes(first[4:8], "little")
        return announced != 0xFFFFFFFF and announced + 8 > size
    return False


def _transport_breaks_off(tail: bytes) -> bool:
    """ISO/IEC 13818-1, 2.4.3: every packet starts with 0x47. A recording may stop after any packet, and loses its last picture at most."""
    for spacing in TS_SPACINGS:
        for first in range(min(spacing, len(tail))):
            begins = range(first, len(tail), spacing)
            if len(begins) > 4 and all(tail[i] == TS_SYNC for i in begins):
                return len(tail) - begins[-1] < TS_PACKET_BYTES
    return False


def _program_breaks_off(tail: bytes) -> bool:
    """ISO/IEC 13818-1, 2.5.3: after the last pack header, each packet gives its length."""
    at = tail.rfind(bytes((0, 0, 1, PACK)))
    if at < 0:
        return False
    if at + 14 > len(tail):
        return True
    # Skip the pack header: MPEG-2 with stuffing, or MPEG-1.
    at += 14 + (tail[at + 13] & 7) if tail[at + 4] >> 6 == 1 else 12
    while at + 4 <= len(tail) and tail[at : at + 3] == b"\0\0\1" and tail[at + 3] > PACK:
        if at + 6 > len(tail):
            return True
        at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
    return at > len(tail)


def _flash_breaks_off(tail: bytes, size: int) -> bool:
    """Adobe Flash Video 10.1, annex E.3: every tag is followed by its size, which is 11 bytes more than the content size in its header.

    Zeros may follow the last tag, and its size may itself end with zeros.
    """
    end = len(tail.rstrip(b"\0"))
    return not any(_flash_ends_at(tail[:place], size) for place in range(end, min(end + 4, len(tail) + 1)))


def _flash_ends_at(tail: bytes, size: int) -> bool:
    if len(tail) < 15:
        return False
    length = int.from_bytes(tail[-4:], "big")
    begin = len(tail) - 4 - length
    if begin < 0:
        return length <= size
    return length >= 11 and int.from_bytes(tail[begin + 1 : begin + 4], "big") + 11 == length
