"""The engines of candidates: both find what comparing every vector finds, and both follow their cache."""

import json
import subprocess
import sys
from dataclasses import replace
from os import environ
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import search.index.milvus.collection
import search.index.vectors
from data.base.errors import UserError
from data.base.whole_files import write_json
from data.cache import FeatureCache, VideoEntry
from search import add, build, drop, status
from search.add import AddOptions
from search.build import BuildOptions
from search.drop import DropOptions
from search.index import faiss_store
from search.index.candidates import candidate_index, index_fingerprint
from search.index.commands import FillOptions
from search.index.milvus.client import Milvus
from search.index.milvus.collection import Collection
from search.index.milvus.kinds import KINDS, plan_index
from search.index.options import EngineOptions
from search.index.saved import INDEX_FILE, load_index
from search.options import RetrievalOptions
from search.searcher import Searcher
from search.status import StatusOptions
from tests.caches import QUERY, rewritten
from tests.collection_rows import index_of, of_engine, rows_of
from tests.conftest import ROOT

pytest.importorskip("milvus_lite")


def expected_rows(cache: FeatureCache) -> dict[str, tuple[str, int, float, bytes]]:
    """Video, entry, time and unit vector of every frame of a cache, plainly."""
    found = {}
    for video in cache.names("videos"):
        for entry, (frame_D, seconds) in enumerate(zip(cache.frames(video).astype(np.float32), cache.seconds(video), strict=True)):
            unit_D = frame_D / np.linalg.norm(frame_D)
            found[f"{entry}:{video}"] = (video, entry, float(seconds), unit_D)
    return found


@pytest.fixture
def small(cache: FeatureCache, tmp_path: Path) -> Path:
    """A cache of a dozen videos, under names that filters have to quote."""
    names = ["it's", 'a "b"', "back\\slash", "ü 猫", "a,b", "{x}", "%", "folder/v 1", "folder/v 2", "[z]", "same", "other"]
    rewritten(cache, tmp_path / "small", dict(zip(sorted(cache.names("videos")), names, strict=False)))
    return tmp_path / "small"


@pytest.fixture
def lite(tmp_path: Path) -> EngineOptions:
    return EngineOptions(engine="milvus", uri=str(tmp_path / "v.db"))


def test_a_collection_holds_every_frame_with_its_place(small: Path, lite: EngineOptions, capsys: pytest.CaptureFixture[str]) -> None:
    build.main(of_engine(BuildOptions, lite, small, candidates_from="both"))
    cache = FeatureCache(small)
    expected = expected_rows(cache)
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"videos_frames: 12 videos, {len(expected)} vectors of {cache.dimension} numbers, index FLAT; added 12,")
    milvus = Milvus(lite)
    milvus.client.load_collection("videos_frames")
    rows = milvus.client.query("videos_frames", filter="entry >= 0", output_fields=["*"])
    milvus.close()
    assert {row["id"] for row in rows} == expected.keys()
    for row in rows:
        video, entry, seconds, unit_D = expected[row["id"]]
        assert (row["video"], row["entry"], row["time"]) == (video, entry, seconds)
        assert (row["cache"], row["format"], row["rows"]) == (cache.digest, cache.format, len(cache.frames(video)))
        assert np.allclose(row["vector"], unit_D, atol=1e-6)
    assert len(rows_of(lite, "pooled")) == 12


@pytest.mark.parametrize("k", [1, 5, 12])
def test_both_engines_find_the_same_videos(small: Path, lite: EngineOptions, k: int) -> None:
    build.main(of_engine(BuildOptions, lite, small))
    cache = FeatureCache(small)
    ids = sorted(cache.names("videos"))
    videos = cache.videos(ids)
    query_AD = np.random.default_rng(0).standard_normal((70, cache.dimension)).astype(np.float32)
    by_faiss = candidate_index(cache, videos, "frames").search(query_AD, k)
    by_milvus = index_of(lite, cache, cache.videos(ids)).search(query_AD, k)
    assert np.array_equal(by_milvus[0], by_faiss[0])
    assert np.allclose(by_milvus[1], by_faiss[1], atol=1e-5)


