"""The listing of each source of a cache: a table of videos and one of captions, beside the features or within a merged file.

A source keeps its last complete listing. Each process of an extraction writes its pending listing as a share (`NAME.I-of-N`; one share
unless `--shard` or torchrun divides the work). When all shares of a listing are done, they are joined and replace the previous listing.
Until a source has a complete listing, its existing shares are used instead.
"""

import hashlib
import io
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.cache.hdf5 import open_file
from data.cache.sources import SHARE, Selection, Source, combine
from data.cache.tables import captions_file, checksum_file, is_intact, options_file, read_parquet, videos_file, write_parquet
from data.span import WHOLE_FILE, cells_of
from data.store.path import CachePath, local

COLUMNS = ["video_id", "split", "file", "start", "end", "failed"]
TEXTS = ["video_id", "caption", "split", "kind"]
"""Columns of text."""
PATIENCE_S = 1.0
"""How long a table and its checksum may disagree: another process renames first one, then the other."""


@dataclass(frozen=True)
class Listing:
    """The videos and captions that one source lists.

    captions: columns video_id, caption, split; and kind, if any has one (see `data.datasets.kinds`).
    videos: columns video_id, split, file (relative to the folder of videos, None if there is no file), start and end (the span of the
        file in seconds; see `data.span`), failed (whether the file, as it is now, could not be decoded).
    """

    source: Source
    captions: pd.DataFrame
    videos: pd.DataFrame

    def digest(self) -> str:
        """Digest of the listing, regardless of which files exist. Processes that share the work on one listing have the same digest."""
        return self._digest

    @cached_property
    def _digest(self) -> str:
        sha = hashlib.sha256()
        for table in (self.captions[self.captions.columns.intersection(TEXTS)], self.videos[["video_id", "split", "start", "end"]]):
            # As Python objects: pandas writes a column of Arrow strings to JSON at half the speed.
            texts = dict.fromkeys(table.columns.intersection(TEXTS), object)
            sha.update(table.astype(texts).to_json(orient="split", index=False).encode())
        return sha.hexdigest()


