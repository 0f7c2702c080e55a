"""SIGKILLs of the extraction at random moments, each followed by going on: `python -m benchmarks.kills`.

Some kills fall while the stage starts, most while it writes parts. Nothing that was renamed may change, and in the end the cache must be
equal to that of a run that nobody disturbed. The last line is JSON.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.base.errors import UserError
from data.base.progress import Progress
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import FeatureCache
from data.cache.index import video_ids_in
from data.cli.command import run_command
from extract import ExtractOptions
from extract.ffmpeg.run import encode_video

ROOT = Path(__file__).parent.parent
DEMO_CLIP = f"local-dir:{ROOT / 'demo' / 'clip'}"

# `python -m extract`, but parts of two videos: else a small set would be one part, and every kill would only undo all of it.
PROGRAM = """
import extract.stage
from data.cli.command import run_command
from extract import ExtractOptions, main

extract.stage.VIDEOS_A_PART = 2
run_command(ExtractOptions, main, prog="extract")
"""

START_LIMIT_S = 120.0
BUDGET = 2**30


@dataclass(frozen=True)
class KillsOptions:
    """Kill the extraction again and again, and compare what comes of it."""

    kills: int = 100
    """Kills; each costs a start of the stage, some seconds."""
    videos: int = 1200
    """Short videos, made for it: so many that work is left at the last kill."""
    seed: int = 0
    """Of the moments."""
    out: Path = ROOT / "runs" / "benchmarks" / "kills.json"
    """File for the figures."""
    quiet: bool = False
    """No progress."""


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
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and len(list(cache.glob("videos-*.h5"))) < parts and time.monotonic() < deadline:
        time.sleep(0.002)
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


def measure(options: KillsOptions) -> Path:
    """Kill, go on, compare, and write the figures to OUT."""
    require_writable_file(options.out)
    rng = random.Random(options.seed)
    if options.videos < 2:
        raise UserError(f"--videos {options.videos}: at least 2")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = folder / "videos"
        videos.mkdir()
        for i in range(options.videos):
            frames = [bytes([(7 * i + 20 * k) % 256]) * (32 * 32 * 3) for k in range(5 * (1 + i % 6))]
            encode_video(videos / f"v{i}.mp4", b"".join(frames), 32, 32, 5)
        calm = ExtractOptions(videos, folder / "calm", model=DEMO_CLIP)
        begin = time.perf_counter()
        undisturbed = start_extraction(calm)
        while undisturbed.poll() is None and not any(calm.cache.glob("videos-*.h5")):
            time.sleep(0.01)
        start_s = time.perf_counter() - begin
        assert undisturbed.wait() == 0
        disturbed = ExtractOptions(videos, folder / "cache", model=DEMO_CLIP)
        hit = 0
        before: dict[Path, int] = {}
        with Progress("kills", options.kills, "kills", options.quiet) as progress:
            for kill in range(options.kills):
                process = start_extraction(disturbed)
                if kill % 4:
                    parts = 1 + sum(path.name.startswith("videos-") for path in before)
                    hit += kill_when_parts_are_there(process, disturbed.cache, parts, rng.uniform(0, 0.05))
                else:
                    hit += kill_when_parts_are_there(process, disturbed.cache, 0, rng.uniform(0, start_s))
                now = renamed(disturbed.cache)
                assert before.items() <= now.items(), "renamed work was done again"
                before = now
                progress.update(note=f"{len(before)} parts")
        assert start_extraction(disturbed).wait() == 0
        assert before.items() <= renamed(disturbed.cache).items(), "renamed work was done again"
        assert_equal_caches(disturbed.cache, calm.cache)
    figures = {
        "kills": options.kills,
        "while it ran": hit,
        "videos": options.videos,
        "parts after the last kill": len(before),
        "equal": True,
    }
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    print(json.dumps(figures))
    return options.out


if __name__ == "__main__":
    run_command(KillsOptions, measure, prog="python -m benchmarks.kills")
