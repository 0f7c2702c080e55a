"""The user's own data: a table of videos and captions, or just a folder of videos to search.

A table has the columns video (a file name in the folder of videos) and caption, and optionally split (train, val or test), video_id
(default: the file name), start, end, and kind (see `data.datasets.kinds`). `rows` lists the supported file formats, `columns` the other
names of columns.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.containers import is_still, is_video_name
from data.datasets.division import OFFER, Shares, divide, missing_splits, split_named
from data.datasets.files import COLLECTION, check_caption, is_there
from data.datasets.folders import Sought, VideoFolder, and_left_alone, spelling
from data.datasets.kinds import check_kind, if_any, note_of_kinds, without_repeats
from data.datasets.paths import Paths, check_name
from data.datasets.tables.cells import Rows
from data.datasets.tables.columns import Columns, find_columns, folded, is_header, looks_like_times
from data.datasets.tables.rows import read_rows
from data.datasets.tables.times import MISSING_TEXT, seconds_of
from data.datasets.types import SPLITS, Dataset, Preset, note_of_spellings
from data.span import WHOLE_FILE, cells_of

PRESETS = (
    Preset("table", {}, pictures="display", max_words=None),
    Preset("folder", {}, captions="none", pictures="display", max_words=None),
)
FOLDER = PRESETS[1]
"""The preset of a plain folder of videos."""

LENGTHS = ("duration", "length")

NO_CAPTION = MISSING_TEXT - {""}
"""How programs write a missing caption."""

SEARCHED = "search"
"""The split of all videos of a plain folder, or of a table without a split column."""


def read_folder(videos: Path) -> Dataset:
    """All video files under the folder that are not hidden, without captions. The id of a video is its path under the folder."""
    folder = VideoFolder(videos)
    named = [path for path in folder.paths if is_video_name(path) and is_there(path)]
    paths = [path for path in named if not is_still(path)]
    lost = [folder.relative(path) for path in folder.paths if is_video_name(path) and path.is_symlink() and not path.exists()]
    astray = f"{len(lost):,} broken links, such as {lost[0]}" if lost else ""
    if not paths:
        raise UserError(f"--videos {videos} holds no video files{and_left_alone(folder.left_alone(()))}{'; ' * bool(lost)}{astray}")
    ids = [check_name(folder.relative(path), str(videos)) for path in paths]
    table = pd.DataFrame({"video_id": ids, "split": SEARCHED, "file": paths, **cells_of(WHOLE_FILE for _ in ids)})
    stills = len(named) - len(paths)
    still = f"{stills:,} GIFs with a single picture are left alone: they are not videos" if stills else ""
    notes = tuple(note for note in (still, astray) if note)
    return Dataset(pd.DataFrame({"video_id": [], "caption": [], "split": []}, dtype=str), table, notes)


def read_table(
    annotations: Path, videos: Path, shares: Shares | None = None, folder: VideoFolder | None = None, paths: Paths | None = None
) -> Dataset:
    """Read the table file `annotations`. Relative file names are looked up in `videos`, by default among all files under it (`folder`);
    `paths` resolves them.

    Rows that are equal in all columns that are read count once, and without a kind if they differ only in that. If the table lacks splits,
    `shares` says how to divide its videos; segments of one file stay in one split. Without `shares`, all rows of a table without a split
    column are in the split `search`.

    Raises UserError, with the place in the file, if the table cannot be read.
    """
    rows = read_rows(annotations, is_header)
    columns = find_columns(rows.columns, annotations, f"{rows.unit} {rows.header}")
    if not rows.cells:
        raise UserError(f"{annotations} has no rows: every row is a video, a caption and a split")
    table = _Table(annotations, rows, columns)
    frame = table.frame()
    unique, disputed = without_repeats(frame)
    has_splits = (unique["split"] != SEARCHED).all()
    table.require_one_meaning(unique)
    segments = unique.drop_duplicates("video_id")
    paths = Paths(videos, annotations) if paths is None else paths
    names = dict(zip(segments["video_id"], segments["video"], strict=True))
    by_name = columns.by_id and not any("/" in name or "\\" in name for name in names.values())
    sought = {
        video_id: Sought(names=(name,), stems=(name,)) if by_name else Sought(path=paths.under(name, table.place(row)))
        for (video_id, name), row in zip(names.items(), segments.index, strict=True)
    }
    folder = VideoFolder(videos) if folder is None else folder
    found = folder.find(sought, str(annotations))
    files = pd.Series(found.files, index=segments.index, dtype=object)
    captions = if_any(unique[["video_id", "caption", "split", "kind"]])
    notes = [*table.notes(len(frame) - len(unique)), *table.notes_of_kinds(captions, disputed)]
    notes += [*paths.notes(), *note_of_spellings(found, folder)]
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
    captions = captions.assign(split=unique["split"])
    return Dataset(captions.reset_index(drop=True), listed.reset_index(drop=True), tuple(notes), names, division)


class _Table:
    """Checks and converts the rows of a table whose columns are known. Errors name the place in the file."""

    def __init__(self, path: Path, rows: Rows, columns: Columns) -> None:
        self.path = path
        self._name = str(path)
        self._rows = rows
        self._columns = columns
        self._words: dict[str, str] = {}
        """The split that each of the table's words stands for."""

    def place(self, row: int) -> str:
        """The file, and the place of a row in it."""
        return f"{self._name}, {self._rows.place(row)}"

    def frame(self) -> pd.DataFrame:
        """Columns video, video_id, caption, split, start, end and kind; the index counts the rows of the table."""
        self._require_certain_cells()
        self._require_one_column()
        video, caption = self._texts("video"), self._texts("caption")
        video_id = self._texts("video_id") if "video_id" in self._columns.positions else video
        for names in (video, video_id):
            self._each(names, check_name)
        self._each(caption, check_caption)
        self._require_captions(caption)
        times = {role: self._seconds(role) for role in ("start", "end")}
        return pd.DataFrame(
            {"video": video, "video_id": video_id, "caption": caption, "split": self._splits(), **times, "kind": self._kinds()}
        )

    def require_one_meaning(self, frame: pd.DataFrame) -> None:
        """Raise UserError if a video_id has several splits, files or segments, or if a segment ends before it starts."""
        first = frame.drop_duplicates("video_id").set_index("video_id")
        own = first.loc[frame["video_id"]]
        moved = frame.index[(frame["split"].to_numpy() != own["split"].to_numpy())]
        if len(moved):
            video_id, split = frame.loc[moved[0], ["video_id", "split"]]
            before = frame.index[frame["video_id"] == video_id][0]
            where = f"{split} here and {frame.loc[before, 'split']} in {self._rows.place(before)}"
            raise UserError(f"{self.place(moved[0])}: video {quote(video_id)} is in several splits, {where}: put it into one")
        parts = ["video", "start", "end"]
        same = (frame[parts].fillna(-1.0).to_numpy() == own[parts].fillna(-1.0).to_numpy()).all(axis=1)
        other = frame.index[~same]
        if len(other):
            video_id = quote(frame.loc[other[0], "video_id"])
            remedy = "name the files in a column video, and" if self._columns.by_id else "in a column video_id,"
            what = f"video_id {video_id} stands for several files or segments"
            raise UserError(f"{self.place(other[0])}: {what}: {remedy} give each its own id")
        backwards = frame.index[frame["end"] <= frame["start"].fillna(0)]
        if len(backwards):
            raise UserError(f"{self.place(backwards[0])}: segment {quote(frame.loc[backwards[0], 'video_id'])} ends before it starts")

    def notes(self, twice: int) -> list[str]:
        """Lines about how the table was interpreted, if that is not obvious, and about what was left out; `twice` rows are duplicates."""
        rows, columns, name = self._rows, self._columns, self.path.name
        understood = [*rows.notes]
        understood += [", ".join(f"{role} from {quote(column)}" for role, column in columns.renamed.items())] if columns.renamed else []
        understood += [f"left out above the header: {rows.above:,} {rows.unit.split()[-1]}{'s' * (rows.above > 1)}"] if rows.above else []
        words = {word: split for word, split in self._words.items() if word != split}
        understood += [", ".join(f"{quote(word)} counts as {split}" for word, split in words.items())] if words else []
        understood += self._unread_times()
        missing = Counter(caption for caption in self._texts("caption") if caption.strip().casefold() in NO_CAPTION)
        understood += (
            [f"captions that may be missing values: {', '.join(f'{quote(c)} ({n:,})' for c, n in missing.items())}"] if missing else []
        )
        understood += ["times h:mm count as minutes and seconds"] if "h:mm" in self._clocks() else []
        understood += (
            [f"not read: {', '.join(map(quote, columns.unread[:10]))}{', ...' * (len(columns.unread) > 10)}"] if columns.unread else []
        )
        left = [f"duplicate rows, which count once: {twice:,}"] if twice else []
        left += [f"blank rows skipped: {rows.blank:,}"] if rows.blank else []
        return [f"{name}: {'; '.join(part)}" for part in (understood, left) if part]

    def notes_of_kinds(self, captions: pd.DataFrame, disputed: int) -> list[str]:
        """Lines about the kinds of the captions; `disputed` captions are in several rows of different kinds."""
        missing = Counter(text for text in self._texts("kind") if text.strip() and not check_kind(text, ""))
        lines = [*note_of_kinds(captions)]
        lines += [f"kinds that count as none: {', '.join(f'{quote(text)} ({n:,})' for text, n in missing.items())}"] if missing else []
        lines += [f"captions with several kinds, which count as none: {disputed:,}"] if disputed else []
        return [f"{self.path.name}: {line}" for line in lines]

    def _texts(self, role: str) -> list[str]:
        position = self._columns.positions.get(role)
        return [""] * len(self._rows.cells) if position is None else [row[position] for row in self._rows.cells]

    def _each(self, texts: Iterable[str], check: Callable[[str, str], object]) -> None:
        """Check every distinct text once, at its first place."""
        seen: set[str] = set()
        for row, text in enumerate(texts):
            if text not in seen:
                seen.add(text)
                check(text, self.place(row))

    def _unread_times(self) -> list[str]:
        """A line if start or end is missing while the name of an unread column suggests times."""
        lacking = [role for role in ("start", "end") if role not in self._columns.positions]
        # A length says something about the end only if there is a start.
        times = [name for name in self._columns.unread if looks_like_times(name) or (lacking == ["end"] and folded(name) in LENGTHS)]
        if not lacking or not times:
            return []
        taken = {"start": "segments start with their files", "end": "segments last to the end of their files"}
        what = "whole files are used" if len(lacking) == 2 else taken[lacking[0]]
        return [f"{what}, because no column is named {' or '.join(lacking)} and {quote(times[0])} is not read"]

    def _clocks(self) -> dict[str, str]:
        """The kinds of times of day in start and end, each with its first value and place."""
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
        """Raise UserError if a cell is blank while another column with the same meaning is not, as in two files joined into one."""
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
        """Raise UserError if a caption is a list or dictionary in the notation of Python or JSON, or if all captions are file names."""
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

    def _kinds(self) -> list[str]:
        texts = self._texts("kind")
        self._each(texts, check_kind)
        return [check_kind(text, "") for text in texts]

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
    """The key that decides the split of a file: its normalised path under the folder, whether or not the file exists."""
    return spelling((sought.path or name).replace("\\", "/"))


