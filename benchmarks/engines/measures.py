"""Measures one engine: filling it, adding to it, and queries, with the commands and classes that searches use.

Shape suffixes: A queries, K videos, D dimension.
"""

import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

import search.index.vectors as vectors_module
from benchmarks.engines.options import ROOT
from benchmarks.engines.server import MilvusServer
from benchmarks.engines.world import QUERIES, nearest_videos, query_names, recall
from benchmarks.measure import Row, peak_mib, peak_of
from data.cache import FeatureCache
from search.index.candidates import index_fingerprint
from search.index.engine import Engine
from search.index.milvus.kinds import plan_index
from search.index.milvus.opening import find_collection, open_collection
from search.index.options import EngineOptions
from search.index.saved import load_index
from search.retrieval.gallery import Gallery
from search.retrieval.shortlist import IndexedGallery
from train_head.heads import TextBatch
from train_head.run import load_head

EngineKind = Literal["faiss", "lite", "server"]
CANDIDATES = 100
SHARES = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Fractions of the inverted lists that a query probes."""
RECALL = 0.95
TIMED = 100
"""Queries that are timed, of all."""
ASKED, PATIENCE_S = 10, 300.0
"""Queries that are repeated until the index is used, and for how long at most."""
DEFAULT = 1 / 8
"""The fraction that searches probe unless they are told otherwise."""
RUN = "zero-shot:glccl"
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Place:
    """Where one engine keeps its vectors."""

    kind: EngineKind
    folder: Path
    uri: str = ""

    def options(self) -> EngineOptions:
        """The options of a search."""
        if self.kind == "faiss":
            return EngineOptions(engine="faiss", index=self.folder)
        return EngineOptions(engine="milvus", uri=self.uri)

    def words(self) -> list[str]:
        """The same on a command line."""
        return ["--index", str(self.folder)] if self.kind == "faiss" else ["--engine", "milvus", "--uri", self.uri]

    def open(self, cache: FeatureCache, ids: Sequence[str], share: float) -> Engine:
        """The engine of all frames of these videos, which are sorted, with queries that probe this fraction of the lists."""
        videos = cache.videos(ids, 0)
        if self.kind == "faiss":
            vectors_module.LIST_SHARE = share
            return load_index(self.folder / "frames", index_fingerprint(cache, videos, "frames"))
        lists = plan_index(int(videos.frames.length_N.sum()), cache.dimension).build.get("nlist")
        # A collection of few vectors has no lists.
        chosen = None if lists is None else f"nprobe={max(1, round(share * lists))}"
        return open_collection(find_collection(self.options(), chosen, cache, "frames", None), cache, videos, "frames", quiet=True)

    def disk_mib(self) -> float:
        """Size of all files."""
        folder = self.folder / "data" if self.kind == "server" else self.folder
        return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 2**20


def measure_engine(kind: EngineKind, caches: tuple[Path, Path], exact_AK: NDArray[np.int64], work: Path) -> Row:
    """Fill an engine, query it and add to it. `caches`: the first gallery, and the one that has more videos."""
    first, grown = caches
    row: Row = {}
    with _placed(kind, work) as (place, server):
        row["build, s"], row["build: client MiB"] = _run("build", first, place)
        row["build: server MiB"] = server.peak_mib if server else 0.0
        row["disk MiB"] = place.disk_mib()
        row["until the index is used, s"] = alone(await_index, place, first, exact_AK)["s"]
        row["until the server rests, s"] = server.rest() if server else 0.0
        row |= alone(query_engine, place, first, exact_AK)
        row["query: server MiB"] = server.resident_mib if server else 0.0
        row["add 1%, s"], row["add 1%: client MiB"] = _run("add", grown, place)
        row["disk after adding MiB"] = place.disk_mib()
    return row


@contextmanager
def _placed(kind: EngineKind, work: Path) -> Iterator[tuple[Place, MilvusServer | None]]:
    """An empty place below `work`, and the server, which runs meanwhile."""
    folder = work / ("lite.db" if kind == "lite" else kind)
    if folder.exists():
        shutil.rmtree(folder)
    if kind != "server":
        yield Place(kind, folder, str(folder)), None
        return
    with MilvusServer(folder) as server:
        yield Place(kind, folder, server.uri), server


def _run(name: str, cache: Path, place: Place, more: Sequence[str] = ()) -> tuple[float, float]:
    """Seconds and peak MiB of a command of search."""
    words = [sys.executable, "-m", f"search.{name}", "--cache", str(cache), "--all", "--quiet", *place.words(), *more]
    start = time.perf_counter()
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    peak = peak_mib(process)
    if process.returncode:
        raise RuntimeError(f"{' '.join(words)} failed")
    return time.perf_counter() - start, peak


def same_candidates(engines: Sequence[EngineKind], cache: Path, work: Path) -> Row:
    """The share of queries for which the exhaustive search of an engine finds the very candidates that all frames give."""
    exact_AK = nearest_videos(FeatureCache(cache), CANDIDATES)
    row: Row = {}
    for kind in engines:
        with _placed(kind, work) as (place, _):
            _run("build", cache, place, () if kind == "faiss" else ("--index-kind", "FLAT"))
            row |= {f"{kind}": alone(_agreement, place, cache, exact_AK)["same"]}
    return row


def _agreement(place: Place, path: Path, exact_AK: NDArray[np.int64]) -> Row:
    cache = FeatureCache(path)
    query_AD = normalize(cache.texts(query_names(), 2**30).sentences.gather(np.arange(QUERIES))[0], dim=-1).numpy()
    found_AK, _ = place.open(cache, sorted(cache.names("videos")), 1.0).search(query_AD, CANDIDATES)
    return {"same": float((np.sort(found_AK) == np.sort(exact_AK)).all(axis=1).mean())}


def await_index(place: Place, path: Path, exact_AK: NDArray[np.int64]) -> Row:
    """Seconds until a query of all lists has a recall of RECALL. A server loads a new index some seconds after it has built it."""
    cache = FeatureCache(path)
    query_AD = normalize(cache.texts(query_names(), 2**30).sentences.gather(np.arange(QUERIES))[0], dim=-1).numpy()
    engine = place.open(cache, sorted(cache.names("videos")), 1.0)
    start = time.perf_counter()
    while recall(engine.search(query_AD[:ASKED], CANDIDATES)[0], exact_AK[:ASKED]) < RECALL:
        if time.perf_counter() > start + PATIENCE_S:
            raise RuntimeError(f"{place.kind} does not use its index")
        time.sleep(0.5)
    return {"s": time.perf_counter() - start}


def query_engine(place: Place, path: Path, exact_AK: NDArray[np.int64]) -> Row:
    """Milliseconds of a query, one at a time: by default, and with the fewest lists that have a recall of RECALL."""
    cache = FeatureCache(path)
    ids = sorted(cache.names("videos"))
    head, _ = load_head(RUN, cache, CPU)
    texts = cache.texts(query_names(), 2**30)
    query_AD = normalize(texts.sentences.gather(np.arange(QUERIES))[0], dim=-1).numpy()
    start = time.perf_counter()
    engine = place.open(cache, ids, DEFAULT)
    row: Row = {"open, s": time.perf_counter() - start}
    engine.search(query_AD[:1], CANDIDATES)
    row["first query, s"] = time.perf_counter() - start - row["open, s"]

    def add(name: str, engine: Engine, share: float) -> None:
        row[f"{name}: recall"] = recall(engine.search(query_AD, CANDIDATES)[0], exact_AK)
        row[f"{name}: share of lists"] = share
        times = _milliseconds(lambda a: engine.search(query_AD[a : a + 1], CANDIDATES))
        row[f"{name}, ms"], row[f"{name}, 95th percentile, ms"] = statistics.median(times), float(np.percentile(times, 95))

    add("query by default", engine, DEFAULT)
    for share in SHARES:
        engine = place.open(cache, ids, share)
        if recall(engine.search(query_AD, CANDIDATES)[0], exact_AK) >= RECALL:
            break
    add("query at equal recall", engine, share)
    gallery, shortlist = Gallery(cache, ids, head, None, 0, ahead=False), IndexedGallery(engine, CANDIDATES)

    def scored(a: int) -> None:
        text = TextBatch.gather(texts, [a], CPU)
        gallery.scores(text, shortlist.for_text(texts, a))

    scored(0)
    row[f"and {CANDIDATES} scored exactly, ms"] = statistics.median(_milliseconds(scored))
    row["query: client MiB"] = peak_of("self")
    return row


def alone(work: Callable[..., Row], *arguments: object) -> Row:
    """Run the work in a separate process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def ratios(rows: Mapping[EngineKind, Row], of: EngineKind) -> dict[str, Row]:
    """Every figure of the other engines divided by that of `of`, where it has one."""
    base = rows[of]
    return {
        name: {figure: value / base[figure] for figure, value in row.items() if base.get(figure)}
        for name, row in rows.items()
        if name != of
    }


def _milliseconds(query: Callable[[int], object]) -> list[float]:
    times = []
    for a in range(TIMED):
        start = time.perf_counter()
        query(a)
        times.append(1000 * (time.perf_counter() - start))
    return times
