"""The extraction in a process of its own that is killed, and what of its cache was there before and after."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from data.cache import FeatureCache
from data.cache.index import video_ids_in
from extract import ExtractOptions
from tests.caches import BUDGET
from tests.conftest import ROOT
from tests.waiting import wait_until

# `python -m extract`, but parts of two videos: else a small set would be one part, and every kill would only undo all of it.
PROGRAM = """
import extract.stage
from data.cli.command import run_command
from extract import ExtractOptions, main

extract.stage.VIDEOS_A_PART = 2
run_command(ExtractOptions, main, prog="extract")
"""


def start_extraction(options: ExtractOptions) -> subprocess.Popen[bytes]:
    """The stage in a process of its own, writing small parts."""
    arguments = ["--videos", options.videos, "--cache", options.cache, "--model", options.model, "--device", "cpu", "--quiet"]
    command = [sys.executable, "-c", PROGRAM, *map(str, arguments), "--workers", "1"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def renamed(cache: Path) -> dict[Path, int]:
    """The parts that are there, and when each was written."""
    return {path: path.stat().st_mtime_ns for path in cache.glob("*.h5")}


def kill_when_parts_are_there(process: subprocess.Popen[bytes], cache: Path, parts: int, later_s: float = 0.0) -> bool:
    """Kill the stage so many seconds after it has brought the cache to so many parts of videos; whether it was still running."""
    wait_until(lambda: process.poll() is not None or len(list(cache.glob("videos-*.h5"))) >= parts, f"{parts} parts", 120)
    time.sleep(later_s)
    running = process.poll() is None
    process.kill()
    process.wait()
    return running


def assert_equal_caches(path: Path, other: Path) -> None:
    """Each video once in either, with the same features and times."""
    caches = FeatureCache(path), FeatureCache(other)
    names = sorted(caches[0].names("videos"))
    assert names == sorted(caches[1].names("videos"))
    found, expected = (cache.videos(names, BUDGET) for cache in caches)
    for i, name in enumerate(names):
        np.testing.assert_array_equal(found.frames.gather([i])[0], expected.frames.gather([i])[0], name)
        assert found.seconds[i].tolist() == expected.seconds[i].tolist(), name
    for cache in (path, other):
        written = [name for part in cache.glob("videos-*.h5") for name in video_ids_in(part)]
        assert sorted(written) == names, "renamed work was done again"
