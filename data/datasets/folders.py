"""Index the files of a folder of videos, and find the file that a name refers to. Compares names and opens no file."""

import difflib
import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data.base.errors import UserError
from data.base.quoting import path_text, quote
from data.datasets.containers import is_video_name
from data.datasets.files import is_there

NOT_SEARCHED = frozenset(
    {
        *("$recycle.bin", "recycler", "recycled", "system volume information"),  # Windows
        *("lost+found", "__macosx"),  # Linux; a ZIP archive made by macOS
        *("@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot"),  # network storage
    }
)
"""Folders of deleted files and of system data, in lower case. Names that begin with a dot are hidden too."""

UNFINISHED = (".download", ".crdownload", ".part")
"""Suffixes of folders in which browsers keep unfinished downloads."""

HIDDEN_FILES, HIDDEN_FOLDERS, NO_SUFFIX = "hidden files", "hidden folders", "without suffix"
"""Labels under which files and folders without a meaningful suffix are counted."""

NEAREST = 3
KINDS_SHOWN = 8


class Sought(NamedTuple):
    """The possible names of a video's file: its path under the folder; otherwise one of these names, or one of these stems (the name up to
    its last dot) with the suffix of a video. The first that exists is taken."""

    path: str | None = None
    names: Sequence[str] = ()
    stems: Sequence[str] = ()


class Found(NamedTuple):
    """The file of every video, or None; and the files found under another spelling, as (name sought, file)."""

    files: list[Path | None]
    respelt: list[tuple[str, Path]]


class VideoFolder:
    """The files of a folder of videos, by path, by name and by stem."""

    def __init__(self, folder: Path, recursive: bool = True) -> None:
        """Index a folder. Skips hidden folders and does not follow links to folders. Raises UserError if a folder cannot be listed."""
        self.folder = folder
        self.paths: list[Path] = []
        """Every file that is not hidden, folder by folder, sorted."""
        self.hidden_files: list[Path] = []
        """Hidden files in folders that are not hidden."""
        self.hidden_folders = 0
        for parent, folders, names in os.walk(folder, onerror=_cannot_list):
            shown = sorted(name for name in folders if not _is_hidden_folder(name))
            self.hidden_folders += len(folders) - len(shown)
            folders[:] = shown if recursive else []
            for name in sorted(names):
                (self.hidden_files if name.startswith(".") else self.paths).append(Path(parent, name))
        self._by_name = _grouped((path.name, path) for path in (*self.paths, *self.hidden_files))
        self._by_stem = _grouped((path.stem, path) for path in (*self.paths, *self.hidden_files) if is_video_name(path))

    def find(self, sought: Mapping[str, Sought], place: str) -> Found:
        """The file of every video, in order.

        sought: the possible names of each video.
        place: the source of the names, for error messages.

        An exact match comes first, even if the file is hidden. Otherwise, names match if they differ only in Unicode normalisation, case,
        spaces, separators or (for paths) the suffix, provided that one file matches and that it matches no other video.

        Raises UserError, naming two of the files, if several match.
        """
        found = {video: self._exactly(names) for video, names in sought.items()}
        if None not in found.values():
            return Found(list(found.values()), [])
        taken = {path for path in found.values() if path is not None}
        spellings = _Spellings(self)
        respelt: dict[str, Path] = {}
        for video, names in sought.items():
            if found[video] is None:
                fitting = [path for path in spellings.fitting(names) if path not in taken and is_there(path)]
                if len(fitting) > 1:
                    raise UserError(
                        f"{place}: {quote(_label(video, names))} could be {fitting[0]} or {fitting[1]}: write the name as it is"
                    )
                if fitting:
                    respelt[video] = fitting[0]
        # Two videos that match one file are ambiguous, unless they are two spellings of one path in a table.
        meant: dict[Path, set[str]] = {}
        for video, path in respelt.items():
            meant.setdefault(path, set()).add(video if sought[video].path is None else spelling(_label(video, sought[video])))
        respelt = {video: path for video, path in respelt.items() if len(meant[path]) == 1}
        return Found([found[video] or respelt.get(video) for video in sought], [(_label(v, sought[v]), p) for v, p in respelt.items()])

    def near(self, name: str) -> list[str]:
        """The names of the most similar video files, most similar first, ignoring suffixes."""
        by_spelling: dict[str, str] = {}
        for path in self.paths:
            if is_video_name(path):
                shown = self.relative(path)
                for one in (path.stem, posixpath.splitext(shown)[0]):
                    by_spelling.setdefault(spelling(one), shown)
        close = difflib.get_close_matches(spelling(posixpath.splitext(name)[0]), by_spelling, n=2 * NEAREST)
        return list(dict.fromkeys(by_spelling[one] for one in close))[:NEAREST]

    def left_alone(self, taken: Iterable[Path]) -> dict[str, int]:
        """Counts of the files that are not in `taken`: by lower-case suffix, most frequent first, then of hidden files and folders."""
        of_use = set(taken)
        counts = Counter(path.suffix.lower() or NO_SUFFIX for path in self.paths if path not in of_use)
        hidden = sum(path not in of_use for path in self.hidden_files)
        extra = {HIDDEN_FILES: hidden, HIDDEN_FOLDERS: self.hidden_folders}
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))) | {name: count for name, count in extra.items() if count}

    def relative(self, path: Path) -> str:
        """The path under the folder, as text."""
        return path_text(path.relative_to(self.folder))

    def _exactly(self, sought: Sought) -> Path | None:
        if sought.path is not None:
            path = self.folder / sought.path
            return path if is_there(path) else None
        named = (self._only(self._by_name.get(name, [])) for name in sought.names)
        with_stem = (self._only(self._by_stem.get(stem, [])) for stem in sought.stems)
        return next((path for paths in (named, with_stem) for path in paths if path is not None), None)

    def _only(self, paths: Sequence[Path]) -> Path | None:
        there = [path for path in paths if is_there(path)]
        if len(there) > 1:
            raise UserError(f"{there[0]} and {there[1]} could both be the same video: keep one of them in the folder")
        return there[0] if there else None


