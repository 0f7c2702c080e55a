"""The tables of a cache, one listing of captions and one of videos for each source, as files beside the features or within a merged one.

Of several processes that share the work (`--shard`), each lists its share; the last one to do so joins the shares. Until then the last
complete listing counts, or where there is none, the shares that are there.
"""

import io
import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd

from data.errors import UserError
from data.hdf5 import open_file
from data.sources import SHARD, Listing, Source, together
from data.tables import captions_file, checksum_file, videos_file, write_parquet

COLUMNS = ["video_id", "split", "file", "start", "end"]


class Listings:
    """The listings of the cache at `path`, a folder or a merged file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> list[str]:
        """Names of the files of all tables."""
        if not self._path.is_file():
            return sorted(path.name for path in self._path.glob("*.parquet"))
        with open_file(self._path) as file:
            return sorted(file["tables"])

    def sources(self) -> dict[str, Source]:
        """All sources by name."""
        return {name: Source.of(name, self.videos(name).attrs) for name in self._names()}

    def select(self, preset: str | None = None, name: str | None = None) -> Listing:
        """The captions, and the videos of their splits, of the sources with this name and of this preset.

        Raises UserError where there are none, where they are of several presets, and where they contradict each other.
        """
        captioned = {own: source for own, source in self.sources().items() if captions_file(own) in self.files()}
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
        return together(
            [Listing((own,), source.preset, self._read(captions_file(own)), self.videos(own)) for own, source in chosen.items()]
        )

    def gallery(self, name: str | None = None) -> dict[str, str]:
        """The videos that the listings have a file of, or that of one source: ids, and names of files under the folder of videos.

        Raises UserError where there is no source of that name.
        """
        names = self._names()
        if name is not None and name not in names:
            raise UserError(f"--name {name}: the cache {self._path} has no source of that name; it has: {', '.join(names) or 'none'}")
        found: dict[str, str] = {}
        for own in names if name is None else [name]:
            table = self.videos(own).dropna(subset=["file"])
            found.update(zip(table["video_id"], table["file"], strict=True))
        return found

    def all_listed(self, without: str | None = None) -> tuple[set[str], set[str]]:
        """The ids of all videos, and all captions, that a source lists, but for one."""
        videos: set[str] = set()
        texts: set[str] = set()
        for name in self._names():
            if name != without:
                videos |= {*self.videos(name)["video_id"]}
                texts |= {*self._read(captions_file(name))["caption"]} if captions_file(name) in self.files() else set()
        return videos, texts

    def write(
        self, name: str, source: Source, captions: pd.DataFrame, videos: pd.DataFrame | None = None, shard: tuple[int, int] = (0, 1)
    ) -> None:
        """Keep what a source lists, in place of what it listed before; of `shard` I of N, what is its share of the videos.

        `videos`: columns video_id, split, file (a name, None where there is no file), start and end (the part of the file in seconds; NaN:
        from the beginning, to the end). By default those of the captions, each a whole file.
        """
        if videos is None:
            listed = captions[["video_id", "split"]].drop_duplicates()
            videos = listed.assign(file=captions["video_id"], start=math.nan, end=math.nan)
        if not captions.empty:
            self._write(captions_file(name), captions, source)
        number, count = shard
        if count == 1:
            self._write(videos_file(name), videos[COLUMNS], source)
            self._remove(self._shards(name))
            return
        self._write(videos_file(f"{name}.{number}-of-{count}"), videos[COLUMNS].iloc[number::count], source)
        shares = [f"{name}.{i}-of-{count}" for i in range(count)]
        if {videos_file(share) for share in shares} <= {*self.files()}:
            # Where another process joins them at the same time, it writes the same.
            with suppress(FileNotFoundError):
                joined = pd.concat([self._read(videos_file(share)) for share in shares], ignore_index=True)
                self._write(videos_file(name), joined, source)
            self._remove(shares)

    def _names(self) -> list[str]:
        """Of all sources, also those of which some shares are there alone."""
        stems = [file.removeprefix("videos-").removesuffix(".parquet") for file in self.files() if file.startswith("videos-")]
        return sorted({found["name"] if (found := SHARD.fullmatch(stem)) else stem for stem in stems})

    def _shards(self, name: str) -> list[str]:
        stems = [file.removeprefix("videos-").removesuffix(".parquet") for file in self.files()]
        return [stem for stem in stems if (found := SHARD.fullmatch(stem)) and found["name"] == name]

    def videos(self, name: str) -> pd.DataFrame:
        """All videos that a source lists: columns video_id, split, file (a name under the folder of videos, None where there was none),
        start and end (the part of the file in seconds; NaN: from the beginning, to the end). Raises UserError for a name of no source."""
        if name not in self._names():
            raise UserError(f"{self._path / videos_file(name)} is missing: run extract again, which writes it")
        if videos_file(name) in self.files():
            return self._read(videos_file(name))
        shares = [self._read(videos_file(share)) for share in self._shards(name)]
        joined = pd.concat(shares, ignore_index=True)
        joined.attrs = shares[0].attrs
        return joined

    def _read(self, name: str) -> pd.DataFrame:
        if not self._path.is_file():
            return pd.read_parquet(self._path / name)
        with open_file(self._path) as file:
            return pd.read_parquet(io.BytesIO(file["tables"][name][()].tobytes()))

    def _write(self, name: str, table: pd.DataFrame, source: Source) -> None:
        table = table.copy(deep=False)
        table.attrs = source.attributes()
        write_parquet(self._path / name, table)

    def _remove(self, stems: Sequence[str]) -> None:
        for file in (self._path / videos_file(stem) for stem in stems):
            file.unlink(missing_ok=True)
            checksum_file(file).unlink(missing_ok=True)
