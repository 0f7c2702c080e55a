"""Kills, two writers, a full disk, a reader during writing, damaged bytes: nothing lost, half-written, or done twice."""

import errno
import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch

import extract
from data.base.errors import UserError
from data.base.whole_files import write_json
from data.cache import CLIP_FILE, FeatureCache
from data.cache.hdf5 import append, new_file
from data.compute.tensors import write_tensors
from data.merge import MergeOptions, merge
from data.verify import VerifyOptions, verify
from extract import ExtractOptions
from extract.failures import Failure, write_failures
from tests.conftest import DEMO_CLIP, ROOT
from tests.kills import assert_equal_caches, kill_when_parts_are_there, renamed, start_extraction
from tests.part_writer import entry, open_cache, write_all
from tests.shell import stage
from tests.videos import numbered_video

BUDGET = 10**9


def check_whole(path: Path, videos: int) -> None:
    """The cache is sound and equal, feature by feature, to one that nobody disturbed."""
    assert verify(VerifyOptions(path)) == 0
    found = FeatureCache(path)
    assert len(found.names("videos")) == videos
    features = found.videos([f"v{i}" for i in range(videos)], BUDGET)
    for i in range(videos):
        expected = entry(i)
        np.testing.assert_array_equal(features.frames.gather([i])[0], expected.frames_TD.astype(np.float16))
        assert features.seconds[i].tolist() == expected.seconds_T.tolist()


