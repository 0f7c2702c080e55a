"""Match features with the videos and captions of a table."""

import difflib
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
from data.datasets.folders import Found, Sought, VideoFolder
from data.datasets.paths import check_name
from data.exchange.items import Item
from data.span import WHOLE_FILE, cells_of


class _NoVideos(VideoFolder):
    """A folder without videos: the files of an import hold features."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, sought: Mapping[str, Sought], place: str) -> Found:
        return Found([None] * len(sought), [])


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

    def notes(self) -> list[str]:
        """Lines about features that the table does not list."""
        left = [f"{count:,} {kind}" for kind, count in (("videos", self.unlisted_videos), ("texts", self.unlisted_texts)) if count]
        return [f"left alone, because the table does not list them: features of {' and '.join(left)}"] if left else []

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

    Raises UserError if the table is malformed, if two videos of it have one file of features, or if a name cannot be an id.
    """
    videos, texts = items.get("videos", ()), items.get("texts", ())
    by_text = {_checked(check_caption, item): item for item in texts}
    if table is None:
        ids = {_checked(check_name, item): item for item in videos}
        whole = {name: cell for name, (cell,) in cells_of([WHOLE_FILE]).items()}
        listed = pd.DataFrame({"video_id": list(ids), "split": SEARCHED, "file": None, **whole})
        nothing = pd.DataFrame({"video_id": [], "caption": [], "split": []}, dtype=str)
        return Matched(ids, by_text, Dataset(nothing, listed), [], [], 0, 0)
    if not table.is_file():
        raise UserError(f"--table {table} does not exist: name a table with the columns video, caption and split")
    place = table.parent if frames is None else frames
    dataset = read_table(table, place, shares, _NoVideos(place))
    by_name = {item.name: item for item in videos}
    found: dict[str, Item] = {}
    owner: dict[str, str] = {}
    ids_listed: list[str] = dataset.videos["video_id"].tolist()
    for video_id in ids_listed:
        item = by_name.get(video_id)
        if item is None:
            item = next((by_name[name] for name in _names(video_id, dataset.sought.get(video_id, video_id)) if name in by_name), None)
        if item is not None:
            if owner.setdefault(item.name, video_id) != video_id:
                raise UserError(
                    f"{item.place} could be {quote(owner[item.name])} or {quote(video_id)} of {table}: name features by the whole file name"
                )
            found[video_id] = item
    captions = dict.fromkeys(dataset.captions["caption"])
    return Matched(
        found,
        {text: by_text[text] for text in captions if text in by_text},
        dataset,
        [video_id for video_id in ids_listed if video_id not in found] if "videos" in items else [],
        [text for text in captions if text not in by_text and text.strip()] if "texts" in items else [],
        len(by_name) - len(found),
        sum(text not in captions for text in by_text),
    )


def _checked(check: Callable[[str, str], str], item: Item) -> str:
    """The name of an item. Raises UserError if it cannot be an id or a caption."""
    try:
        return check(item.name, "")
    except UserError:
        # Only an error needs the place, which takes longer than the check.
        return check(item.name, item.place)


def _names(video_id: str, file: str) -> list[str]:
    """The names that features of a video may have: its id or its file name, whole or without the suffix of a video."""
    names = [video_id, file, Path(file).name]
    return [*names, *(str(Path(name).with_suffix("")) for name in names if is_video_name(Path(name)))]
