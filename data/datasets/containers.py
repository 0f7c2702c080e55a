"""The containers that ffmpeg may open, and the suffixes of their files: one list for folders, tables and the decoder."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO

CONTAINERS = {
    "mov,mp4,m4a,3gp,3g2,mj2": "mp4 m4v mp4v mov qt mqv 3gp 3gpp 3g2 3gp2 f4v ismv mj2 insv lrv 360",
    "matroska,webm": "mkv mk3d webm",
    "avi": "avi divx xvid amv",
    "mpegts": "ts mts m2ts m2t tp trp tod",
    "mpeg": "mpg mpeg mpe m2p vob evo vro mod",
    "mpegvideo": "m1v m2v mpv",
    "flv": "flv",
    "asf": "wmv asf wm dvr-ms",
    "ogg": "ogv ogm",
    "mxf": "mxf",
    "dv": "dv dif",
    "rm": "rm rmvb",
    "wtv": "wtv",
    "gif": "gif",
}
"""Suffixes of video files in a folder, by ffmpeg's name of the demuxer. All of these containers hold their own pictures. Do not add
other formats that ffmpeg can open (playlists, scripts of file names, numbered pictures): they could make it read other files or the
network."""

FORMATS = ",".join(CONTAINERS)
"""The demuxers in the form of ffmpeg's `format_whitelist`."""

VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffixes in (*CONTAINERS.values(), "null") for suffix in suffixes.split())
"""Suffixes of video files. Some videos of DiDeMo were published as .null."""

GIF_SIGNATURES = (b"GIF87a", b"GIF89a")


def is_video_name(path: Path) -> bool:
    """Whether a file has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def is_still(path: Path) -> bool:
    """Whether a file is a GIF with a single picture. False for a damaged or unreadable file: decoding will report what is wrong."""
    if path.suffix.lower() != ".gif":
        return False
    try:
        with path.open("rb") as file:
            pictures = _gif_pictures(file)
            return next(pictures, False) and not next(pictures, False)
    except (OSError, EOFError):
        return False


def _gif_pictures(file: IO[bytes]) -> Iterator[bool]:
    """Yield True for every picture of a GIF up to its trailer. Raises EOFError if the file ends before that.

    The blocks are those of "Graphics Interchange Format, Version 89a" (CompuServe 1990), sections 17 to 27.
    """
    header = _exactly(file, 13)
    if header[:6] not in GIF_SIGNATURES:
        raise EOFError
    _skip_colours(file, header[10])
    while (kind := _exactly(file, 1)) != b";":
        if kind == b"!":
            _exactly(file, 1)
        elif kind == b",":
            _skip_colours(file, _exactly(file, 9)[8])
            _exactly(file, 1)
            yield True
        else:
            raise EOFError
        while length := _exactly(file, 1)[0]:
            file.seek(length, 1)


def _skip_colours(file: IO[bytes], flags: int) -> None:
    """Skip the colour table, if these flags announce one."""
    if flags & 0x80:
        file.seek(3 << ((flags & 7) + 1), 1)


def _exactly(file: IO[bytes], count: int) -> bytes:
    content = file.read(count)
    if len(content) < count:
        raise EOFError
    return content