@pytest.mark.long
def test_a_hundred_kills_of_the_part_writer(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.part_writer", tmp_path, "100"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 1  # clip.h5 and parts
    check_whole(tmp_path, 600)


@pytest.mark.long
def test_two_writers_at_once_and_a_reader(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    open_cache(tmp_path)
    writers = [spawn.Process(target=write_all, args=(tmp_path, 400, a_part)) for a_part in (3, 5)]
    for writer in writers:
        writer.start()
    seen: list[int] = []
    while any(writer.is_alive() for writer in writers):
        cache = FeatureCache(tmp_path)
        names = cache.names("videos")
        seen.append(len(names))
        lengths = cache.videos(names, BUDGET).frames.length_N.tolist()
        assert lengths == [len(entry(int(name[1:])).frames_TD) for name in names]
        writers[0].join(0.05)
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert seen == sorted(seen)
    check_whole(tmp_path, 400)


def _write_with_little_room(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
    with pytest.raises(UserError, match=r"cannot be written \(File too large\): make room"):
        write_all(path, 200, a_part=50)


@pytest.mark.long
def test_a_full_disk_is_one_line_and_nothing_is_left(tmp_path: Path) -> None:
    write_all(tmp_path, 10)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    process = multiprocessing.get_context("spawn").Process(target=_write_with_little_room, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before
    write_all(tmp_path, 200)
    check_whole(tmp_path, 200)


def test_every_damaged_byte_is_found(tmp_path: Path) -> None:
    cache = open_cache(tmp_path)
    cache.write_videos([entry(i) for i in range(3)])
    cache.write_table("one", pd.DataFrame({"video_id": ["v0"], "caption": ["a ring"], "split": ["test"]}))
    rng = np.random.default_rng(0)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for place in {0, len(content) - 1, *rng.integers(0, len(content), 20).tolist()}:
            path.write_bytes(content[:place] + bytes([content[place] ^ (1 << int(rng.integers(8)))]) + content[place + 1 :])
            assert verify(VerifyOptions(tmp_path)) == 3, (path, place)
        path.write_bytes(content)
    assert verify(VerifyOptions(tmp_path)) == 0


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    for i in range(12):
        numbered_video(tmp_path / "videos" / f"v{i}.mp4", 10 + 5 * i, 5)
    return ExtractOptions(videos=tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, json=True)


def test_verify_says_what_extract_repairs(options: ExtractOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    names = [f"v{i}.mp4" for i in range(12)]
    whole = FeatureCache(extract.main(options)).videos(names, BUDGET).frames.gather(range(12))[0]
    for victim in (next(options.cache.glob("videos-*.h5")), options.cache / CLIP_FILE):
        content = bytearray(victim.read_bytes())
        content[len(content) // 2] ^= 1
        victim.write_bytes(content)
        capsys.readouterr()
        assert verify(VerifyOptions(options.cache, json=True)) == 3
        found = json.loads(capsys.readouterr().out)
        assert found["damaged"] == [str(victim)]
        assert len(found["videos_to_extract"]) == (0 if victim.name == CLIP_FILE else 12)
        if victim.name == CLIP_FILE:
            with pytest.raises(UserError, match=r"other settings \(fps is"):
                extract.main(replace(options, fps=2.0))
        extract.main(options)
        assert "is damaged" in capsys.readouterr().err
        assert verify(VerifyOptions(options.cache)) == 0
    np.testing.assert_array_equal(FeatureCache(options.cache).videos(names, BUDGET).frames.gather(range(12))[0], whole)
    with pytest.raises(UserError, match="there is no cache"):
        verify(VerifyOptions(tmp_path / "nothing"))


@pytest.mark.long
def test_kills_of_the_extraction_at_random_moments(tmp_path: Path) -> None:
    """The first of every four falls while it starts, the others when it has written a part more. KILLS in the environment: how many."""
    kills = int(os.environ.get("KILLS", "4"))
    rng = random.Random(0)
    options = ExtractOptions(tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True)
    # Work is left at the last kill.
    for i in range(12 * kills):
        numbered_video(options.videos / f"v{i}.mp4", 5 * (1 + i % 6), 5)
    before: dict[Path, int] = {}
    for kill in range(kills):
        process = start_extraction(options)
        if kill % 4:
            parts = 1 + sum(path.name.startswith("videos-") for path in before)
            assert kill_when_parts_are_there(process, options.cache, parts, rng.uniform(0, 0.05))
        else:
            assert kill_when_parts_are_there(process, options.cache, 0, rng.uniform(0, 2))
        now = renamed(options.cache)
        assert before.items() <= now.items(), "renamed work was done again"
        before = now
    assert any(path.name.startswith("videos-") for path in before)
    extract.main(options)
    assert before.items() <= renamed(options.cache).items(), "renamed work was done again"
    assert_equal_caches(options.cache, extract.main(replace(options, cache=tmp_path / "calm")))


@pytest.mark.parametrize("budget", [BUDGET, 0])
def test_a_merged_cache_is_read_as_the_folder_is(cache_path: Path, tmp_path: Path, budget: int) -> None:
    copy, out = tmp_path / "copy", tmp_path / "out.h5"
    shutil.copytree(cache_path, copy)
    cache = FeatureCache(copy)
    name = cache.names("videos")[0]
    assert merge(MergeOptions(copy, out)) == 0
    merged = FeatureCache(out)
    assert (merged.digest, merged.listings.sources(), merged.settings) == (cache.digest, cache.listings.sources(), cache.settings)
    assert merged.table().equals(cache.table())
    assert merged.listings.videos("demo").equals(cache.listings.videos("demo"))
    assert sorted(merged.names("videos")) == sorted(cache.names("videos"))
    videos, texts = cache.names("videos"), cache.names("texts")
    one, other = (found.videos(videos, budget) for found in (cache, merged))
    for i in range(len(videos)):
        np.testing.assert_array_equal(one.frames.gather([i])[0], other.frames.gather([i])[0])
        assert one.seconds[i].tolist() == other.seconds[i].tolist()
    one_text, other_text = (found.texts(texts, budget) for found in (cache, merged))
    np.testing.assert_array_equal(one_text.words.gather(range(len(texts)))[0], other_text.words.gather(range(len(texts)))[0])
    np.testing.assert_array_equal(one_text.sentences.gather(range(len(texts)))[0], other_text.sentences.gather(range(len(texts)))[0])
    assert merged.images("thumbnails", name) == cache.images("thumbnails", name)
    assert merged.clip_parts().tensors.keys() == cache.clip_parts().tensors.keys()
    assert verify(VerifyOptions(out)) == 0
    with pytest.raises(UserError, match="exists already"):
        merge(MergeOptions(copy, out))
    out.write_bytes(out.read_bytes()[:-1])
    assert verify(VerifyOptions(out)) == 3


def write_merged_file(path: Path) -> None:
    merge(MergeOptions(path / "cache", path / "out.h5"))


def write_part(path: Path) -> None:
    open_cache(path / "cache").write_videos([entry(i) for i in range(100, 300)])


def write_captions(path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [str(number) for number in rng.integers(0, 2**60, 5000)]
    FeatureCache(path / "cache").write_table("other", pd.DataFrame({"video_id": names, "caption": names, "split": "test"}))


def write_list_of_failures(path: Path) -> None:
    write_failures(path / "cache" / "failures.csv", [Failure(f"v{i}.mp4", f"v{i}.mp4", "damaged") for i in range(5000)])


def write_metrics(path: Path) -> None:
    write_json(path / "metrics.json", list(range(20_000)))


def write_weights(path: Path) -> None:
    write_tensors(path / "head.safetensors", {"weight": torch.zeros(100_000)})


def contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


WRITES: tuple[tuple[Callable[[Path], None], tuple[int, ...]], ...] = (
    (write_merged_file, (300, 5_000, 60_000, 120_000)),
    (write_part, (40_000,)),
    (write_captions, (20_000,)),
    (write_list_of_failures, (20_000,)),
    (write_metrics, (20_000,)),
    (write_weights, (20_000,)),
)
"""What writes a file, and how many bytes it may have; all of them are too few."""


def write_all_with_little_room(path: Path) -> None:
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write, limits in WRITES:
        before = contents(path)
        for limit in limits:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, unlimited[1]))
            with pytest.raises(UserError, match=r"cannot be written \(.*File too large.*\): make room") as refusal:
                write(path)
            assert "\n" not in str(refusal.value)
            assert contents(path) == before, (write, limit)
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        write(path)


@pytest.mark.long
def test_whatever_is_written_to_a_full_disk_leaves_everything_as_it_was(tmp_path: Path) -> None:
    """In a process of its own, which a library could crash, also when it ends."""
    write_all(tmp_path / "cache", 60, a_part=20)
    process = multiprocessing.get_context("spawn").Process(target=write_all_with_little_room, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert verify(VerifyOptions(tmp_path / "cache")) == 0
    assert verify(VerifyOptions(tmp_path / "out.h5")) == 0


def test_a_merge_onto_a_real_disk_that_is_full(tmp_path: Path) -> None:
    """A file system in memory of 100 KiB, which only root may make."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "none", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        write_all(tmp_path / "cache", 60, a_part=20)
        before = contents(tmp_path / "cache")
        done = stage("data.merge", tmp_path / "cache", small / "out.h5")
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"error: {small / 'out.h5'} cannot be written")
        assert done.stderr.count("\n") == 1
        assert list(small.iterdir()) == []
        assert contents(tmp_path / "cache") == before
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_file_on_a_disk_that_fails_is_read_as_it_was_written(tmp_path: Path) -> None:
    """What the library writes and reads after the disk failed is consistent, until somebody asks."""
    rng = np.random.default_rng(0)

    def write() -> None:
        with new_file(tmp_path / "a.h5") as (file, check):
            append(file, "before", rng.integers(0, 100, 200_000))
            check()
            with patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "No space left on device")):
                rows = [rng.integers(0, 100, 1_000_000) for _ in range(3)]
                for i, values in enumerate(rows):
                    append(file, f"after{i}", values)
                for i, values in enumerate(rows):
                    np.testing.assert_array_equal(file[f"after{i}"][()], values)
                assert len(file["before"]) == 200_000

    with pytest.raises(OSError, match="No space left"):
        write()
