"""Whether a file breaks off in the middle of what its container keeps together: some headers announce no length that would show it."""

import os
from pathlib import Path

TAIL_BYTES = 2**17
"""The end of a file that is looked at: more than the largest packet of a program stream."""

TS_SYNC, TS_PACKET_BYTES = 0x47, 188
TS_SPACINGS = (188, 192, 204)
"""Bytes from one packet of a transport stream to the next: plain, with a time before it (Blu-ray), with a check sum after it."""

PACK = 0xBA


def breaks_off(path: Path, container: str) -> bool:
    """Whether the last packet, tag or chunk of a file is incomplete, as far as that can be told of its container (libavformat's name)."""
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
        # RIFF: the size of what follows the first eight bytes; 0 or the largest number where nobody went back to write it.
        announced = int.from_bytes(first[4:8], "little")
        return announced != 0xFFFFFFFF and announced + 8 > size
    return False


def _transport_breaks_off(tail: bytes) -> bool:
    """ISO/IEC 13818-1, 2.4.3: every packet begins with 0x47. A recording may stop after any of them, and lacks its last picture at most."""
    for spacing in TS_SPACINGS:
        for first in range(min(spacing, len(tail))):
            begins = range(first, len(tail), spacing)
            if len(begins) > 4 and all(tail[i] == TS_SYNC for i in begins):
                return len(tail) - begins[-1] < TS_PACKET_BYTES
    return False


def _program_breaks_off(tail: bytes) -> bool:
    """ISO/IEC 13818-1, 2.5.3: from the last pack on, each packet says its length."""
    at = tail.rfind(bytes((0, 0, 1, PACK)))
    if at < 0:
        return False
    if at + 14 > len(tail):
        return True
    # The header of a pack: of MPEG-2 with stuffing, or of MPEG-1.
    at += 14 + (tail[at + 13] & 7) if tail[at + 4] >> 6 == 1 else 12
    while at + 4 <= len(tail) and tail[at : at + 3] == b"\0\0\1" and tail[at + 3] > PACK:
        if at + 6 > len(tail):
            return True
        at += 6 + int.from_bytes(tail[at + 4 : at + 6], "big")
    return at > len(tail)


def _flash_breaks_off(tail: bytes, size: int) -> bool:
    """Adobe Flash Video 10.1, annex E.3: every tag is followed by its size, 11 bytes more than its header says of its content. Zeros may
    follow the last one, whose size may end with zeros itself."""
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
