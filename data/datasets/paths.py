"""Resolve the file names of a table to paths under the folder of videos."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import NO_TEXT

MAX_NAME = 1000


class Paths:
    """Resolves the file names of a table to paths under the folder of videos."""

    def __init__(self, videos: Path, table: Path) -> None:
        self._videos = videos
        self._bases = (table.parent, Path())
        stat = videos.stat()
        self._identity = (stat.st_dev, stat.st_ino)
        self._known: dict[str, str | None] = {}
        self._from_elsewhere: list[str] = []

    def under(self, name: str, place: str) -> str:
        """The path under the folder of videos for a name in the table: a path relative to that folder, an absolute path, or a file URL.

        A relative path that does not exist in the folder is also tried from the table's folder and the current one, and taken if it leads
        into the folder of videos: tables often have `videos/a.mp4`.

        Raises UserError if the file is outside of the folder, or the name is a web address.
        """
        written = name
        if name.startswith("file://"):
            name = check_name(unquote(name.removeprefix("file://").removeprefix("localhost")), place)
        elif re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name):
            raise UserError(f"{place}: video {quote(name)} is an address: download the video, and write the name of its file")
        if not os.path.isabs(name) and ".." not in name.split("/"):
            plain = os.path.normpath(name)
            if os.path.exists(self._videos / plain):
                return plain
            # Windows separators are replaced only if the name does not exist as written.
            for spelt, base in ((spelt, base) for spelt in dict.fromkeys((name, name.replace("\\", "/"))) for base in self._bases):
                inside = self._inside(base / spelt)
                # For a file that does not exist, its folder decides, so that the path stays the same once the file exists.
                lost = not (self._videos / os.path.normpath(spelt)).parent.is_dir()
                if inside not in (None, plain) and (os.path.isfile(base / spelt) or lost):
                    self._from_elsewhere.append(written)
                    return inside
            return plain
        inside = self._inside(self._videos / name)
        if inside is None:
            raise UserError(
                f"{place}: video {quote(written)} lies outside of --videos {self._videos}: name the folder that holds all of them"
            )
        return inside

    def notes(self) -> list[str]:
        """A line about the files that were found from the table or the current folder, if any."""
        count = len(self._from_elsewhere)
        such = f"such as {quote(self._from_elsewhere[0])}" if count else ""
        return [f"{count:,} videos are found by their paths from the table, or from the folder of this command, {such}"] if count else []

    def _inside(self, path: Path) -> str | None:
        """The path relative to the folder of videos, if it leads into that folder, possibly through links; else None."""
        for place in (os.path.abspath(path), os.path.normpath(os.path.join(os.path.realpath(path.parent), path.name))):
            folder, name = os.path.split(place)
            if folder not in self._known:
                self._known[folder] = self._relative(Path(folder))
            relative = self._known[folder]
            if relative is not None and name:
                return os.path.normpath(os.path.join(relative, name))
        return None

    def _relative(self, folder: Path) -> str | None:
        for parent in (folder, *folder.parents):
            try:
                stat = parent.stat()
            except (OSError, ValueError):
                continue
            if (stat.st_dev, stat.st_ino) == self._identity:
                return os.path.relpath(folder, parent)
        return None


def check_name(name: str, place: str) -> str:
    """Return a file name or id from the user's table. Raises UserError if it is blank, too long, or cannot be stored as text."""
    if not name.strip():
        raise UserError(f"{place}: the video name is blank, and every row needs one: {quote(name)}")
    if NO_TEXT.search(name) or len(name) > MAX_NAME:
        raise UserError(f"{place}: {quote(name)} cannot be the name of a video")
    return name