class _Spellings:
    """An index of the files that are not hidden, by normalised name."""

    def __init__(self, folder: VideoFolder) -> None:
        videos = [path for path in folder.paths if is_video_name(path)]
        paths = {path: spelling(folder.relative(path)) for path in folder.paths}
        self._by_path = _grouped((paths[path], path) for path in folder.paths)
        self._by_path_stem = _grouped((posixpath.splitext(paths[path])[0].rstrip(), path) for path in videos)
        self._by_name = _grouped((posixpath.basename(paths[path]), path) for path in folder.paths)
        self._by_stem = _grouped((spelling(path.stem), path) for path in videos)

    def fitting(self, sought: Sought) -> list[Path]:
        """The files that match by the first rule that any file matches."""
        if sought.path is None:
            rules = [*((self._by_name, name) for name in sought.names), *((self._by_stem, stem) for stem in sought.stems)]
        else:
            rules = [(self._by_path, sought.path)]
            for path in _from_windows(sought.path):
                rules += [(self._by_path, path), (self._by_path_stem, path)]
                stem, suffix = posixpath.splitext(path)
                if is_video_name(Path(f"x{suffix.rstrip()}")):
                    rules.append((self._by_path_stem, stem))
        return next((fitting for index, name in rules if (fitting := index.get(spelling(name), []))), [])


def and_left_alone(counts: Mapping[str, int]) -> str:
    """The counts of `VideoFolder.left_alone` as the end of a line, with the rarest kinds summed up."""
    one = {HIDDEN_FILES: "hidden file", HIDDEN_FOLDERS: "hidden folder"}
    kinds = [f"{count:,} {one.get(kind, kind) if count == 1 else kind}" for kind, count in counts.items()]
    if len(kinds) > KINDS_SHOWN:
        rest = list(counts.values())[KINDS_SHOWN - 1 :]
        kinds[KINDS_SHOWN - 1 :] = [f"{sum(rest):,} of {len(rest)} other kinds"]
    return f"; left alone: {', '.join(kinds)}" if kinds else ""


def spelling(name: str) -> str:
    """A normalised name: Unicode NFC, case folded, single spaces, no redundant separators.

    >>> spelling("Videos//My  Clip.MP4")
    'videos/my clip.mp4'
    """
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
    return posixpath.normpath("/".join(" ".join(part.split()) for part in folded.split("/")))


def _from_windows(path: str) -> Iterator[str]:
    """The path with Windows separators replaced. If it begins with a drive or a host, every trailing part of it instead, longest first."""
    replaced = path.replace("\\", "/")
    if not re.match(r"[A-Za-z]:/|//", replaced):
        yield replaced
        return
    parts = [part for part in replaced.split("/") if part]
    yield from ("/".join(parts[first:]) for first in range(1, len(parts)))


def _label(video: str, sought: Sought) -> str:
    """The name of a video in messages: its path if a table gives one, else its id."""
    return sought.path if sought.path is not None else video


def _grouped(items: Iterable[tuple[str, Path]]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for name, path in items:
        groups.setdefault(name, []).append(path)
    return groups


def _is_hidden_folder(name: str) -> bool:
    return name.startswith(".") or name.lower() in NOT_SEARCHED or name.lower().endswith(UNFINISHED)


def _cannot_list(error: OSError) -> None:
    raise UserError(f"the folder {error.filename} cannot be read: {error.strerror}")
