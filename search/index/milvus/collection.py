"""A collection: one row for every vector of a cache's videos.

    id          ENTRY:VIDEO, the primary key, so that writing a row twice leaves one
    video       id of the video
    entry       number of the frame among the video's frames; 0 for a pooled vector
    rows        how many rows the video has
    time        seconds from the start of the file; 0 for a pooled vector
    source      names of the sources that list the video, joined by a comma
    written_ns  when the cache wrote the video's features
    cache       digest of the cache's settings
    format      format of the cache
    vector      the unit vector [D]

A video's row of entry 0 is written after its others, and deleted after them. So the rows of entry 0 are a ledger: a video that it lists is
in the collection completely. What describes the collection as a whole is kept in its properties. They never change, because servers before
2.4 lose changes when they start again. When the collection holds a gallery completely, an alias of the collection names the gallery.

Shape suffixes: R rows, D dimension.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

from data.base.errors import Unavailable, UserError
from search.index.milvus.client import WRITE_S, Milvus
from search.index.milvus.kinds import IndexPlan, as_record, from_record

LONGEST = 65_535
"""Bytes of the longest string that Milvus holds."""
ROWS_AT_ONCE = 16_384
"""Most rows of an answer."""
VIDEOS_A_DELETE = 500
_PROPERTY = "retrieval"
_CONTROL = re.compile(r"\\u00([01][0-9a-f])")


class Held(NamedTuple):
    """What the ledger says about a video."""

    written_ns: int
    rows: int


@dataclass(frozen=True)
class About:
    """Properties of a collection.

    cache: digest of the settings of the cache.
    vectors: frames or pooled.
    max_frames: most frames of a video; None for all.
    """

    cache: str
    format: int
    vectors: str
    max_frames: int | None
    dimension: int
    index: IndexPlan

    def as_record(self) -> dict[str, Any]:
        """JSON values: see `from_record`."""
        return {**vars(self), "index": as_record(self.index)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> "About":
        """From the values of `as_record`."""
        return cls(**{**record, "index": from_record(record["index"])})


class Collection:
    """One collection, which may not exist yet."""

    def __init__(self, milvus: Milvus, name: str) -> None:
        self.milvus, self.name = milvus, name

    def exists(self) -> bool:
        """Whether there is a collection of this name."""
        return bool(self.milvus.ask("look for the collection", self.milvus.client.has_collection, self.name))

    def about(self) -> About:
        """The properties. Raises UserError if the collection was not made by `create`."""
        found = self.milvus.ask("describe the collection", self.milvus.client.describe_collection, self.name)
        try:
            return About.from_record(json.loads(found["properties"][_PROPERTY]))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"the collection {self.name} of {self.milvus.name} was not made by search.build: choose another name with --collection"
            ) from error

    def create(self, about: About) -> None:
        """Make the collection, empty."""
        from pymilvus import DataType, MilvusClient

        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", DataType.VARCHAR, max_length=LONGEST, is_primary=True)
        for name in ("video", "source", "cache"):
            schema.add_field(name, DataType.VARCHAR, max_length=LONGEST)
        for name in ("entry", "rows", "written_ns", "format"):
            schema.add_field(name, DataType.INT64)
        schema.add_field("time", DataType.DOUBLE)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=about.dimension)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type=about.index.kind, metric_type="IP", params=dict(about.index.build))
        client, properties = self.milvus.client, {_PROPERTY: json.dumps(about.as_record())}
        self.milvus.ask(
            "make the collection",
            client.create_collection,
            self.name,
            schema=schema,
            index_params=index,
            properties=properties,
            timeout=WRITE_S,
        )

    def complete(self, fingerprint: str, rows: int) -> bool:
        """Whether the collection holds the gallery of this fingerprint (`candidates.index_fingerprint`), and nothing else.

        `rows`: of this gallery. Those of the collection, which must be loaded, are counted, because
        Milvus Lite goes back to an older state when its newest file is damaged.
        """
        return self._alias(fingerprint) in self._aliases() and self.count() == rows

    def mark(self, fingerprint: str | None) -> None:
        """Record that the collection holds the gallery of this fingerprint, or that it holds none completely."""
        wanted = set() if fingerprint is None else {self._alias(fingerprint)}
        there = set(self._aliases())
        client = self.milvus.client
        try:
            for alias in there - wanted:
                self.milvus.ask("change the collection", client.drop_alias, alias)
            for alias in wanted - there:
                self.milvus.ask("change the collection", client.create_alias, self.name, alias)
        except UserError:
            # Another process of --shard may have been faster.
            if set(self._aliases()) != wanted:
                raise

    def _alias(self, fingerprint: str) -> str:
        return f"{self.name}_holds_{fingerprint[:32]}"

    def _aliases(self) -> list[str]:
        found = self.milvus.ask("describe the collection", self.milvus.client.list_aliases, self.name)["aliases"]
        return [alias for alias in found if alias.startswith(self._alias(""))]

    def drop(self) -> None:
        """Delete the collection with all rows."""
        self.mark(None)
        self.milvus.ask("drop the collection", self.milvus.client.drop_collection, self.name, timeout=WRITE_S)

    def load(self) -> None:
        """Have the server load the collection for queries, and wait until it has. Does nothing if it is loaded."""
        self.milvus.finish("load the collection", self.milvus.client.load_collection, self.name)

    def count(self) -> int:
        """Rows, including all that are written by now."""
        found = self.milvus.ask(
            "count the rows",
            self.milvus.client.query,
            self.name,
            filter="",
            output_fields=["count(*)"],
            consistency_level="Strong",
            timeout=WRITE_S,
        )
        return int(found[0]["count(*)"])

    def ledger(self) -> dict[str, Held]:
        """The videos that are in the collection completely."""
        return {row["video"]: Held(row["written_ns"], row["rows"]) for row in self._all("entry == 0", ["video", "written_ns", "rows"])}

    def entries(self) -> Iterator[tuple[str, int]]:
        """Video and entry of every row."""
        for row in self._all("entry >= 0", ["video", "entry"]):
            yield row["video"], row["entry"]

    def insert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of whole videos, of which the collection has no row; those of entry 0 last.

        This spares the server the deletion that is half of `upsert`. A request that failed may have been carried out, and would leave rows
        twice if it were repeated, so `upsert` follows it.
        """
        for some in _entry_0_last(rows):
            try:
                self.milvus.once("write rows", self.milvus.client.insert, self.name, some)
            except Unavailable:
                self.upsert(some)

    def upsert(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows of whole videos in place of those that are there; those of entry 0 last."""
        for some in _entry_0_last(rows):
            self.milvus.ask("write rows", self.milvus.client.upsert, self.name, some, timeout=WRITE_S)

    def delete(self, videos: Iterable[str]) -> None:
        """Delete all rows of these videos; those of entry 0 last."""
        remaining = iter(videos)
        while some := list(islice(remaining, VIDEOS_A_DELETE)):
            for which in (f"video in {quoted(some)} and entry > 0", f"video in {quoted(some)}"):
                self.milvus.ask("delete rows", self.milvus.client.delete, self.name, filter=which, timeout=WRITE_S)

    def delete_rows(self, video: str, entries: Iterable[int]) -> None:
        """Delete some rows of a video."""
        which = f"video in {quoted([video])} and entry in {json.dumps(sorted(entries))}"
        self.milvus.ask("delete rows", self.milvus.client.delete, self.name, filter=which, timeout=WRITE_S)

    def flush(self) -> None:
        """Have the server write everything to its storage, and index it."""
        self.milvus.finish("flush the collection", self.milvus.client.flush, self.name)

    def unindexed(self) -> int:
        """Rows that the index of the collection does not cover. The server may be indexing others anew, which it has merged."""
        found = self.milvus.ask("describe the index", self.milvus.client.describe_index, self.name, "vector")
        return max(0, int(found.get("total_rows", 0)) - int(found.get("indexed_rows", 0)))

    def _all(self, which: str, fields: list[str]) -> Iterator[Mapping[str, Any]]:
        """All rows that the filter selects, in order of the primary key, including all that are written by now.

        Not pymilvus's iterator: with servers before 2.5 it reads as of the client's clock, and misses rows that were just written.
        """
        last = ""
        while True:
            page = self.milvus.ask(
                "read the rows",
                self.milvus.client.query,
                self.name,
                filter=f"{which} and id > {quoted([last])[1:-1]}",
                output_fields=fields,
                limit=ROWS_AT_ONCE,
                consistency_level="Strong",
                reduce_stop_for_best=True,  # the rows with the smallest keys, and not those found first
                timeout=WRITE_S,
            )
            if not page:
                return
            yield from page  # fewer than the limit, where the next ones are not known to be the smallest
            last = max(row["id"] for row in page)


def _entry_0_last(rows: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    return [some for some in ([row for row in rows if row["entry"]], [row for row in rows if not row["entry"]]) if some]


def quoted(names: Sequence[str]) -> str:
    """The list of these names in Milvus's language of filters."""
    # Milvus Lite does not know JSON's numbered escapes. Without them, it and the server read what JSON writes.
    return _CONTROL.sub(lambda found: chr(int(found[1], 16)), json.dumps(list(names), ensure_ascii=False))
