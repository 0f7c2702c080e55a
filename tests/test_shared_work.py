"""Evaluation and extraction in several real processes, joined by gloo."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data.cache import FeatureCache, VideoEntry
from evaluate.ranks import RANKS_FILES
from tests.conftest import DEMO_CLIP, ROOT
from tests.processes import finish, start


@pytest.fixture
def another_cache(cache_path: Path, tmp_path: Path) -> Path:
    """The same but for one video, which was extracted again."""
    shutil.copytree(cache_path, tmp_path / "another")
    cache = FeatureCache(tmp_path / "another")
    video_id = cache.table()["video_id"].iloc[-1]
    frames_TD = cache.videos([video_id], 2**20).frames.gather([0])[0].numpy()
    cache.write_videos([VideoEntry(video_id, frames_TD, np.arange(len(frames_TD), dtype=np.float64), 1, 1)])
    return cache.path


Command = list[str | Path]
TIMES = {"seconds", "provenance", "cost", "processes"}


def figures(out: Path) -> dict[str, object]:
    """All of metrics.json but what differs from run to run."""
    result = json.loads((out / "metrics.json").read_text())
    for row in result["candidates"]:
        for name in [name for name in row if name.endswith("seconds")]:
            del row[name]
    for stage in result.get("two_stage", {}).get("stages", ()):
        del stage["measured"]
    return {name: value for name, value in result.items() if name not in TIMES}


@pytest.mark.long
@pytest.mark.exact
def test_one_two_and_three_processes_find_the_same_to_the_last_bit(cache_path: Path, tmp_path: Path) -> None:
    command: Command = ["tests.small_blocks", "--cache", cache_path, "--run", "zero-shot:glccl", "--device", "cpu", "--quiet"]
    command += ["--candidates", "3,7", "--candidates-from", "both", "--dual-softmax", "--query-bank", "30"]
    for count, report in ((1, ["--no-report"]), (2, []), (3, ["--no-report"])):
        done = finish(start([[*command, *report, "--out", tmp_path / f"{count}"]] * count))
        assert [status for status, _, _ in done] == [0] * count, done
        assert [bool(output) for _, output, _ in done] == [True] + [False] * (count - 1)
    one = figures(tmp_path / "1")
    assert one["candidates"]
    assert json.loads((tmp_path / "3" / "metrics.json").read_text())["processes"] == 3
    for count in (2, 3):
        assert figures(tmp_path / f"{count}") == one
        for ranks in RANKS_FILES.values():
            assert (tmp_path / f"{count}" / ranks).read_bytes() == (tmp_path / "1" / ranks).read_bytes()


@pytest.mark.long
@pytest.mark.exact
@pytest.mark.parametrize("run", ["zero-shot:glccl", "zero-shot:tests.pair_by_pair:PairByPair"])
def test_processes_re_rank_the_candidates_of_another_run_as_one_does(cache_path: Path, tmp_path: Path, run: str) -> None:
    """They share the videos, or the texts of a head with blocks of one text."""
    command: Command = ["tests.small_blocks", "--cache", cache_path, "--run", run, "--device", "cpu", "--quiet", "--no-report"]
    command += ["--candidates", "3", "--candidates-run", "zero-shot:mean"]
    for count in (1, 2, 3):
        done = finish(start([[*command, "--out", tmp_path / f"{count}"]] * count))
        assert [status for status, _, _ in done] == [0] * count, done
    one = figures(tmp_path / "1")
    for count in (2, 3):
        assert figures(tmp_path / f"{count}") == one
        for ranks in RANKS_FILES.values():
            assert (tmp_path / f"{count}" / ranks).read_bytes() == (tmp_path / "1" / ranks).read_bytes()


def test_processes_with_other_options_or_caches_are_refused(cache_path: Path, another_cache: Path, tmp_path: Path) -> None:
    command: Command = ["evaluate", "--run", "zero-shot:mean", "--out", tmp_path / "out", "--device", "cpu", "--quiet", "--cache"]
    done = finish(start([[*command, cache_path], [*command, another_cache, "--max-frames", "2"]]))
    for status, _, error in done:
        assert status == 2
        assert error.startswith(
            "error: the 2 processes do not do the same work (--max-frames is 2 in process 1 and not given in process 0; "
        )
        assert "the cache is" in error
        assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_error_of_one_process_is_that_of_all(cache_path: Path, tmp_path: Path) -> None:
    command: Command = ["evaluate", "--run", "zero-shot:mean", "--out", tmp_path / "out", "--device", "cpu", "--quiet", "--cache"]
    done = finish(start([[*command, cache_path], [*command, tmp_path / "none"]]))
    assert [status for status, _, _ in done] == [2, 2]
    assert done[0][2].startswith("error: process 1 of 2: there is no cache at")


@pytest.mark.parametrize("victim", [0, 1])
def test_a_lost_process_is_named_by_the_others(cache_path: Path, tmp_path: Path, victim: int) -> None:
    command: Command = [
        "tests.lost_process",
        "evaluate",
        "--cache",
        cache_path,
        "--run",
        "zero-shot:mean",
        "--out",
        tmp_path / "out",
        "--device",
        "cpu",
    ]
    done = finish(start([[*command, "--process-timeout", "2", "--quiet"]] * 2, VICTIM=str(victim)))
    assert done.pop(victim)[0] == -signal.SIGKILL
    [(status, output, error)] = done
    assert (status, output) == (1, "")
    assert error.startswith(f"error: process {victim} of 2 "), error
    assert "lost" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_first_process_leaves_after_the_last() -> None:
    """It holds the store: the others would take it for lost where it left when it had seen them come."""
    assert finish(start([["tests.slow_process"]] * 2)) == [(0, "", "")] * 2


@pytest.mark.long
def test_a_process_that_was_never_started_is_named(cache_path: Path, tmp_path: Path) -> None:
    command: Command = ["evaluate", "--run", "zero-shot:mean", "--out", tmp_path / "out", "--process-timeout", "2", "--cache", cache_path]
    [(status, _, error)] = finish(start([command], WORLD_SIZE="2"))
    assert status == 1
    assert error.startswith("error: process 1 of 2 was not started: not seen for 10 s"), error


@pytest.mark.long
def test_extraction_goes_on_with_another_number_of_processes(demo_set: Path, cache: FeatureCache, tmp_path: Path) -> None:
    """One of three is lost; two then do what is left, and list the broken video once."""
    videos, out = tmp_path / "videos", tmp_path / "cache"
    videos.mkdir()
    for i in range(6):
        shutil.copy(demo_set / "videos" / f"video{i}.mp4", videos)
    (videos / "video6.mp4").write_text("no video")
    asked: Command = [
        "extract",
        "--videos",
        videos,
        "--cache",
        out,
        "--model",
        DEMO_CLIP,
        "--device",
        "cpu",
        "--quiet",
        "--max-frames",
        "12",
    ]
    done = finish(start([["tests.lost_process", *asked, "--quiet", "--process-timeout", "2"]] * 3, VICTIM="1"))
    assert [status for status, _, _ in done] == [1, -signal.SIGKILL, 1], done
    assert all(error.splitlines()[-1].startswith("error: process 1 of 3 ") for _, _, error in done[::2])
    there = FeatureCache(out).names("videos")
    assert sorted(there) == [f"video{i}.mp4" for i in (0, 2, 3, 5)]
    done = finish(start([[*asked, "--quiet", "--json"]] * 2))
    assert [status for status, _, _ in done] == [3, 3], done
    summary = json.loads(done[0][1])
    assert (summary["videos_extracted"], summary["videos_failed"], summary["processes"]) == (2, 1, 2)
    assert not done[1][1]
    assert [path.name for path in out.glob("failures*")] == ["failures.csv"]
    shared = FeatureCache(out)
    names = [f"video{i}" for i in range(6)]
    found_RD, _ = shared.videos([f"{name}.mp4" for name in names], 2**30).frames.gather(range(6))
    alone_RD, _ = cache.videos(names, 2**30).frames.gather(range(6))
    assert torch.equal(found_RD, alone_RD)


def test_a_shard_is_refused_where_processes_share_already(demo_set: Path, tmp_path: Path) -> None:
    command: Command = ["extract", "--videos", demo_set / "videos", "--cache", tmp_path / "cache", "--model", DEMO_CLIP, "--shard", "0/2"]
    done = finish(start([command, command]))
    assert [status for status, _, _ in done] == [2, 2]
    assert all("--shard 0/2: leave it out under torchrun" in error for _, _, error in done)
    assert not (tmp_path / "cache").exists()


@pytest.mark.long
def test_torchrun_starts_the_same_command(cache_path: Path, tmp_path: Path) -> None:
    """The two dashes keep torchrun from taking --run for an option of its own."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--", "evaluate"]
    options: Command = ["--cache", cache_path, "--run", "zero-shot:mean", "--out", tmp_path, "--device", "cpu", "--quiet", "--no-report"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *torchrun, *options], cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "metrics.json").read_text())["processes"] == 2