class Listings:
    """The listings of the cache at `path`, a folder or a merged file. Methods raise UserError if a table that they need is damaged."""

    def __init__(self, path: CachePath) -> None:
        self._path = path

    @property
    def _folder(self) -> Path:
        """The folder of the cache, to write to. Raises UserError if the cache is in a store."""
        return local(self._path)

    def files(self) -> list[str]:
        """File names of all tables, including shares."""
        if not self._path.is_file():
            # A lost table is still named by its checksum.
            found = [*self._path.glob("*.parquet"), *self._path.glob("*.parquet.sha256")]
            return sorted({path.name.removesuffix(".sha256") for path in found})
        with open_file(self._path) as file:
            return sorted(file["tables"])

    def sources(self, damaged: Collection[str] = ()) -> dict[str, Source]:
        """All sources by name, except those in `damaged`."""
        return {name: Source.of(name, self.videos(name).attrs) for name in self.names() if name not in damaged}

    def damaged(self) -> list[str]:
        """Names of the sources that have a damaged table."""
        if self._path.is_file():
            return []
        return [name for name in self.names() if not all(is_intact(self._path / file) for file in self._files_of(name))]

    def select(self, preset: str | None = None, name: str | None = None) -> Selection:
        """The captions and videos of the sources with this name and this preset, combined.

        Raises UserError if no source matches, if the matching sources have several presets, or if they contradict each other.
        """
        captioned = {own: source for own, source in self.sources().items() if self._captions_files(own)}
        if not captioned:
            raise UserError(f"the cache {self._path} has no captions: extract with --annotations")
        if name is not None and name not in captioned:
            raise UserError(f"--name {name}: the cache {self._path} has no captions of that name; it has: {', '.join(captioned)}")
        chosen = {own: source for own, source in captioned.items() if name in (None, own) and preset in (None, source.preset)}
        presets = sorted({source.preset for source in (chosen or captioned).values()})
        if not chosen:
            raise UserError(f"the cache {self._path} has no captions for preset {preset}; it has: {', '.join(presets)}")
        if len(presets) > 1:
            raise UserError(f"the cache {self._path} serves several presets: name one with --preset {'|'.join(presets)}")
        return combine([Selection((own,), source.preset, self.captions(own), self.videos(own)) for own, source in chosen.items()])

    def gallery(self, name: str | None = None) -> dict[str, str]:
        """The videos, without failed ones, that all sources list, or the one called `name`: file name by id, empty if there is no file.

        Raises UserError if there is no source of that name.
        """
        found: dict[str, str] = {}
        for own in self._named(name):
            table = self.videos(own)
            table = table[~table["failed"]]
            files = table["file"].where(table["file"].notna(), "")
            # One source may have a file for a video that another lists without one.
            found |= {video_id: file or found.get(video_id, "") for video_id, file in zip(table["video_id"], files, strict=True)}
        return found

    def all_captions(self, name: str | None = None) -> list[str]:
        """The distinct captions that all sources list, or the one called `name`. Raises UserError if there is no such source."""
        texts = {caption: None for own in self._named(name) for caption in self.captions(own)["caption"]}
        return list(texts)

    def all_listed(self, without: str | None = None) -> tuple[set[str], set[str]]:
        """The ids of all videos, and all captions, that any source lists or is about to list, except the source `without`."""
        try:
            tables = [self._read(file) for name in self.names() if name != without for file in self._files_of(name)]
        except FileNotFoundError:
            return self.all_listed(without)
        videos = {video_id for table in tables for video_id in table["video_id"]}
        return videos, {caption for table in tables if "caption" in table for caption in table["caption"]}

    def videos(self, name: str) -> pd.DataFrame:
        """The videos of a source: see `Listing`. Raises UserError if there is no such source."""
        whole = [file for file in [videos_file(name)] if file in self.files()] or [videos_file(share) for share in self._shares(name)]
        if not whole:
            raise UserError(f"{self._path / videos_file(name)} is missing: run extract again, which writes it")
        try:
            tables = [self._read(file) for file in whole]
        except FileNotFoundError:
            return self.videos(name)  # the shares were joined in the meantime
        joined = pd.concat(tables, ignore_index=True).drop_duplicates("video_id", ignore_index=True)
        joined.attrs = tables[0].attrs
        return joined if "failed" in joined else joined.assign(failed=False)

    def captions(self, name: str) -> pd.DataFrame:
        """The captions of a source: see `Listing`. A folder of videos has no rows."""
        files = self._captions_files(name)
        try:
            return self._read(files[0]) if files else pd.DataFrame({"video_id": [], "caption": [], "split": []}, dtype=str)
        except FileNotFoundError:
            return self.captions(name)

    def begin(self, name: str, listed: Listing, shard: tuple[int, int] = (0, 1)) -> None:
        """Record the pending listing of a source: process I of `shard` (I, N) writes its share of the videos. This protects the entries
        from being pruned meanwhile."""
        own = f"{name}.{shard[0]}-of-{shard[1]}"
        # A share that is alone is never joined, so nobody compares its digest.
        digest = listed.digest() if shard[1] > 1 else None
        for share in self._shares(name):
            # Shares of another listing, or of another number of processes, will never be joined.
            if not share.endswith(f"-of-{shard[1]}") or (digest is not None and self._digest_of(share) != digest):
                self._remove(share)
        self._write(own, listed, shard, {} if digest is None else {"listing": digest})

    def complete(self, name: str, listed: Listing, shard: tuple[int, int] = (0, 1)) -> None:
        """Record that a share is done. The last process to finish replaces the previous listing of the source."""
        if shard[1] == 1:
            # Nobody to wait for. Column types as in a table that was read: the join below reads tables of shares.
            self._write(name, Listing(listed.source, listed.captions, listed.videos.infer_objects()), shard, {})
        elif not self._join(name, listed, shard):
            return
        for share in self._shares(name):
            self._remove(share)

    def _join(self, name: str, listed: Listing, shard: tuple[int, int]) -> bool:
        """Record that a share is done, and write the listing if all shares are. Returns whether they are."""
        digest = listed.digest()
        shares = [f"{name}.{i}-of-{shard[1]}" for i in range(shard[1])]
        self._write(shares[shard[0]], listed, shard, {"listing": digest, "done": "yes"})
        # Another process that joins them at the same time writes the same tables.
        with suppress(FileNotFoundError):
            tables = [self._read(videos_file(share)) for share in shares if videos_file(share) in self.files()]
            if len(tables) < len(shares) or any(table.attrs.get("done") is None or table.attrs["listing"] != digest for table in tables):
                return False
            order = pd.concat([table.assign(place=range(i, i + len(shares) * len(table), len(shares))) for i, table in enumerate(tables)])
            videos = order.sort_values("place").drop(columns="place").reset_index(drop=True)
            self._write(name, Listing(listed.source, listed.captions, videos), (0, 1), {})
        return True

    def remove(self, name: str) -> None:
        """Remove a source from the listings. Its features stay until they are pruned."""
        for stem in [name, *self._shares(name)]:
            self._remove(stem)
        (self._folder / options_file(name)).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """The names of all sources, including those whose first listing is pending."""
        stems = (file.removeprefix("videos-").removesuffix(".parquet") for file in self.files() if file.startswith("videos-"))
        return sorted({found["name"] if (found := SHARE.fullmatch(stem)) else stem for stem in stems})

    def _named(self, name: str | None) -> list[str]:
        names = self.names()
        if name is None:
            return names
        if name not in names:
            raise UserError(f"--name {name}: the cache {self._path} has no source of that name; it has: {', '.join(names) or 'none'}")
        return [name]

    def _shares(self, name: str) -> list[str]:
        stems = [file.removeprefix("videos-").removesuffix(".parquet") for file in self.files() if file.startswith("videos-")]
        return [stem for stem in stems if (found := SHARE.fullmatch(stem)) and found["name"] == name]

    def _files_of(self, name: str) -> Iterator[str]:
        """All tables of a source, including shares."""
        files = self.files()
        for stem in [name, *self._shares(name)]:
            yield from (file for file in (videos_file(stem), captions_file(stem)) if file in files)

    def _captions_files(self, name: str) -> list[str]:
        """The caption tables of the source's listing, or of its shares; every share has all captions."""
        files = self.files()
        stems = [name] if videos_file(name) in files else self._shares(name)
        return [captions_file(stem) for stem in stems if captions_file(stem) in files]

    def _digest_of(self, share: str) -> str | None:
        """The digest of the listing that a share belongs to; None if the share is damaged."""
        with suppress(UserError, FileNotFoundError):
            digest: str | None = self._read(videos_file(share)).attrs.get("listing")
            return digest
        return None

    def _read(self, name: str) -> pd.DataFrame:
        if self._path.is_file():
            with open_file(self._path) as file:
                return pd.read_parquet(io.BytesIO(file["tables"][name][()].tobytes()))
        path = self._path / name
        deadline = time.monotonic() + PATIENCE_S
        while not is_intact(path):
            if not path.exists() and not (self._path / checksum_file(name)).exists():
                raise FileNotFoundError(path)
            if time.monotonic() > deadline:
                raise UserError(f"{path} is damaged: run extract again on the folder or table of that name, which writes it anew")
            time.sleep(PATIENCE_S / 10)
        return read_parquet(path)

    def _write(self, stem: str, listed: Listing, shard: tuple[int, int], more: dict[str, str]) -> None:
        attributes: dict[Any, Any] = {**listed.source.attributes(), **more}
        # Captions first: a table of videos alone would look like a folder of videos.
        if listed.captions.empty:
            self._remove_file(captions_file(stem))
        else:
            write_parquet(self._folder / captions_file(stem), _with(listed.captions, attributes))
        write_parquet(self._folder / videos_file(stem), _with(listed.videos[COLUMNS].iloc[shard[0] :: shard[1]], attributes))

    def _remove(self, stem: str) -> None:
        for file in (videos_file(stem), captions_file(stem)):
            self._remove_file(file)

    def _remove_file(self, name: str) -> None:
        # Checksum first: a checksum without its table means that the table was lost.
        (self._folder / checksum_file(name)).unlink(missing_ok=True)
        (self._folder / name).unlink(missing_ok=True)


def listing_of(captions: pd.DataFrame, videos: pd.DataFrame | None, source: Source) -> Listing:
    """A listing of these captions and videos, none failed. By default the videos are those of the captions, each a whole file."""
    if videos is None:
        listed = captions[["video_id", "split"]].drop_duplicates()
        videos = listed.assign(file=captions["video_id"], **cells_of(WHOLE_FILE for _ in range(len(listed))))
    return Listing(source, captions, videos if "failed" in videos else videos.assign(failed=False))


def _with(table: pd.DataFrame, attributes: dict[Any, Any]) -> pd.DataFrame:
    table = table.copy(deep=False)
    table.attrs = attributes
    return table
