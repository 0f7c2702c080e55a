"""The user's own data: a table of videos and captions, or no more than a folder of videos to search.

A table has a column video (file name in the folder of videos) and a column caption, and optionally split (train, val or test), video_id
(default: the file name), and start and end. `rows` says which forms it may have, `columns` under which names columns are found.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.containers import is_still, is_video_name
from data.datasets.division import OFFER, Shares, divide, lacking, split_named
from data.datasets.files import check_caption, is_there
from data.datasets.folders import Sought, VideoFolder, and_left_alone, spelling
from data.datasets.paths import Paths, check_name
from data.datasets.tables.cells import Rows
from data.datasets.tables.columns import Columns, find_columns, folded, is_header, looks_like_times
from data.datasets.tables.rows import read_rows
from data.datasets.tables.times import MISSING, seconds_of
from data.datasets.types import SPLITS, Dataset, Preset, note_of_spellings
from data.span import WHOLE_FILE, cells_of

PRESETS = (
    Preset("table", {}, pictures="display", max_words=None),
    Preset("folder", {}, captions="none", pictures="display", max_words=None),
)
FOLDER = PRESETS[1]
"""The preset of a plain folder of videos."""

COLLECTION = re.compile(r"""\s*(?:\[\s*(['"]).*\1\s*,?\s*\]|\{\s*(['"]).*['"]\s*:.*\})\s*""", re.DOTALL)
"""A list of texts, or a dictionary, in one cell: what pandas writes into a CSV file for a column of lists."""

LENGTHS = ("duration", "length")

NO_CAPTION = MISSING - {""} | {"#n/a", "<na>"}
"""What programs write for a caption that is missing."""

SEARCHED = "search"
"""The split of the videos of a plain folder, and of those of a table without a column of splits."""


def read_folder(videos: Path) -> Dataset:
    """Every video file anywhere under the folder that is not hidden, its id the path under it; no captions."""
    folder = VideoFolder(videos)
    named = [path for path in folder.paths if is_video_name(path) and is_there(path)]
    paths = [path for path in named if not is_still(path)]
    lost = [folder.relative(path) for path in folder.paths if is_video_name(path) and path.is_symlink() and not path.exists()]
    astray = f"{len(lost):,} links lead nowhere, such as {lost[0]}" if lost else ""
    if not paths:
        raise UserError(f"--videos {videos} holds no video files{and_left_alone(folder.left_alone(()))}{'; ' * bool(lost)}{astray}")
    ids = [check_name(folder.relative(path), str(videos)) for path in paths]
    table = pd.DataFrame({"video_id": ids, "split": SEARCHED, "file": paths, **cells_of(WHOLE_FILE for _ in ids)})
    stills = len(named) - len(paths)
    still = f"{stills:,} GIFs of a single picture are no videos and left alone" if stills else ""
    notes = tuple(note for note in (still, astray) if note)
    return Dataset(pd.DataFrame({"video_id": [], "caption": [], "split": []}, dtype=str), table, notes)


def read_table(annotations: Path, videos: Path, shares: Shares | None = None) -> Dataset:
    """Read the table file `annotations`; relative file names are looked up in `videos`.

    Rows that are equal in all that is read count once. Where the table lacks splits, `shares` says how its videos are divided, by files, so
    that segments of one file stay together; without them a table with no column of splits has all of its rows in the split `search`.
    Raises UserError, with the place in the file, for whatever cannot be read.
    """
    rows = read_rows(annotations, is_header)
    columns = find_columns(rows.columns, annotations, f"{rows.unit} {rows.header}")
    if not rows.cells:
        raise UserError(f"{annotations} has no rows: every row is a video, a caption and a split")
    table = _Table(annotations, rows, columns)
    frame = table.frame()
    unique = frame.drop_duplicates()
    has_splits = (unique["split"] != SEARCHED).all()
    table.require_one_meaning(unique)
    segments = unique.drop_duplicates("video_id")
    paths = Paths(videos, annotations)
    names = dict(zip(segments["video_id"], segments["video"], strict=True))
    by_name = columns.by_id and not any("/" in name or "\\" in name for name in names.values())
    sought = {
        video_id: Sought(names=(name,), stems=(name,)) if by_name else Sought(path=paths.under(name, table.place(row)))
        for (video_id, name), row in zip(names.items(), segments.index, strict=True)
    }
    folder = VideoFolder(videos)
    found = folder.find(sought, str(annotations))
    files = pd.Series(found.files, index=segments.index, dtype=object)
    notes = [*table.notes(len(frame) - len(unique)), *paths.notes(), *note_of_spellings(found, folder)]
    there = list(unique["split"].unique()) if has_splits else ["train"]
    division = None
    if shares is not None and not (shares.followed and not _to_divide(there, shares)):
        keys = _keys([_key(names[video_id], own) for video_id, own in sought.items()], found.files)
        made, note = _divided(pd.Series(keys, index=segments.index), segments["split"], there, shares, annotations)
        new = dict(zip(segments["video_id"], made, strict=True))
        segments, unique = segments.assign(split=made), unique.assign(split=unique["video_id"].map(new))
        notes.append(note)
        division = shares.text
    else:
        notes += _offers(annotations, there if has_splits else [])
    listed = segments[["video_id", "split", "start", "end"]].assign(file=files)
    captions = unique[["video_id", "caption", "split"]]
    return Dataset(captions.reset_index(drop=True), listed.reset_index(drop=True), tuple(notes), names, division)


class _Table:
    """A table whose columns are known; what is wrong with it is said with its place."""

    def __init__(self, path: Path, rows: Rows, columns: Columns) -> None:
        self.path = path
        self._name = str(path)
        self._rows = rows
        self._columns = columns
        self._words: dict[str, str] = {}
        """Splits as the table names them."""

    def place(self, row: int) -> str:
        """The file and the place of a row in it."""
        return f"{self._name}, {self._rows.place(row)}"

    def frame(self) -> pd.DataFrame:
        """Columns video, video_id, caption, split, start and end; the index counts the rows of the file."""
        self._require_certain_cells()
        self._require_one_column()
        video, caption = self._texts("video"), self._texts("caption")
        video_id = self._texts("video_id") if "video_id" in self._columns.positions else video
        for names in (video, video_id):
            self._each(names, check_name)
        self._each(caption, check_caption)
        self._require_captions(caption)
        times = {role: self._seconds(role) for role in ("start", "end")}
        return pd.DataFrame({"video": video, "video_id": video_id, "caption": caption, "split": self._splits(), **times})

    def require_one_meaning(self, frame: pd.DataFrame) -> None:
        """Raises UserError if a video_id has several splits, files or segments, and where a segment ends before it starts."""
        first = frame.drop_duplicates("video_id").set_index("video_id")
        own = first.loc[frame["video_id"]]
        moved = frame.index[(frame["split"].to_numpy() != own["split"].to_numpy())]
        if len(moved):
            video_id, split = frame.loc[moved[0], ["video_id", "split"]]
            before = frame.index[frame["video_id"] == video_id][0]
            where = f"{split} here and {frame.loc[before, 'split']} in {self._rows.place(before)}"
            raise UserError(f"{self.place(moved[0])}: video {quote(video_id)} is in several splits, {where}: a video belongs into one")
        parts = ["video", "start", "end"]
        same = (frame[parts].fillna(-1.0).to_numpy() == own[parts].fillna(-1.0).to_numpy()).all(axis=1)
        other = frame.index[~same]
        if len(other):
            video_id = quote(frame.loc[other[0], "video_id"])
            remedy = "name the files in a column video, and" if self._columns.by_id else "in a column video_id,"
            what = f"video_id {video_id} stands for several files or segments"
            raise UserError(f"{self.place(other[0])}: {what}: {remedy} give each an id of its own")
        backwards = frame.index[frame["end"] <= frame["start"].fillna(0)]
        if len(backwards):
            raise UserError(f"{self.place(backwards[0])}: segment {quote(frame.loc[backwards[0], 'video_id'])} ends before it starts")

    def notes(self, twice: int) -> list[str]:
        """What was understood, where it is not the plain case, and what was left out."""
        rows, columns, name = self._rows, self._columns, self.path.name
        said = [*rows.notes]
        said += [", ".join(f"{role} from {quote(column)}" for role, column in columns.renamed.items())] if columns.renamed else []
        said += [f"left out above the header: {rows.above:,} {rows.unit.split()[-1]}{'s' * (rows.above > 1)}"] if rows.above else []
        words = {word: split for word, split in self._words.items() if word != split}
        said += [", ".join(f"{quote(word)} counts as {split}" for word, split in words.items())] if words else []
        said += self._unread_times()
        missing = Counter(caption for caption in self._texts("caption") if caption.strip().casefold() in NO_CAPTION)
        said += [f"captions that may stand for none: {', '.join(f'{quote(c)} ({n:,})' for c, n in missing.items())}"] if missing else []
        said += ["times h:mm count as minutes and seconds"] if "h:mm" in self._clocks() else []
        said += [f"not read: {', '.join(map(quote, columns.unread[:10]))}{', ...' * (len(columns.unread) > 10)}"] if columns.unread else []
        left = [f"duplicate rows, which count once: {twice:,}"] if twice else []
        left += [f"blank rows skipped: {rows.blank:,}"] if rows.blank else []
        return [f"{name}: {'; '.join(part)}" for part in (said, left) if part]

    def _texts(self, role: str) -> list[str]:
        position = self._columns.positions.get(role)
        return [""] * len(self._rows.cells) if position is None else [row[position] for row in self._rows.cells]

    def _each(self, texts: Iterable[str], check: Callable[[str, str], object]) -> None:
        """Check every text once, at the first place that it stands."""
        seen: set[str] = set()
        for row, text in enumerate(texts):
            if text not in seen:
                seen.add(text)
                check(text, self.place(row))

    def _unread_times(self) -> list[str]:
        """A line where no column is known for what another, whose name speaks of it, may hold."""
        lacking = [role for role in ("start", "end") if role not in self._columns.positions]
        # The length of a part needs its start.
        times = [name for name in self._columns.unread if looks_like_times(name) or (lacking == ["end"] and folded(name) in LENGTHS)]
        if not lacking or not times:
            return []
        taken = {"start": "parts begin with their files", "end": "parts last to the ends of their files"}
        what = "whole files are taken" if len(lacking) == 2 else taken[lacking[0]]
        return [f"{what}, for no column is named {' or '.join(lacking)}, whatever {quote(times[0])} says"]

    def _clocks(self) -> dict[str, str]:
        """Which kinds of times of day stand in start and end, and the first of each with its place."""
        positions = [self._columns.positions.get(role) for role in ("start", "end")]
        found: dict[str, str] = {}
        for (row, column), doubt in self._rows.doubts.items():
            if column in positions and doubt.clock:
                found.setdefault(doubt.clock, f"{self._rows.cells[row][column]} in {self._rows.place(row)}")
        return found

    def _require_certain_cells(self) -> None:
        roles = {position: role for role, position in self._columns.positions.items()}
        for (row, column), doubt in sorted(self._rows.doubts.items()):
            role = roles.get(column)
            if role is not None and not (doubt.clock and role in ("start", "end")):
                raise UserError(f"{self.place(row)}: {role} holds {doubt.what}")
        clocks = self._clocks()
        if len(clocks) > 1:
            raise UserError(
                f"{self.path}: a time is {clocks['h:mm:ss']} and {clocks['h:mm']}, and a spreadsheet may have taken one for hours: format "
                "the columns start and end as text, and write seconds or mm:ss"
            )

    def _require_one_column(self) -> None:
        """Raises UserError if a cell is blank whose text stands in another column of that meaning, as where two files were joined."""
        for role, others in self._columns.others.items():
            position = self._columns.positions[role]
            for row, cells in enumerate(self._rows.cells):
                own = [column for column in others if cells[column].strip()]
                if own and not cells[position].strip():
                    names = self._rows.columns
                    raise UserError(
                        f"{self.place(row)}: column {quote(names[position])} is empty and column {quote(names[own[0]])} is not: put each "
                        f"{role} into column {quote(names[position])}"
                    )

    def _require_captions(self, captions: list[str]) -> None:
        """Raises UserError if a caption is a list or a dictionary as Python and JSON write them, or all are names of files."""
        row = next((row for row, caption in enumerate(captions) if COLLECTION.fullmatch(caption)), None)
        if row is not None:
            raise UserError(f"{self.place(row)}: caption holds a list or an object, {quote(captions[row])}: write a row for each caption")
        if all(" " not in caption and is_video_name(Path(caption)) for caption in captions):
            name = quote(self._rows.columns[self._columns.positions["caption"]])
            raise UserError(
                f"{self.place(0)}: column {name} holds names of video files, such as {quote(captions[0])}: are columns shifted?"
            )

    def _seconds(self, role: str) -> list[float]:
        known: dict[str, float] = {}

        def read(text: str, place: str) -> None:
            try:
                known[text] = seconds_of(text)
            except UserError as error:
                raise UserError(f"{place}: {role} is {quote(text)}, {error}") from error

        texts = self._texts(role)
        self._each(texts, read)
        return [known[text] for text in texts]

    def _splits(self) -> list[str]:
        texts = self._texts("split")
        if not any(text.strip() for text in texts):
            return [SEARCHED] * len(texts)

        def read(text: str, place: str) -> None:
            split = split_named(text)
            if split is None:
                raise UserError(f"{place}: split is {quote(text)}, not one of {', '.join(SPLITS)}")
            self._words[text] = split

        self._each(texts, read)
        return [self._words[text] for text in texts]


def _key(name: str, sought: Sought) -> str:
    """What the split of a file is decided by: its path under the folder, in whatever spelling, whether it is there or not."""
    return spelling((sought.path or name).replace("\\", "/"))


def _keys(keys: list[str], files: list[Path | None]) -> list[str]:
    """The same, and of several names of one file the first in the order of the alphabet."""
    first: dict[Path, str] = {}
    for key, file in zip(keys, files, strict=True):
        if file is not None:
            first[file] = min(key, first.get(file, key))
    return [key if file is None else first[file] for key, file in zip(keys, files, strict=True)]


def _to_divide(there: list[str], shares: Shares) -> list[str]:
    """The splits that are made from the training videos: those that a table lacks and that have a share."""
    return [split for split in lacking(there) if shares.of(split)] if "train" in there else []


def _divided(files: "pd.Series[str]", splits: "pd.Series[str]", there: list[str], shares: Shares, path: Path) -> tuple[list[str], str]:
    """The split of every video, by its file, and the note about it. Raises UserError if nothing is to be divided."""
    lacks = _to_divide(there, shares)
    if "train" not in there:
        raise UserError(f"--split-by-hash {shares.text}: {path} has no rows of train, which alone are divided: leave it out")
    if not lacks:
        absent = " and ".join(lacking(there))
        none = f"lacks {absent}, whose share is 0" if absent else "has all of the splits already"
        raise UserError(f"--split-by-hash {shares.text}: {path} {none}: leave it out, or take the column split out of the table")
    free = ~splits.isin(SPLITS) | (splits == "train")
    made = divide(list(files[free]), {split: shares.of(split) for split in ("train", *lacks)})
    counts = ", ".join(f"{split} {list(made.values()).count(split):,}" for split in ("train", *lacks))
    what = "training files" if len(there) > 1 or (splits == "train").any() else "files"
    as_before = ", as before," if shares.followed else ""
    note = f"--split-by-hash {shares.text}{as_before} divides {len(made):,} {what} into {counts}"
    return [made[file] if own else split for file, split, own in zip(files, splits, free, strict=True)], note


def _offers(path: Path, there: list[str]) -> list[str]:
    """A line about splits that a table lacks and that training needs."""
    if not there:
        return [f"{path.name} has no column split, which search does not need; to train and evaluate, divide the videos by {OFFER}"]
    if "train" in there and "val" not in there:
        way = ", or training chooses its epoch by train_head --select-on test" if "test" in there else ""
        return [f"{path.name} has no rows of val: {OFFER} takes some of the training videos for it{way}"]
    return []
