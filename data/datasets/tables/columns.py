"""Find the columns of a table by their names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.containers import is_video_name

DOCUMENTED = ("video", "caption", "split", "video_id", "start", "end", "kind")
"""The names that the documentation gives."""

SYNONYMS = {
    "video": "videofile videofilename videoname videopath file filename filepath path clip clipfile clipname clippath",
    "caption": "captions text sentence sentences description videocaption",
    "split": "splits subset partition",
    "video_id": "",
    "start": "starttime startsec startsecs startsecond startseconds starts tstart begin begintime",
    "end": "endtime endsec endsecs endsecond endseconds ends tend stop stoptime",
    "kind": "",
}
"""Other names of the same columns, in the form of `folded`."""

IDS = ("videoid", "id", "clipid")
"""Columns that name the files if no other column does. Otherwise `id` is not read as video_id: in most tables it numbers the rows."""

TIME_WORDS = frozenset(["start", "starts", "end", "ends", "begin", "stop", "finish", "onset", "offset", "timestamp", "timestamps"])
"""Words in column names that suggest times, such as `start_ms`."""

LONGEST = 100
"""Most characters of a column name; a longer text is a caption."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table.

    positions: by documented name, the position of each column that is read.
    unread: the names of the other columns.
    renamed: by documented name, the actual names of columns that are called otherwise.
    by_id: whether a column of ids names the files.
    others: by documented name, the positions of further columns with the same meaning.
    """

    positions: dict[str, int]
    unread: tuple[str, ...]
    renamed: dict[str, str]
    by_id: bool = False
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def folded(name: str) -> str:
    """A column name without case, spaces and punctuation.

    >>> folded("Video File"), folded("video_file")
    ('videofile', 'videofile')
    """
    return re.sub(r"[\W_]+", "", name.casefold())


def looks_like_times(name: str) -> bool:
    """Whether the name of an unread column suggests that it holds times."""
    return not TIME_WORDS.isdisjoint(re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()))


def is_header(names: Sequence[str]) -> bool:
    """Whether a row names a column of captions and one of videos."""
    own = {folded(name) for name in names if len(name) <= LONGEST}
    return bool(own & (_names("video") | {*IDS})) and bool(own & _names("caption"))


def find_columns(names: Sequence[str], path: Path, place: str) -> Columns:
    """The columns of a table; `place` is the place of the header in the file.

    The documented name takes precedence over other names: a table made for this project keeps its meaning when someone adds a column `text`
    or `path`, which is then reported as unread.

    Raises UserError if the video or the caption column is missing, or if several columns could be the same one and none has the documented
    name.
    """
    found: dict[str, int] = {}
    others: dict[str, tuple[int, ...]] = {}
    for role in DOCUMENTED:
        exact = [i for i, name in enumerate(names) if folded(name) == folded(role)]
        other = [i for i, name in enumerate(names) if folded(name) in _names(role)]
        fitting = exact or other
        if len(fitting) > 1:
            choices = ", ".join(quote(names[i]) for i in fitting)
            raise UserError(f"{path}: the {role} could be in columns {choices}: name the right one {role}, and the others otherwise")
        if fitting:
            found[role] = fitting[0]
            others[role] = tuple(i for i in other if i not in exact)
    by_id = False
    if "video" not in found:
        ids = next((own for name in IDS if (own := [i for i, column in enumerate(names) if folded(column) == name])), [])
        if ids:
            by_id = True
            found["video"] = found.setdefault("video_id", ids[0])
    missing = [role for role in ("video", "caption") if role not in found]
    if missing:
        raise UserError(_no_columns(missing, names, path, place))
    taken = {*found.values()}
    renamed = {role: names[i] for role, i in found.items() if folded(names[i]) != folded(role)}
    if by_id:
        renamed = {role: name for role, name in renamed.items() if role not in ("video", "video_id")} | {"files": names[found["video"]]}
    unread = tuple(name for i, name in enumerate(names) if i not in taken and name.strip())
    return Columns(found, unread, renamed, by_id, {role: own for role, own in others.items() if own and found[role] not in own})


def _names(role: str) -> set[str]:
    return {folded(role), *SYNONYMS[role].split()}


def _no_columns(missing: Sequence[str], names: Sequence[str], path: Path, place: str) -> str:
    if any(is_video_name(Path(name)) and Path(name).stem for name in names if "\0" not in name):
        shown = quote(", ".join(names))
        return f"{path}, {place}: {shown} names a video and no columns: begin with a line of column names, such as video,caption,split"
    there = quote(", ".join(names))
    rename = " and ".join(
        f"{what} to {role}"
        for role, what in (("video", "the column of file names"), ("caption", "the column of captions"))
        if role in missing
    )
    line = f"{path} has no column {', '.join(missing)}; it has {there}: rename {rename}"
    return line if "caption" not in missing else f"{line}; for search alone leave out --annotations"
