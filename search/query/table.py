"""The user's table of anything about the videos, for filters on its columns."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.base.errors import UserError
from data.base.progress import say
from data.base.quoting import quote
from data.datasets.tables.columns import IDS, SYNONYMS, folded
from data.datasets.tables.rows import read_rows

NAMES = ("video", "videoid", *SYNONYMS["video"].split(), *IDS)
"""Names of the column that says which video a row is about, the first of them that the table has."""


@dataclass(frozen=True)
class Table:
    """The cells of each column for every video of a gallery, "" where the table has none. Of several rows of a video, the first counts."""

    columns: Mapping[str, Sequence[str]]


def require_table(path: Path) -> None:
    """Raise UserError if the file of --table is not there."""
    if not path.is_file():
        raise UserError(f"--table {path} is {'a folder' if path.is_dir() else 'missing'}: name the file of the table")


def read_table(path: Path, ids: Sequence[str], files: Mapping[str, str], quiet: bool) -> Table:
    """Read the table of --table: any format that `extract --annotations` reads, with a column that holds ids or file names.

    Says how many rows name no video of the gallery. Raises UserError if no row does, or if the table cannot be read.
    """
    rows = read_rows(path, lambda names: any(folded(name) in NAMES for name in names))
    by_name = {folded(name): i for i, name in reversed(list(enumerate(rows.columns)))}
    own = next((by_name[name] for name in NAMES if name in by_name), None)
    if own is None:
        there = ", ".join(map(quote, rows.columns))
        raise UserError(f"--table {path}: none of its columns {there} names the videos: call one of them video")
    twice = [name for name, count in Counter(name.casefold() for name in rows.columns if name.strip()).items() if count > 1]
    if twice:
        raise UserError(f"--table {path}: two columns are called {quote(twice[0])}: rename one of them")
    number = {name: i for i, video_id in enumerate(ids) for name in (video_id, files.get(video_id, ""), *_stems(video_id, files)) if name}
    cells = {name: [""] * len(ids) for name in rows.columns if name.strip()}
    seen: set[int] = set()
    lost = 0
    for row in rows.cells:
        i = number.get(row[own].strip())
        lost += i is None
        if i is None or i in seen:
            continue
        seen.add(i)
        for name, cell in zip(rows.columns, row, strict=True):
            if name.strip():
                cells[name][i] = cell.strip()
    if not seen:
        example = quote(rows.cells[0][own]) if rows.cells else "no row"
        column = quote(rows.columns[own])
        raise UserError(f"--table {path}: column {column} names no video of the gallery ({example}): write ids or file names")
    if lost and not quiet:
        say(f"note: {path}: {lost:,} of {len(rows.cells):,} rows name no video of the gallery")
    return Table(cells)


def _stems(video_id: str, files: Mapping[str, str]) -> list[str]:
    """The names of a video without folder or ending."""
    path = Path(files.get(video_id) or video_id)
    return [path.name, path.stem]
