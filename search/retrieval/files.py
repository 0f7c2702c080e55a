"""Finds the file of a video: below a folder of videos, and only if the features were made from it."""

import os
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.extraction import Extraction
from data.datasets.files import files_named
from extract.plan.digest import file_digest


class VideoFiles:
    """The files of a gallery. With no folder, no video has one. If the folder is the one that the cache was made from, the folders of its
    other sources count too."""

    def __init__(self, folder: Path | None, files: dict[str, str], cache: FeatureCache) -> None:
        """`files`: the path of each video below the folder, by id, empty if unknown."""
        self.folder = None if folder is None else folder.resolve()
        self._files, self._cache = files, cache

    def path_of(self, video_id: str) -> Path | None:
        """The file that the cache lists for a video. It must be unchanged and inside the folder, links resolved; otherwise None."""
        name = self._files.get(video_id)
        if name is None:
            return None
        for folder in self._folders():
            for path in (one.resolve() for one in files_named(folder, name)):
                # Another source may have a file of the same name in another folder.
                if path.is_relative_to(folder) and os.path.isfile(path) and self._is_made_from(video_id, path):
                    return path
        return None

    def _folders(self) -> Iterator[Path]:
        if self.folder is not None:
            yield self.folder
            yield from self._further

    @cached_property
    def _further(self) -> list[Path]:
        """The folders of the other sources, if no other place was named for the videos."""
        made_from = self._cache.extraction.videos
        if made_from is None or Path(made_from).resolve() != self.folder:
            return []
        named = [Path(source.folder).resolve() for source in self._cache.listings.sources().values() if source.folder is not None]
        return [folder for folder in named if folder != self.folder]

    def _is_made_from(self, video_id: str, path: Path) -> bool:
        try:
            return self._cache.is_made_from(video_id, path, file_digest)
        except OSError:
            return False  # no permission to read the file


def video_folder(given: Path | None, cache: object, extraction: Extraction, lost: str) -> Path | None:
    """The folder of video files: the one given by --videos, else the one of the extraction, if it is still there; else None, which is said.

    `lost`: what there is not without a folder, such as "the page has no players". Raises UserError if the given one is no folder.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(f"--videos {given} is not a folder: name the folder of the video files, or leave it out")
        return given
    if extraction.videos is None:
        print(f"{cache} does not say where its videos are: {lost}; add --videos FOLDER", file=sys.stderr)
        return None
    before = Path(extraction.videos)
    if before.is_dir():
        return before
    print(f"the videos are no longer in {before}: {lost}; add --videos FOLDER", file=sys.stderr)
    return None