def test_a_server_that_does_not_group_gives_the_same(small: Path, lite: EngineOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old servers ignore the request to group and return many frames of a video; and no server returns more than a limit at once."""
    build.main(of_engine(BuildOptions, lite, small))
    cache = FeatureCache(small)
    ids = sorted(cache.names("videos"))
    query_AD = np.random.default_rng(1).standard_normal((3, cache.dimension)).astype(np.float32)
    index = index_of(lite, cache, cache.videos(ids))
    whole = [index.search(query_AD, k) for k in (1, 4, 12)]
    search_of = index._collection.milvus.client.search

    def ungrouped(*args: Any, group_by_field: str = "", **named: Any) -> Any:
        return search_of(*args, **named)

    monkeypatch.setattr(index._collection.milvus.client, "search", ungrouped)
    for most in (16_384, 7):
        monkeypatch.setattr("search.index.milvus.engine.MOST_VECTORS", most)
        for k, expected in zip((1, 4, 12), whole, strict=True):
            index._groups = True
            found = index.search(query_AD, k)
            assert np.array_equal(found[0], expected[0])
            # A product of one query is rounded otherwise than one of several.
            assert np.allclose(found[1], expected[1], atol=1e-5)


def test_videos_of_a_collection_outside_the_gallery_are_never_found(small: Path, lite: EngineOptions) -> None:
    build.main(of_engine(BuildOptions, lite, small))
    cache = FeatureCache(small)
    ids = sorted(cache.names("videos"))[::3]
    query_AD = np.random.default_rng(2).standard_normal((5, cache.dimension)).astype(np.float32)
    found = index_of(lite, cache, cache.videos(ids)).search(query_AD, len(ids))
    assert np.array_equal(found[0], candidate_index(cache, cache.videos(ids), "frames").search(query_AD, len(ids))[0])


class Changed:
    """A cache whose parts come and go, each with some videos."""

    def __init__(self, source: FeatureCache, path: Path) -> None:
        self.source, self.path = source, path
        self.names = sorted(source.names("videos"))

    def write(self, *places: int, as_names: tuple[int, ...] = ()) -> set[Path]:
        """Write the videos at these places, under the names of `as_names`; returns the new part."""
        before = set(self.path.glob("videos-*.h5"))
        named = dict(zip((self.names[i] for i in places), (f"v{i}" for i in as_names or places), strict=True))
        rewritten(self.source, self.path, named)
        return set(self.path.glob("videos-*.h5")) - before


def filled_after(options: EngineOptions, cache: Path, requests: int, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a collection is filled by a process that is stopped at this many writing requests, before or after the request's effect."""
    left = iter(range(requests))
    with monkeypatch.context() as patch:
        for name in ("insert", "upsert", "delete"):
            real = getattr(Collection, name)

            def stopping(self: Collection, *args: Any, real: Any = real) -> None:
                if next(left, None) is None:
                    raise KeyboardInterrupt
                real(self, *args)

            patch.setattr(Collection, name, stopping)
        try:
            build.main(of_engine(BuildOptions, options, cache))
        except KeyboardInterrupt:
            return False
    return True


def test_a_collection_follows_its_cache_wherever_it_was_stopped(
    cache: FeatureCache, tmp_path: Path, lite: EngineOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Videos are added, extracted again with fewer and with more frames, and pruned, and every command in between is stopped."""
    monkeypatch.setattr("search.index.milvus.rows.ROWS_A_BATCH", 25)
    monkeypatch.setattr("search.index.milvus.collection.VIDEOS_A_DELETE", 2)
    monkeypatch.setattr(search.index.milvus.collection, "ROWS_AT_ONCE", 7)
    changed = Changed(cache, tmp_path / "cache")
    gone = changed.write(*range(8))
    for step in range(3):
        for requests in range(1, 4):
            if filled_after(lite, changed.path, requests, monkeypatch):
                break
            if step == 1:  # while the collection is half full, the cache changes again
                changed.write(12 + requests, as_names=(0,))
        build.main(of_engine(BuildOptions, lite, changed.path))
        fresh = replace(lite, collection=f"fresh{step}")
        build.main(of_engine(BuildOptions, fresh, changed.path))
        assert rows_of(lite) == rows_of(fresh)
        if step == 0:
            changed.write(*range(8, 12))
            changed.write(20, 21, 22, as_names=(1, 2, 9))
        elif step == 1:
            for part in gone:
                part.unlink()
    assert {key.partition(":")[2] for key in rows_of(lite)} == {"v0", "v1", "v2", "v8", "v9", "v10", "v11"}


def test_add_and_status_say_what_changed(
    cache: FeatureCache, tmp_path: Path, lite: EngineOptions, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Changed(cache, tmp_path / "cache")
    parts = changed.write(0, 1, 2)
    changed.write(3, 4)
    with pytest.raises(UserError, match=r"there is no such file: correct --uri, or make it with python -m search\.build"):
        add.main(of_engine(AddOptions, lite, changed.path))
    faiss = EngineOptions(index=tmp_path / "index")
    for engine in (lite, faiss):
        build.main(of_engine(BuildOptions, engine, changed.path))
    for part in parts:
        part.unlink()
    changed.write(5, 6, 7, 13, as_names=(5, 6, 7, 3))
    capsys.readouterr()
    for engine in (lite, faiss):
        status.main(of_engine(StatusOptions, engine, changed.path, json=True))
    of_milvus, of_faiss = map(json.loads, capsys.readouterr().out.splitlines())
    assert {name: of_milvus[name] for name in ("missing", "outdated", "gone", "complete", "videos")} == {
        "missing": 3,
        "outdated": 1,
        "gone": 3,
        "complete": False,
        "videos": 5,
    }
    # FAISS counts a video with other features as one that is gone and one that is new.
    assert (of_faiss["missing"], of_faiss["gone"], of_faiss["complete"]) == (4, 4, False)
    for engine in (lite, faiss):
        add.main(of_engine(AddOptions, engine, changed.path))
    said = capsys.readouterr().out
    assert "added 3, replaced 1, removed 3" in said
    assert "5 videos; added 4, removed 4" in said
    for engine in (lite, faiss):
        status.main(of_engine(StatusOptions, engine, changed.path, json=True))
        drop.main(DropOptions(**vars(engine)))
    assert capsys.readouterr().out.count('"complete": true') == 2
    with pytest.raises(UserError, match="has no collection"):
        drop.main(DropOptions(**vars(lite)))
    with pytest.raises(UserError, match=r"there is no index in .*frames: nothing to delete"):
        drop.main(DropOptions(**vars(faiss)))


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_an_index_of_faiss_follows_its_gallery(cache_path: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whole galleries are found, in order, after any changes, with shards of two or three videos."""
    cache = FeatureCache(cache_path)
    folder = tmp_path_factory.mktemp("index")
    everything = sorted(cache.names("videos"))
    query_AD = np.random.default_rng(0).standard_normal((2, cache.dimension)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.index.vectors, "SHARD_VECTORS", 25)
        for _ in range(3):
            ids = sorted(data.draw(st.sets(st.sampled_from(everything), min_size=1, max_size=20)))
            options = FillOptions(cache=cache.path, index=folder)
            list(faiss_store.fill(options, cache, ids, make=not (folder / "frames" / INDEX_FILE).exists()))
            videos = cache.videos(ids)
            found = load_index(folder / "frames", index_fingerprint(cache, videos, "frames"))
            fresh = candidate_index(cache, videos, "frames")
            for k in (1, len(ids)):
                assert np.array_equal(found.search(query_AD, k)[0], fresh.search(query_AD, k)[0])
            files = {file.name for file in (folder / "frames").iterdir()}
            head = json.loads((folder / "frames" / INDEX_FILE).read_text())
            assert files == {INDEX_FILE, head["list"], *head["shards"]}


def test_a_deleted_index_leaves_the_files_of_others(small: Path, tmp_path: Path) -> None:
    folder, index = tmp_path / "index" / "frames", EngineOptions(index=tmp_path / "index")
    build.main(of_engine(BuildOptions, index, small))
    for name in ("thesis.txt", ".shard-0.faiss.host.1.tmp"):
        (folder / name).write_text("left over by a process that was killed")
    drop.main(DropOptions(**vars(index)))
    assert [file.name for file in folder.iterdir()] == ["thesis.txt"]
    (folder / INDEX_FILE).write_text('{"title": "of a web page"}')
    with pytest.raises(UserError, match=r"index\.json is not of an index"):
        drop.main(DropOptions(**vars(index)))
    (folder / INDEX_FILE).unlink()
    build.main(of_engine(BuildOptions, index, small))
    (folder / "thesis.txt").unlink()
    drop.main(DropOptions(**vars(index)))
    assert not folder.exists()


def test_of_two_indexes_that_are_saved_at_once_one_is_whole(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is saved when this one has written its parts, and before it has named them."""
    cache = FeatureCache(small)
    ids = sorted(cache.names("videos"))
    galleries = [cache.videos(ids[:5]), cache.videos(ids[5:])]
    folder = tmp_path / "index"
    other = Thread(target=lambda: candidate_index(cache, galleries[1], "frames", folder))

    def write_second(path: Path, value: Any) -> None:
        if not other.ident:
            other.start()
            other.join(0.3)
        write_json(path, value)

    monkeypatch.setattr("search.index.saved.write_json", write_second)
    candidate_index(cache, galleries[0], "frames", folder)
    other.join()
    assert load_index(folder, index_fingerprint(cache, galleries[1], "frames")).videos == len(ids) - 5


def test_a_folder_that_takes_no_index_is_refused_before_the_work(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss_store, "candidate_index", None)
    (tmp_path / "index").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        build.main(of_engine(BuildOptions, EngineOptions(index=tmp_path / "index"), small))


def test_a_search_by_a_collection_answers_as_by_an_index(cache_path: Path, lite: EngineOptions, capsys: pytest.CaptureFixture[str]) -> None:
    build.main(of_engine(BuildOptions, lite, cache_path))
    options = RetrievalOptions(cache=cache_path, run="zero-shot:glccl", top=5, candidates=20, device="cpu")
    answers = [list(Searcher(replace(options, **change)).search([QUERY])) for change in ({}, vars(lite))]
    assert answers[0] == answers[1]


def test_a_collection_that_is_behind_its_cache_finds_what_it_has(
    cache: FeatureCache, tmp_path: Path, lite: EngineOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = Changed(cache, tmp_path / "cache")
    changed.write(0, 1, 2, 3)
    assert not filled_after(lite, changed.path, 0, monkeypatch)
    empty = FeatureCache(changed.path)
    with pytest.raises(UserError, match="holds none of these 4 videos: fill it with"):
        index_of(lite, empty, empty.videos(empty.names("videos")))
    build.main(of_engine(BuildOptions, lite, changed.path))
    changed.write(4, 5, 6, as_names=(4, 5, 0))
    grown = FeatureCache(changed.path)
    capsys.readouterr()
    index = index_of(lite, grown, grown.videos(sorted(grown.names("videos"))), quiet=False)
    assert "note: of 6 videos, the collection videos_frames lacks 2 and has 1 as they were before: bring it up" in capsys.readouterr().err
    video_AK, near_AK = index.search(np.ones((1, grown.dimension), np.float32), 6)
    assert sorted(video_AK[0]) == [-1, -1, 0, 1, 2, 3]
    assert np.isinf(near_AK[0, 4:]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"engine": "faiss"}, "--uri is for --engine milvus"),
        ({"uri": None}, "--engine milvus needs --uri"),
        ({"uri": "v.sqlite"}, "--uri v.sqlite must be a file that ends in .db, or an address"),
        ({"uri": "ftp://host/x"}, "must be a file that ends in .db, or an address"),
        ({"uri": "http://host:port"}, "must be a file that ends in .db, or an address"),
        ({"uri": "http://root:secret@host:1"}, "give it by --milvus-token or MILVUS_TOKEN"),
        ({"uri": "http://host:1", "tls_name": "other"}, "begin --uri http://host:1 with https"),
        ({"uri": "https://host:1", "tls_ca": Path("nowhere.pem")}, "--tls-ca nowhere.pem: there is no such file"),
        ({"milvus_token": "a:b"}, "--milvus-token, --tls-ca and --tls-name are for the address of a server"),
        ({"uri": "nowhere/v.db"}, "there is no folder .*nowhere: make it, or name another file"),
        ({"uri": "http://127.0.0.1:1"}, "Milvus at http://127.0.0.1:1 does not answer: start it, or correct --uri"),
        ({"collection": "1st"}, "--collection 1st must be letters, digits and _"),
        ({"index": Path("x")}, "--engine milvus keeps vectors at --uri: leave --index out"),
        ({"index_kind": "HNSW", "index_params": "nlist=3"}, "nlist=3: HNSW has no such parameter: it knows M, efConstruction"),
        ({"index_kind": "FLAT", "index_params": "M=3"}, "FLAT has no such parameter: it has none"),
        ({"index_kind": "HNSW", "index_params": "M=many"}, "M must be a whole number from 2 to 2,048"),
        ({"index_kind": "IVF_PQ", "index_params": "m=7"}, "m must be a divisor of the 128 numbers of a vector"),
        ({"index_params": "M=3"}, "needs --index-kind"),
        ({"shard": "0/2"}, "one process at a time opens a file of Milvus Lite"),
        ({"shard": "2/2", "uri": "http://127.0.0.1:1"}, "--shard 2/2: I/N with I from 0 to N - 1"),
        ({"uri": "http://127.0.0.1:1/v.db"}, "must be a file that ends in .db, or an address"),
        ({"max_frames": 0}, "--max-frames 0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    cache_path: Path, lite: EngineOptions, change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        build.main(replace(of_engine(BuildOptions, lite, cache_path), **change))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "v.db").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search_params": "ef=3"}, "--search-params ef=3: IVF_SQ8 has no such parameter: it knows nprobe"),
        ({"search_params": "nprobe=9"}, "--search-params nprobe=9 must be at most the 2 lists of the index"),
        ({"collection": "other"}, "has no collection other_frames: fill it with python -m search.build"),
        ({"candidates": None}, "--engine milvus finds candidates: say how many"),
        ({"candidates_run": "zero-shot:mean"}, "--candidates-run with a run: leave one of them out"),
        ({"max_frames": 3}, "holds all frames of a video, and up to 3 frames are asked for: set --max-frames"),
        ({"engine": "faiss", "uri": None, "search_params": "nprobe=1"}, "--search-params is for --engine milvus"),
    ],
)
def test_a_search_says_what_its_collection_does_not_have(
    cache_path: Path, lite: EngineOptions, change: dict[str, Any], message: str
) -> None:
    build.main(of_engine(BuildOptions, lite, cache_path, index_kind="IVF_SQ8", index_params="nlist=2"))
    options = RetrievalOptions(cache=cache_path, run="zero-shot:mean", candidates=20, device="cpu", quiet=True, **vars(lite))
    with pytest.raises(UserError, match=message):
        Searcher(replace(options, **change), queries=False)


@pytest.mark.parametrize("command", [status, add, drop])
def test_a_file_is_made_by_build_alone_and_only_among_its_own(small: Path, lite: EngineOptions, command: Any, tmp_path: Path) -> None:
    options = {status: StatusOptions, add: AddOptions}
    wanted = of_engine(options[command], lite, small) if command in options else DropOptions(**vars(lite))
    with pytest.raises(UserError, match=r"there is no such file: correct --uri, or make it with python -m search\.build"):
        command.main(wanted)
    assert not (tmp_path / "v.db").exists()
    (tmp_path / "v.db").mkdir()
    (tmp_path / "v.db" / "thesis.txt").write_text("mine")
    for run in (lambda: command.main(wanted), lambda: build.main(of_engine(BuildOptions, lite, small))):
        with pytest.raises(UserError, match="is a folder with other files than those of Milvus Lite: name another one"):
            run()
    assert [file.name for file in (tmp_path / "v.db").iterdir()] == ["thesis.txt"]


def test_an_address_in_the_environment_is_not_read(small: Path, tmp_path: Path) -> None:
    """pymilvus reads it when it is imported."""
    command = [sys.executable, "-m", "search.status", "--cache", str(small), "--engine", "milvus", "--uri", "http://127.0.0.1:1"]
    said = subprocess.run(command, cwd=ROOT, env=environ | {"MILVUS_URI": "here"}, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr.count("\n")) == (2, 1)
    assert "Milvus at http://127.0.0.1:1 does not answer" in said.stderr


@pytest.mark.parametrize("to_faiss", [False, True])
def test_an_empty_cache_has_no_index(cache: FeatureCache, lite: EngineOptions, tmp_path: Path, to_faiss: bool) -> None:
    empty = FeatureCache.create(tmp_path / "empty", cache.settings, cache.clip_parts()).folder
    engine = EngineOptions(index=tmp_path / "index") if to_faiss else lite
    with pytest.raises(UserError, match="holds no videos that a source lists: run extract, or use --all"):
        build.main(of_engine(BuildOptions, engine, empty))
    assert not (tmp_path / "index").exists()
    assert not (tmp_path / "v.db").exists()


@pytest.mark.parametrize("package", ["pymilvus", "milvus_lite"])
def test_a_missing_package_is_named(lite: EngineOptions, cache_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=r"needs pymilvus and milvus-lite: pip install -r requirements-milvus\.txt"):
        build.main(of_engine(BuildOptions, lite, cache_path))


def test_a_collection_of_another_cache_or_of_someone_else_is_refused(small: Path, cache_path: Path, lite: EngineOptions) -> None:
    build.main(of_engine(BuildOptions, lite, cache_path))
    source = FeatureCache(small)
    other = FeatureCache.create(small.with_name("other"), source.settings | {"weights": "other"}, source.clip_parts())
    videos = source.videos(source.names("videos"))
    other.write_videos([VideoEntry("v", videos.frames.gather([0])[0].numpy(), videos.seconds[0], 1, 1)])
    for command, kind in ((build, BuildOptions), (add, AddOptions)):
        with pytest.raises(UserError, match=r"the collection videos_frames holds another cache .* choose another name with --collection"):
            command.main(of_engine(kind, lite, other.path))
    milvus = Milvus(lite)
    milvus.client.create_collection("theirs_frames", dimension=4)
    milvus.close()
    for command, kind in ((build, BuildOptions), (add, AddOptions)):
        with pytest.raises(UserError, match=r"the collection theirs_frames of .* was not made by search.build"):
            command.main(of_engine(kind, replace(lite, collection="theirs"), cache_path))
    with pytest.raises(UserError, match=r"was not made by search\.build"):
        drop.main(DropOptions(**vars(replace(lite, collection="theirs"))))


@settings(max_examples=60, deadline=None)
@given(vectors=st.integers(0, 2**34), dimension=st.integers(1, 4096), kind=st.sampled_from([None, *KINDS]))
def test_every_size_has_an_index_with_valid_parameters(vectors: int, dimension: int, kind: str | None) -> None:
    plan = plan_index(vectors, dimension, kind)
    for name, value in plan.build.items():
        assert KINDS[plan.kind].build[name].first <= value <= KINDS[plan.kind].build[name].last
    assert dimension % plan.build.get("m", 1) == 0
    for name, value in plan.query().items():
        assert 1 <= value <= KINDS[plan.kind].query[name].last
