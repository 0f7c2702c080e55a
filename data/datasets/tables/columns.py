"""Which column of a table is which, by its name."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data.base.errors import UserError
from data.base.quoting import quote
from data.datasets.containers import is_video_name

DOCUMENTED = ("video", "caption", "split", "video_id", "start", "end")
"""The names that the documentation gives."""

ALSO = {
    "video": "videofile videofilename videoname videopath file filename filepath path clip clipfile clipname clippath",
    "caption": "captions text sentence sentences description videocaption",
    "split": "splits subset partition",
    "video_id": "",
    "start": "starttime startsec startsecs startsecond startseconds starts tstart begin begintime",
    "end": "endtime endsec endsecs endsecond endseconds ends tend stop stoptime",
}
"""Other names of the same columns, as `folded` leaves them."""

IDS = ("videoid", "id", "clipid")
"""Names of a column that names the file where no other does. `id` is no video_id otherwise: in most tables it numbers the rows."""

TIME_WORDS = frozenset(["start", "starts", "end", "ends", "begin", "stop", "finish", "onset", "offset", "timestamp", "timestamps"])
"""Words in the names of columns that say which part of a file is meant, such as `start_ms`."""

LONGEST = 100
"""Characters of a name; what is longer is a caption."""


@dataclass(frozen=True)
class Columns:
    """The positions of the columns that a table has, by documented name, and the names of those that are not read.

    `renamed`: the columns, by what is taken from them, whose name is not the documented one. `by_id`: the files are named by a column of
    ids. `others`: by documented name, columns that would have been taken if there were none of that name.
    """

    positions: dict[str, int]
    unread: tuple[str, ...]
    renamed: dict[str, str]
    by_id: bool = False
    others: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def folded(name: str) -> str:
    """A name without capitals, spaces, underscores and signs: `Video File`, `video_file` and `video-file` are one."""
    return re.sub(r"[\W_]+", "", name.casefold())


def looks_like_times(name: str) -> bool:
    """Whether a column that is not read seems to say which part of a file is meant."""
    return not TIME_WORDS.isdisjoint(re.split(r"[\W_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).casefold()))


def is_header(names: Sequence[str]) -> bool:
    """Whether a row names a column of captions and one of videos."""
    own = {folded(name) for name in names if len(name) <= LONGEST}
    return bool(own & (_names("video") | {*IDS})) and bool(own & _names("caption"))


def find_columns(names: Sequence[str], path: Path, place: str) -> Columns:
    """The columns of a table; `place` is where their names stand.

    A column of the documented name counts before those of other names: a table that was made for this project keeps its meaning when
    someone adds a column `text` or `path`, which is named among those left unread. Raises UserError if a video or a caption is missing,
    and where several columns could be the same one and none has the documented name.
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
    return {folded(role), *ALSO[role].split()}


def _no_columns(missing: Sequence[str], names: Sequence[str], path: Path, place: str) -> str:
    if any(is_video_name(Path(name)) and Path(name).stem for name in names if "\0" not in name):
        shown = quote(", ".join(names))
        return f"{path}, {place}: {shown} names no columns but a video: begin with a line of their names, such as video,caption,split"
    there = quote(", ".join(names))
    rename = " and ".join(
        f"{what} to {role}" for role, what in (("video", "that of the file names"), ("caption", "that of the captions")) if role in missing
    )
    line = f"{path} has no column {', '.join(missing)}; it has {there}: rename {rename}"
    return line if "caption" not in missing else f"{line}; for search alone leave out --annotations"
