"""Addresses of files on pages and in tables, and of moments in them."""

import os
from pathlib import Path
from urllib.parse import quote


def file_url(file: Path) -> str:
    """The address of a file on this machine, whatever bytes its name has: file:///videos/a%20dog.mp4."""
    return "file://" + quote(os.fsencode(os.path.abspath(file)))


def address(file: Path, page: Path) -> str:
    """The address of a file on a page: relative where both lie in one folder other than the root, so that both can move together."""
    # As a browser does, which removes ".." from an address without a look at the disk: links are not resolved.
    file, folder = Path(os.path.abspath(file)), Path(os.path.abspath(page)).parent
    if Path(os.path.commonpath([file, folder])) == Path(file.anchor):
        return file_url(file)
    return quote(os.fsencode(os.path.relpath(file, folder)))


def time_fragment(begin: float, end: float | None = None) -> str:
    """A moment or a part of a video as a media fragment: #t=3.5 or #t=2,5.5."""
    return f"#t={_seconds(begin)}{'' if end is None else f',{_seconds(end)}'}"


def _seconds(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")
