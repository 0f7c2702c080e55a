"""Where the file of a video lies under the folder of videos, whatever a table calls it."""

import os
import re
from pathlib import Path
from urllib.parse import unquote

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.files import NO_TEXT

MAX_NAME = 1000


class Paths:
    """Paths under the folder of videos, from what a table calls its files."""

    def __init__(self, videos: Path, table: Path) -> None:
        self._videos = videos
        self._bases = (table.parent, Path())
        stat = videos.stat()
        self._identity = (stat.st_dev, stat.st_ino)
        self._known: dict[str, str | None] = {}
        self._from_elsewhere: list[str] = []

    def under(self, name: str, place: str) -> str:
        """The path under the folder of videos that a table names: relative to that folder, absolute, or as a file's URL.

        A relative path that leads to no file there, but does from the table or from here, and into the folder, is that file: tables often
        have `videos/a.mp4`. Raises UserError for what lies outside.
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
            # With separators of Windows where the name as it stands leads nowhere.
            for spelt, base in ((spelt, base) for spelt in dict.fromkeys((name, name.replace("\\", "/"))) for base in self._bases):
                inside = self._inside(base / spelt)
                # Of files that are nowhere, the folder decides, so that they have one path before they are there and after.
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
        """A line about the files that were not found from the folder of videos, if there are any."""
        count = len(self._from_elsewhere)
        such = f"such as {quote(self._from_elsewhere[0])}" if count else ""
        return [f"{count:,} videos are found by their paths from the table, or from the folder of this command, {such}"] if count else []

    def _inside(self, path: Path) -> str | None:
        """The path from the folder of videos, where it leads into it, through whatever links."""
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
    """A file name or an id of the user's own: any text that a file and a table can hold."""
    if not name.strip():
        raise UserError(f"{place}: there is no name of a video, and every row has one: {quote(name)}")
    if NO_TEXT.search(name) or len(name) > MAX_NAME:
        raise UserError(f"{place}: {quote(name)} can be no name of a video")
    return name
