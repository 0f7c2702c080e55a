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
        # RIFF: the size of what follows the first eight bytes; 0 where nobody went back to write it.
        return int.from_bytes(first[4:8], "little") + 8 > size
    return False


def _transport_breaks_off(tail: bytes) -> bool:
    """ISO/IEC 13818-1, 2.4.3: every packet begins with 0x47, and carries a piece of a longer one that may say its length."""
    for spacing in TS_SPACINGS:
        for first in range(min(spacing, len(tail))):
            begins = range(first, len(tail), spacing)
            if len(begins) > 4 and all(tail[i] == TS_SYNC for i in begins):
                packets = [tail[i : i + TS_PACKET_BYTES] for i in begins]
                return len(packets[-1]) < TS_PACKET_BYTES or _lacks_pieces(packets)
    return False


def _lacks_pieces(packets: list[bytes]) -> bool:
    """Whether one of the streams ends before the length that its last packet announces."""
    lacking: dict[int, int] = {}
    for packet in packets:
        stream = int.from_bytes(packet[1:3], "big") & 0x1FFF
        has_adaptation, has_payload = packet[3] & 0x20, packet[3] & 0x10
        payload = packet[4 + (1 + packet[4] if has_adaptation else 0) :] if has_payload else b""
        if packet[1] & 0x40:
            announced = int.from_bytes(payload[4:6], "big") if payload.startswith(b"\0\0\1") else 0
            lacking[stream] = 6 + announced if announced else 0
        lacking[stream] = lacking.get(stream, 0) - len(payload)
    return any(count > 0 for count in lacking.values())


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
    """Adobe Flash Video 10.1, annex E.3: every tag is followed by its size, 11 bytes more than its header says of its content."""
    if len(tail) < 15:
        return True
    length = int.from_bytes(tail[-4:], "big")
    begin = len(tail) - 4 - length
    if begin < 0:
        return length > size
    return length < 11 or int.from_bytes(tail[begin + 1 : begin + 4], "big") + 11 != length
