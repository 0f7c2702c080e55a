"""Blocks of files in a store: which hold a range, what is read of them, and the bounded disk cache that keeps them."""

import hashlib
import multiprocessing
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.base.errors import UserError
from data.base.whole_files import locked_folder
from data.cache.hdf5 import append, layout_of, new_file
from data.store.blocks import Block, Range, blocks_of, outside, runs_of
from data.store.disk import DiskCache
from data.store.manifest import OBJECTS, Entry, Manifest
from data.store.path import StorePath
from data.store.remote import Remote
from data.store.rows import StoredRows, fetch_rows
from data.store.store import Store

NAME = "file"


def stored(content: bytes, block_bytes: int, address: str) -> StorePath:
    """A file of this content in the store of this process."""
    digests = b"".join(hashlib.sha256(content[at : at + block_bytes]).digest() for at in range(0, len(content), block_bytes))
    Remote(address).put(f"{OBJECTS}/key", content)
    return StorePath(Store(address, Manifest({NAME: Entry("key", len(content), digests, ())}, "", block_bytes)), NAME)


@pytest.fixture(autouse=True)
def nothing_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLCCL_BLOCK_CACHE_GIB", "0")


@settings(max_examples=40, deadline=None)
@given(data=st.data(), size=st.integers(1, 400), block_bytes=st.integers(1, 60))
def test_a_range_is_what_a_slice_of_the_file_is(data: st.DataObject, size: int, block_bytes: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    path = stored(content, block_bytes, "memory://ranges")
    for _ in range(5):
        start = data.draw(st.integers(0, size))
        stop = data.draw(st.integers(start, size))
        assert path.store.read(Range(NAME, start, stop)) == content[start:stop]
    assert path.read_bytes() == content
    opened = path.open_for_hdf5()
    opened.seek(size // 2)
    assert opened.read() == content[size // 2 :]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 60)), max_size=8), st.integers(1, 50), st.integers(1, 4))
def test_blocks_hold_the_ranges_and_nothing_else(spans: list[tuple[int, int]], block_bytes: int, most: int) -> None:
    ranges = [Range(NAME, start, start + length) for start, length in spans]
    wanted = {place // block_bytes for one in ranges for place in range(one.start, one.stop)}
    blocks = blocks_of(ranges, block_bytes)
    assert sorted(block.number for block in blocks) == sorted(wanted)
    runs = list(runs_of(blocks, most))
    assert sorted(block for run in runs for block in run) == sorted(blocks)
    for run in runs:
        assert len(run) <= most
        assert [block.number for block in run] == list(range(run[0].number, run[0].number + len(run)))
    # No run goes on where another that is shorter than it may be ends.
    ends = {run[-1].number + 1 for run in runs if len(run) < most}
    assert not ends & {run[0].number for run in runs}


@given(st.lists(st.tuples(st.integers(0, 90), st.integers(0, 30)), max_size=6))
def test_what_is_outside_of_ranges(spans: list[tuple[int, int]]) -> None:
    bulk = [(start, min(start + length, 100)) for start, length in spans]
    left = set(range(100)) - {place for start, stop in bulk for place in range(start, stop)}
    assert [place for start, stop in outside(bulk, 100) for place in range(start, stop)] == sorted(left)


@settings(max_examples=25, deadline=None)
@given(data=st.data(), rows=st.integers(0, 40), width=st.integers(1, 5), chunked=st.booleans(), block_bytes=st.integers(16, 5000))
def test_rows_are_those_that_hdf5_reads(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, rows: int, width: int, chunked: bool, block_bytes: int
) -> None:
    """From one range of the file, or from chunks."""
    values = np.random.default_rng(rows).standard_normal((rows, width, 2)).astype(np.float16)
    file_path = tmp_path_factory.mktemp("rows") / "part.h5"
    with pytest.MonkeyPatch.context() as patch, new_file(file_path) as (file, _):
        if chunked:
            patch.setattr("data.cache.hdf5.CHUNK_BYTES", data.draw(st.integers(1, 100)))
            append(file, "frames", values[: rows // 2])
            append(file, "frames", values[rows // 2 :])
        else:
            file.create_dataset("frames", data=values)
        file.create_dataset("more", data=np.arange(99))
    path = stored(file_path.read_bytes(), block_bytes, "memory://rows")
    with h5py.File(file_path) as file:
        found = StoredRows(path, layout_of(file["frames"]))
        assert (found.shape, found.dtype) == (file["frames"].shape, file["frames"].dtype)
    start = data.draw(st.integers(0, rows))
    stop = data.draw(st.integers(start, rows))
    some = np.array(sorted(data.draw(st.sets(st.integers(0, rows - 1)))) if rows else [], dtype=np.int64)
    fetch_rows([(found, slice(start, stop)), (found, some)])
    assert np.array_equal(found[start:stop], values[start:stop])
    assert np.array_equal(found[some], values[some])


def block(seed: int, size: int = 1000) -> tuple[bytes, bytes]:
    """The SHA-256 of a block, and the block."""
    content = np.random.default_rng(seed).bytes(size)
    return hashlib.sha256(content).digest(), content


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("??/*"))


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 900)), max_size=30), st.integers(0, 3000))
@settings(max_examples=30, deadline=None)
def test_the_disk_cache_stays_within_its_limit(tmp_path_factory: pytest.TempPathFactory, given: list[tuple[int, int]], limit: int) -> None:
    cache = DiskCache(tmp_path_factory.mktemp("blocks"), limit)
    for seed, size in given:
        digest, content = block(seed, size)
        cache.keep({digest: content})
        assert bytes_in(cache.folder) <= limit
        assert cache.get(digest) == (content if size <= limit else None)


def fill(folder: Path, seed: int) -> None:
    """What one of several processes does."""
    cache = DiskCache(folder, 50_000)
    for first in range(0, 200, 5):
        cache.keep(dict(block(1000 * seed + number) for number in range(first, first + 5)))
        # Nobody writes meanwhile.
        with locked_folder(folder):
            assert bytes_in(folder) <= 50_000


def test_processes_that_share_the_disk_cache_stay_within_its_limit_together(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fill, args=(tmp_path, seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert 25_000 < bytes_in(tmp_path) <= 50_000


def test_blocks_that_are_read_stay_longest(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    blocks = [block(number) for number in range(12)]
    for number, (digest, content) in enumerate(blocks):
        if number == 10:
            assert cache.get(blocks[0][0]) == blocks[0][1]
        cache.keep({digest: content})
        # Times of files are no finer than the clock of the kernel.
        os.utime(cache._path(digest), ns=(number, number))
        if number == 0:
            os.utime(cache._path(digest), ns=(0, 0))
    assert cache.get(blocks[0][0]) == blocks[0][1]
    assert cache.get(blocks[1][0]) is None


def test_a_block_that_changed_on_the_disk_is_not_used(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10_000)
    digest, content = block(1)
    cache.keep({digest: content})
    (path,) = tmp_path.glob("??/*")
    path.write_bytes(content[:-1] + b"?")
    assert cache.get(digest) is None
    cache.keep({digest: content})
    assert cache.get(digest) == content


def test_a_disk_that_cannot_be_written_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file", 10_000)
    for number in range(2):
        cache.keep(dict([block(number)]))
    (said,) = capsys.readouterr().err.splitlines()
    assert "cannot be written" in said


@pytest.mark.parametrize("given", ["much", "-1", "nan", "inf"])
def test_a_size_that_is_none(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("GLCCL_BLOCK_CACHE_GIB", given)
    with pytest.raises(UserError, match=rf"GLCCL_BLOCK_CACHE_GIB={given} must be a number of GiB, 0 for no cache on disk"):
        DiskCache.from_environment()


def test_blocks_are_in_the_users_folder_of_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("GLCCL_BLOCK_CACHE", raising=False)
    assert DiskCache.from_environment().folder == tmp_path / "glccl" / "blocks"
    monkeypatch.setenv("GLCCL_BLOCK_CACHE", str(tmp_path / "own"))
    assert DiskCache.from_environment().folder == tmp_path / "own"


def test_neighbours_are_of_one_file() -> None:
    assert list(runs_of([Block("a", 0), Block("b", 1)], 9)) == [[Block("a", 0)], [Block("b", 1)]]
