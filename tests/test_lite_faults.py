"""Milvus Lite when it goes wrong: the process is killed, the disk is full, another process has the file."""

import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from data.base.errors import Unavailable, UserError
from data.cache import FeatureCache
from search import build, drop
from search.build import BuildOptions
from search.drop import DropOptions
from search.index.milvus import store
from search.index.milvus.opening import find_collection
from search.index.options import EngineOptions
from search.status import StatusOptions
from tests.collection_rows import index_of, of_engine, rows_of
from tests.conftest import ROOT
from tests.waiting import wait_until

pytest.importorskip("milvus_lite")

# The command, but batches of a video.
PROGRAM = """
import search.index.milvus.rows
from data.cli.command import run_command
from search.build import BuildOptions, main

search.index.milvus.rows.ROWS_A_BATCH = 1
run_command(BuildOptions, main, prog="build")
"""


@pytest.fixture
def engine(tmp_path: Path) -> EngineOptions:
    return EngineOptions(engine="milvus", uri=str(tmp_path / "v.db"))


def started(engine: EngineOptions, cache: Path, largest_file: str = "unlimited") -> subprocess.Popen[str]:
    """The command; `largest_file` in KiB."""
    command = [sys.executable, "-c", PROGRAM, "--cache", str(cache), "--engine", "milvus", "--uri", str(engine.uri), "--quiet"]
    limited = ["bash", "-c", 'ulimit -f "$0" && exec "$@"', largest_file, *command]
    return subprocess.Popen(limited, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_goes_on(engine: EngineOptions, cache: Path, tmp_path: Path) -> None:
    """The same command completes the collection, which then equals a fresh one, row by row."""
    build.main(of_engine(BuildOptions, engine, cache))
    fresh = replace(engine, uri=str(tmp_path / "fresh.db"))
    build.main(of_engine(BuildOptions, fresh, cache))
    assert rows_of(engine) == rows_of(fresh)


@pytest.mark.long
def test_a_killed_build_goes_on_and_its_file_takes_one_process(cache_path: Path, engine: EngineOptions, tmp_path: Path) -> None:
    process = started(engine, cache_path)
    wait_until(lambda: process.poll() is not None or any((tmp_path / "v.db").rglob("wal/*")), "rows", 60)
    process.send_signal(signal.SIGSTOP)  # until another one has met it
    said = started(engine, cache_path).communicate()[1]
    process.kill()
    process.communicate()
    assert said == f"error: --uri {engine.uri} is open in another process, and Milvus Lite takes one: end it, or use a server\n"
    assert process.returncode == -9
    assert_goes_on(engine, cache_path, tmp_path)


@pytest.mark.long
def test_a_full_disk_is_one_line(cache_path: Path, engine: EngineOptions, tmp_path: Path) -> None:
    process = started(engine, cache_path, "100")
    said = process.communicate()[1]
    assert process.returncode == 2
    assert said == f"error: Milvus at {engine.uri} has no room ([Errno 27] File too large): make room, then run the same command again\n"
    assert_goes_on(engine, cache_path, tmp_path)


def test_a_damaged_file_is_seen_and_built_again(cache_path: Path, engine: EngineOptions, tmp_path: Path) -> None:
    """Milvus Lite goes back to an older list of its files, which may name none, if the newest is damaged."""
    build.main(of_engine(BuildOptions, engine, cache_path))
    folder = tmp_path / "v.db" / "collections" / "videos_frames"
    (folder / "manifest.json").write_text("{")
    cache = FeatureCache(cache_path)
    [facts] = store.status(of_engine(StatusOptions, engine, cache_path), cache, sorted(cache.names("videos")))
    assert (facts["complete"], facts["missing"]) == (False, len(cache.names("videos")))
    assert_goes_on(engine, cache_path, tmp_path)
    (folder / "schema.json").write_text("{")
    with pytest.raises(UserError, match=r"or delete it and build it again with python -m search\.build"):
        build.main(of_engine(BuildOptions, engine, cache_path))


def test_a_file_that_is_searched_can_be_built_in_the_same_process(cache_path: Path, engine: EngineOptions) -> None:
    build.main(of_engine(BuildOptions, engine, cache_path))
    cache = FeatureCache(cache_path)
    videos = cache.videos(sorted(cache.names("videos")))
    with pytest.raises(UserError, match="has no collection videos_pooled"):
        find_collection(engine, None, cache, "pooled", None)
    index = index_of(engine, cache, videos)
    build.main(of_engine(BuildOptions, engine, cache_path, candidates_from="pooled"))
    assert index.search(videos.frames.gather([0])[0].numpy(), 1)[0][0].tolist() == [0]
    drop.main(DropOptions(**vars(engine)))
    with pytest.raises(Unavailable, match=r"has deleted the collection .*: fill it again with python -m search\.build"):
        index.search(videos.frames.gather([0])[0].numpy(), 1)
    index._collection.milvus.close()
