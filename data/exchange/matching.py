"""Match features with the videos and captions of a table."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from data.base.errors import UserError
from data.base.quoting import quote
from data.cache.layout import Kind
from data.datasets import Dataset, Shares
from data.datasets.adapters.table import SEARCHED, read_table
from data.datasets.containers import is_video_name
from data.datasets.files import check_caption
from data.datasets.folders import Found, Sought, VideoFolder, spelling
from data.datasets.paths import Paths, check_name
from data.exchange.items import Item
from data.span import WHOLE_FILE, cells_of


class _NoVideos(VideoFolder):
    """A folder without videos: the files of an import hold features."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, sought: Mapping[str, Sought], place: str) -> Found:
        return Found([None] * len(sought), [])


class _AnyPaths(Paths):
    """The file names of a table as they are: an import does not read those files, so they may be anywhere."""

    def __init__(self) -> None:
        pass

    def under(self, name: str, place: str) -> str:
        return name

    def notes(self) -> list[str]:
        return []


@dataclass(frozen=True)
class Matched:
    """The videos and texts to import, by their names in the cache, and what was left alone or is missing."""

    videos: dict[str, Item]
    texts: dict[str, Item]
    dataset: Dataset
    without_frames: list[str]
    without_texts: list[str]
    unlisted_videos: int
    unlisted_texts: int
    respelt: dict[str, Item]
    """Videos whose features have another spelling of their name."""
    patches: dict[str, Item]
    """The patch tokens of videos in `videos`."""
    without_patches: list[str]
    unused_patches: int

    def notes(self) -> list[str]:
        """Lines about features that the table does not list."""
        left = [f"{count:,} {kind}" for kind, count in (("videos", self.unlisted_videos), ("texts", self.unlisted_texts)) if count]
        lines = [f"left alone, because the table does not list them: features of {' and '.join(left)}"] if left else []
        if self.unused_patches:
            lines.append(
                f"left alone, because --frames has none of their frames, or the table does not list them: patch tokens of "
                f"{self.unused_patches:,} videos"
            )
        if self.respelt:
            video_id, item = next(iter(self.respelt.items()))
            such = f"such as {quote(item.name)} for {quote(video_id)}"
            lines.append(f"features of {len(self.respelt):,} videos have another spelling of their name, {such}")
        return lines

    def require_some(self, items: Mapping[Kind, Sequence[Item]]) -> None:
        """Raise UserError, showing a name of each side, if no features belong to the table."""
        there = [item for of_kind in items.values() for item in of_kind]
        if not there:
            raise UserError("the files of features hold no videos and no texts: name others")
        if not self.videos and not self.texts:
            wanted = next(iter([*self.without_frames, *self.without_texts]), "")
            raise UserError(
                f"none of the features belongs to a video or caption of --table: it has {quote(wanted)}, and the files have "
                f"{quote(there[0].name)}"
            )

    def require_patches(self, cached: Iterable[str]) -> None:
        """Raise UserError if a video has frames, but patch tokens neither in the files nor in the cache."""
        there = {*cached}
        lacking = [name for name in self.without_patches if name not in there]
        if lacking:
            raise UserError(
                f"{len(lacking):,} of {len(self.videos):,} videos have frames and no patch tokens, such as {quote(lacking[0])}: add them "
                "to --patches, or go on without them with --allow-missing",
                [f"without patch tokens: {quote(name)}" for name in lacking],
            )

    def require_complete(self, cached_videos: Iterable[str], cached_texts: Iterable[str]) -> None:
        """Raise UserError if a video or caption of the table has features neither in the files nor in the cache."""
        for what, missing, cached in (
            ("videos", self.without_frames, cached_videos),
            ("captions", self.without_texts, cached_texts),
        ):
            there = {*cached}
            lacking = [name for name in missing if name not in there]
            if lacking:
                listed = {"videos": len(self.dataset.videos), "captions": self.dataset.captions["caption"].nunique()}[what]
                known = self.videos if what == "videos" else self.texts
                near = difflib.get_close_matches(lacking[0], list(known)[:10_000], n=1)
                raise UserError(
                    f"{len(lacking):,} of {listed:,} {what} of the table have no features, such as {quote(lacking[0])}"
                    f"{f' (near it: {quote(near[0])})' if near else ''}: add them, or go on without them with --allow-missing",
                    [f"without features: {quote(name)}" for name in lacking],
                )