def _keys(keys: list[str], files: list[Path | None]) -> list[str]:
    """The keys, with one key for all names of a file: the first in alphabetical order."""
    first: dict[Path, str] = {}
    for key, file in zip(keys, files, strict=True):
        if file is not None:
            first[file] = min(key, first.get(file, key))
    return [key if file is None else first[file] for key, file in zip(keys, files, strict=True)]


def _to_divide(there: list[str], shares: Shares) -> list[str]:
    """The splits to take from the training videos: those that the table lacks and that have a share."""
    return [split for split in missing_splits(there) if shares.of(split)] if "train" in there else []


def _divided(files: "pd.Series[str]", splits: "pd.Series[str]", there: list[str], shares: Shares, path: Path) -> tuple[list[str], str]:
    """The split of every video, by its file, and a note about the division. Raises UserError if there is nothing to divide."""
    lacks = _to_divide(there, shares)
    if "train" not in there:
        raise UserError(f"--split-by-hash {shares.text}: {path} has no rows of train, which alone are divided: leave it out")
    if not lacks:
        absent = " and ".join(missing_splits(there))
        reason = f"lacks {absent}, whose share is 0" if absent else "has all of the splits already"
        raise UserError(f"--split-by-hash {shares.text}: {path} {reason}: leave it out, or take the column split out of the table")
    free = ~splits.isin(SPLITS) | (splits == "train")
    made = divide(list(files[free]), {split: shares.of(split) for split in ("train", *lacks)})
    counts = ", ".join(f"{split} {list(made.values()).count(split):,}" for split in ("train", *lacks))
    what = "training files" if len(there) > 1 or (splits == "train").any() else "files"
    as_before = ", as before," if shares.followed else ""
    note = f"--split-by-hash {shares.text}{as_before} divides {len(made):,} {what} into {counts}"
    return [made[file] if own else split for file, split, own in zip(files, splits, free, strict=True)], note


def _offers(path: Path, there: list[str]) -> list[str]:
    """A line about the splits that training needs and the table lacks, if any."""
    if not there:
        return [f"{path.name} has no column split, which search does not need; to train and evaluate, divide the videos by {OFFER}"]
    if "train" in there and "val" not in there:
        way = ", or training chooses its epoch by train_head --select-on test" if "test" in there else ""
        return [f"{path.name} has no rows of val: {OFFER} takes some of the training videos for it{way}"]
    return []
