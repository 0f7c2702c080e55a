"""Writers that are killed: `python -m tests.part_writer CACHE KILLS` forks them, kills each at a random moment, and looks at the cache.

No torch is imported. Ends with the number of parts that were renamed, after the last word of a reader that opened the cache all the while.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.cache import ClipParts, FeatureCache, VideoEntry
from tests.waiting import wait_until

SETTINGS = {"weights": "w" * 64, "dimension": 16, "max_words": 16, "dtype": "float16"}
CLIP = ClipParts({"positional_embedding": np.ones((5, 8), np.float32)}, 14.5, 2, "GELU")


def entry(i: int) -> VideoEntry:
    """Video i, the same whenever it is made."""
    frames = 1 + i % 7
    values = np.random.default_rng(i).normal(size=(frames, 16)).astype(np.float32)
    return VideoEntry(f"v{i}", values, np.arange(frames, dtype=float), i, i, thumbnails=[bytes([i % 256]) * 2000] * frames)


def open_cache(path: Path) -> FeatureCache:
    return FeatureCache.create(path, SETTINGS, CLIP, {})


def write_all(path: Path, videos: int, a_part: int = 4, opened: Callable[[], object] = lambda: None) -> None:
    """Write what is missing of the first videos; `opened` is called before the first part."""
    cache = open_cache(path)
    opened()
    lacking = [i for i in range(videos) if not cache.is_current(f"v{i}", i, i)]
    for first in range(0, len(lacking), a_part):
        cache.write_videos([entry(i) for i in lacking[first : first + a_part]])


def main(path: Path, kills: int) -> None:
    assert "torch" not in sys.modules
    rng = random.Random(0)
    videos = 6 * kills
    before: dict[str, int] = {}
    for kill in range(kills):
        ready, say_ready = os.pipe()
        writer = os.fork()
        if writer == 0:
            write_all(path, videos, opened=lambda pipe=say_ready: os.write(pipe, b"!"))  # type: ignore[misc]
            os._exit(0)
        # Some are killed while they make or open the cache, most while they write; however busy the machine is, one writes a part.
        if kill % 4:
            os.read(ready, 1)
        time.sleep(rng.uniform(0, 0.02))
        if kill == kills - 1:
            wait_until(lambda: any(path.glob("videos-*.h5")), "a part")
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
        os.close(ready)
        os.close(say_ready)
        renamed = {file.name: file.stat().st_mtime_ns for file in path.glob("*.h5")}
        assert before.items() <= renamed.items(), "renamed work was done again"
        if "clip.h5" in renamed:
            FeatureCache(path)
        before = renamed
    write_all(path, videos)
    print(len(before))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
