"""What `python -m search` writes beside its answers: a page, a table, a playlist and clips. Each is checked before the work."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.base.errors import UserError
from data.base.writable import require_writable_file, require_writable_folder
from search.options import SearchOptions

if TYPE_CHECKING:  # torch loads late
    from search.answer import Answer
    from search.retrieval.files import VideoFiles
    from search.searcher import Searcher

AROUND_S = 3.0
"""Seconds before and after a moment."""
MOST_AROUND_S = 300.0


def check_outputs(options: SearchOptions) -> None:
    """Raise UserError if a file or folder cannot be written, or for options that do not go together."""
    files = {"--html": options.html, "--csv": options.csv, "--m3u": options.m3u}
    read = {"--table": options.table, "--image": options.image, "--queries": options.queries}
    inputs = {option: path for option, path in read.items() if path is not None}
    named = {option: path for option, path in files.items() if path is not None}
    for option, path in named.items():
        same = [other for other in named if os.path.realpath(named[other]) == os.path.realpath(path)]
        if len(same) > 1:
            raise UserError(f"{' and '.join(same)} are one file, {path}: name another for one of them")
        for other, source in inputs.items():
            if os.path.realpath(source) == os.path.realpath(path):
                raise UserError(f"{option} {path} would replace the file of {other}: name another")
        require_writable_file(path, option)
    if options.clips is not None:
        require_writable_folder(options.clips, "--clips")
        from extract.ffmpeg.run import require_ffmpeg

        require_ffmpeg()
    if options.around is not None:
        if options.clips is None and options.m3u is None:
            raise UserError(f"--around {options.around:g} is for --clips and --m3u: add one of them, or leave it out")
        if not 0 < options.around <= MOST_AROUND_S:
            raise UserError(f"--around {options.around:g} must be more than 0 and at most {MOST_AROUND_S:g}")
    if options.videos is not None:
        if not named and options.clips is None:
            raise UserError(f"--videos {options.videos} is for --html, --csv, --m3u and --clips: add one of them, or leave it out")
        if not options.videos.is_dir():
            raise UserError(f"--videos {options.videos} is not a folder: name the folder of the video files, or leave it out")


def find_files(searcher: "Searcher", options: SearchOptions) -> "VideoFiles | None":
    """The files of the videos; None if nothing is written that links them. Call this before the queries are answered.

    Raises UserError for --clips and --m3u if there is no folder of the files.
    """
    from search.retrieval.files import VideoFiles, video_folder

    if options.html is options.csv is options.m3u is options.clips is None:
        return None
    folder = video_folder(options.videos, options.cache, searcher.cache.extraction, "results are not linked to them")
    if folder is None and (options.clips or options.m3u):
        raise UserError("--clips and --m3u need the files of the videos: name their folder with --videos")
    return VideoFiles(folder, searcher.files, searcher.cache)


def write_outputs(searcher: "Searcher", answers: "Sequence[Answer]", files: "VideoFiles", options: SearchOptions) -> None:
    """Write what the options name, and say so on standard error. Raises UserError if no clip can be cut."""
    from search.output.clips import write_clips
    from search.output.playlist import write_playlist
    from search.output.rows import rows_of
    from search.output.table import write_table
    from search.pages.page import write_page

    if options.html is not None:
        write_page(options.html, searcher, answers, searcher.scored_by, files)
        print(f"the same results with thumbnails: {options.html}", file=sys.stderr)
    if options.csv is None and options.m3u is None and options.clips is None:
        return
    around = options.around or AROUND_S
    rows = list(rows_of(answers, files))
    if options.csv is not None:
        changed = write_table(options.csv, rows)
        quoted = f"; texts that a spreadsheet would take for formulas got an apostrophe in front: {changed:,}" if changed else ""
        print(f"a table of {_moments(len(rows))}: {options.csv}{quoted}", file=sys.stderr)
    if options.m3u is not None:
        left_out = write_playlist(options.m3u, rows, around)
        why = f"; left out, because their files are unknown, gone or have changed: {left_out:,}" if left_out else ""
        print(f"a playlist of {_moments(len(rows) - left_out)}: {options.m3u}{why}", file=sys.stderr)
    if options.clips is not None:
        print(write_clips(Path(options.clips), rows, around, options.quiet), file=sys.stderr)


def _moments(count: int) -> str:
    return f"{count:,} moment{'s' * (count != 1)}"
