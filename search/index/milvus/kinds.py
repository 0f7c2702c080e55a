"""The kinds of index that a collection may have, and their parameters.

Milvus accepts parameters that it does not know and ignores them, so they are checked here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from data.base.errors import UserError

EXACT_VECTORS = 2**15
"""Up to this many vectors, a collection is searched exhaustively."""
CODED_VECTORS = 2**24
"""Above this many vectors, they are stored as product codes of CODE_BYTES: at 512 numbers, a thirty-second of their size."""
CODE_BYTES = 64
SEGMENT_VECTORS = 2**18
"""Milvus indexes segments of up to 512 MiB or 1 GiB, each by itself, so that lists follow the size of a segment."""
VECTORS_A_LIST = 256
LIST_SHARE = 1 / 8
"""Fraction of the inverted lists that a query probes."""
NEIGHBOURS = 2
"""Graphs keep a list of at least this many times the vectors asked for while they search."""


class Range(NamedTuple):
    """Smallest and largest valid value of a parameter."""

    first: int
    last: int


class Kind(NamedTuple):
    """Parameters of one kind of index: those of the index, and those of a query."""

    build: Mapping[str, Range]
    query: Mapping[str, Range]


_LISTS, _PROBES = {"nlist": Range(1, 65_536)}, {"nprobe": Range(1, 65_536)}
KINDS: Mapping[str, Kind] = {
    "FLAT": Kind({}, {}),
    "IVF_FLAT": Kind(_LISTS, _PROBES),
    "IVF_SQ8": Kind(_LISTS, _PROBES),
    "IVF_PQ": Kind(_LISTS | {"m": Range(1, 65_536), "nbits": Range(1, 16)}, _PROBES),
    "HNSW": Kind({"M": Range(2, 2_048), "efConstruction": Range(1, 65_536)}, {"ef": Range(1, 32_768)}),
    "DISKANN": Kind({}, {"search_list": Range(1, 65_535)}),
}
_AT_LEAST_LIMIT = ("ef", "search_list")
"""Parameters of a query that Milvus wants to be at least the number of vectors asked for."""


@dataclass(frozen=True)
class IndexPlan:
    """A kind of index with its parameters."""

    kind: str
    build: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.kind}{f' ({_written(self.build)})' if self.build else ''}"

    def query(self, given: str | None = None) -> dict[str, int]:
        """Parameters of a query: those of --search-params `given`, by default such that an eighth of the lists is probed.

        Raises UserError for a parameter that this kind of index does not have.
        """
        known = KINDS[self.kind].query
        chosen = _parsed("--search-params", given, self.kind, known)
        if "nprobe" in known:
            lists = self.build["nlist"]
            if chosen.get("nprobe", 1) > lists:
                raise UserError(f"--search-params nprobe={chosen['nprobe']} must be at most the {lists:,} lists of the index")
            chosen.setdefault("nprobe", max(1, round(LIST_SHARE * lists)))
        return chosen


def for_limit(plan: IndexPlan, query: Mapping[str, int], limit: int, share: int) -> dict[str, int]:
    """The parameters of a query that asks for `limit` vectors and probes `share` times as many lists as `query` says."""
    known = KINDS[plan.kind].query
    graph = {name: max(query.get(name, 0), NEIGHBOURS * limit) for name in known if name in _AT_LEAST_LIMIT}
    lists = {"nprobe": min(share * query["nprobe"], plan.build["nlist"])} if "nprobe" in query else {}
    return {**query, **lists, **{name: min(value, known[name].last) for name, value in graph.items()}}


def widest(plan: IndexPlan, query: Mapping[str, int], share: int) -> bool:
    """Whether a query with these parameters probes all lists, so that it finds as many vectors as there are."""
    return "nprobe" not in query or share * query["nprobe"] >= plan.build["nlist"]


def plan_index(vectors: int, dimension: int, kind: str | None = None, params: str | None = None) -> IndexPlan:
    """The index for this many vectors of `dimension` numbers. `kind` and `params` ("nlist=1024,m=64") come before what the size suggests.

    >>> str(plan_index(1_000_000, 512))
    'IVF_SQ8 (nlist 1024)'

    Raises UserError for a kind or a parameter that is unknown or out of range.
    """
    if kind is None:
        kind = "FLAT" if vectors <= EXACT_VECTORS else "IVF_SQ8" if vectors <= CODED_VECTORS else "IVF_PQ"
    known = KINDS[kind].build
    suggested = {
        "nlist": max(1, min(vectors, SEGMENT_VECTORS) // VECTORS_A_LIST),
        "m": next(bytes_ for bytes_ in range(min(CODE_BYTES, dimension), 0, -1) if dimension % bytes_ == 0),
        "nbits": 8,
        "M": 16,
        "efConstruction": 200,
    }
    chosen = {name: suggested[name] for name in known} | _parsed("--index-params", params, kind, known)
    if "m" in chosen and dimension % chosen["m"]:
        raise UserError(f"--index-params m={chosen['m']}: m must be a divisor of the {dimension} numbers of a vector")
    return IndexPlan(kind, chosen)


def as_record(plan: IndexPlan) -> dict[str, Any]:
    """The plan as JSON values: see `from_record`."""
    return {"kind": plan.kind, "build": dict(plan.build)}


def from_record(record: Mapping[str, Any]) -> IndexPlan:
    """The plan of `as_record`."""
    return IndexPlan(record["kind"], record["build"])


def _parsed(option: str, given: str | None, kind: str, known: Mapping[str, Range]) -> dict[str, int]:
    chosen: dict[str, int] = {}
    for pair in (given or "").split(",") if given else ():
        name, _, text = (part.strip() for part in pair.partition("="))
        if name not in known:
            names = f"it knows {', '.join(known)}" if known else "it has none"
            raise UserError(f"{option} {pair.strip()}: {kind} has no such parameter: {names}")
        least, most = known[name]
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise UserError(f"{option} {pair.strip()}: {name} must be a whole number from {least:,} to {most:,}")
        chosen[name] = int(text)
    return chosen


def _written(params: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in params.items())