def match(items: Mapping[Kind, Sequence[Item]], table: Path | None, frames: Path | None, shares: Shares | None) -> Matched:
    """Match features with a table; without a table, take all of them, with the ids that their files give.

    items: what the files hold. A kind that is not imported is not missing.
    frames: where the features of videos are; paths of the table are relative to it.

    Raises UserError if the table is malformed, if two videos of it have one file of features, if a name cannot be an id, or if patch tokens
    come without frames.
    """
    videos, texts, patches = items.get("videos", ()), items.get("texts", ()), items.get("patches", ())
    by_text = {_checked(check_caption, item): item for item in texts}
    if table is None:
        ids = {_checked(check_name, item): item for item in videos}
        whole = {name: cell for name, (cell,) in cells_of([WHOLE_FILE]).items()}
        listed = pd.DataFrame({"video_id": list(ids), "split": SEARCHED, "file": None, **whole})
        nothing = pd.DataFrame({"video_id": [], "caption": [], "split": []}, dtype=str)
        tokens = {item.name: item for item in patches}
        strange = next((item for name, item in tokens.items() if name not in ids), None)
        if strange is not None:
            raise UserError(f"{strange.place}: --frames has no video {quote(strange.name)}: add its frames, or leave its patch tokens out")
        lacking = [name for name in ids if name not in tokens] if "patches" in items else []
        return Matched(ids, by_text, Dataset(nothing, listed), [], [], 0, 0, {}, tokens, lacking, 0)
    if not table.is_file():
        raise UserError(f"--table {table} does not exist: name a table with the columns video, caption and split")
    place = table.parent if frames is None else frames
    dataset = read_table(table, place, shares, _NoVideos(place), _AnyPaths())
    ids_listed: list[str] = dataset.videos["video_id"].tolist()
    found, respelt = _found(videos, ids_listed, dataset, table)
    tokens = {video_id: item for video_id, item in _found(patches, ids_listed, dataset, table)[0].items() if video_id in found}
    captions = dict.fromkeys(dataset.captions["caption"])
    return Matched(
        found,
        {text: by_text[text] for text in captions if text in by_text},
        dataset,
        [video_id for video_id in ids_listed if video_id not in found] if "videos" in items else [],
        [text for text in captions if text not in by_text and text.strip()] if "texts" in items else [],
        len(videos) - len(found),
        sum(text not in captions for text in by_text),
        respelt,
        tokens,
        [video_id for video_id in found if video_id not in tokens] if "patches" in items else [],
        len(patches) - len(tokens),
    )


def _found(items: Sequence[Item], ids_listed: Sequence[str], dataset: Dataset, table: Path) -> tuple[dict[str, Item], dict[str, Item]]:
    """The items of the videos that a table lists, by id; and those of them with another spelling of the name.

    Raises UserError if an item could be of two videos, or two items of one.
    """
    by_name = {item.name: item for item in items}
    found: dict[str, Item] = {}
    owner: dict[str, str] = {}

    def take(video_id: str, item: Item | None) -> None:
        if item is not None:
            if owner.setdefault(item.name, video_id) != video_id:
                raise UserError(
                    f"{item.place} could be {quote(owner[item.name])} or {quote(video_id)} of {table}: name features by the whole file name"
                )
            found[video_id] = item

    for video_id in ids_listed if by_name else ():
        item = by_name.get(video_id)
        if item is None:
            item = next((by_name[name] for name in _names(video_id, dataset.sought.get(video_id, video_id)) if name in by_name), None)
        take(video_id, item)
    exactly = {*found}
    if len(found) < len(ids_listed) and len(found) < len(by_name):
        spellings = _Spellings(item for name, item in by_name.items() if name not in owner)
        for video_id in ids_listed:
            if video_id not in exactly:
                take(video_id, spellings.find(video_id, dataset.sought.get(video_id, video_id), table))
    return found, {video_id: item for video_id, item in found.items() if video_id not in exactly}


class _Spellings:
    """Features by the normalised name of their video, with and without the suffix of a video: by its whole path, else by its last part."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._by_path: dict[str, list[Item]] = {}
        self._by_last: dict[str, list[Item]] = {}
        for item in items:
            for index, name in ((self._by_path, item.name), (self._by_last, _last_part(item.name))):
                for one in dict.fromkeys(map(spelling, (name, _without_suffix(name)))):
                    index.setdefault(one, []).append(item)

    def find(self, video_id: str, file: str, table: Path) -> Item | None:
        """The features of a video. Raises UserError if two could be it."""
        for index in (self._by_path, self._by_last):
            for name in map(spelling, _names(video_id, file)):
                if len(index.get(name, [])) > 1:
                    one, other = index[name][:2]
                    raise UserError(f"{quote(video_id)} of {table} could be {one.place} or {other.place}: write the name as it is")
                if name in index:
                    return index[name][0]
        return None


def _checked(check: Callable[[str, str], str], item: Item) -> str:
    """The name of an item. Raises UserError if it cannot be an id or a caption."""
    try:
        return check(item.name, "")
    except UserError:
        # Only an error needs the place, which takes longer than the check.
        return check(item.name, item.place)


def _names(video_id: str, file: str) -> list[str]:
    """The names that features of a video may have: its id or its file name, whole or without the suffix of a video."""
    names = [name for name in (video_id, file, _last_part(file)) if name]
    return [*names, *(_without_suffix(name) for name in names if is_video_name(Path(name)))]


def _last_part(name: str) -> str:
    """The last part of a path, on Windows or elsewhere."""
    return re.split(r"[/\\]", name)[-1]


def _without_suffix(name: str) -> str:
    return str(Path(name).with_suffix("")) if is_video_name(Path(name)) else name
