"""The caches of the benchmarks."""

from pathlib import Path

import numpy as np
import pytest

import benchmarks.report
import benchmarks.training
from benchmarks import synthetic
from benchmarks.measure import seconds_interleaved
from benchmarks.synthetic import random_features, seconds_of, write_cache
from data.cache import ClipParts, TextEntry, VideoEntry


def test_a_cache_is_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "VIDEOS_A_PART", 2)
    monkeypatch.setattr(synthetic, "TEXTS_A_PART", 3)
    random = np.random.default_rng(0)
    frames = [random_features(random, 3, 8) for _ in range(5)]
    videos = (VideoEntry(f"v{i}", frame_FD, seconds_of(3), 1, 1) for i, frame_FD in enumerate(frames))
    texts = (TextEntry(f"t{i}", random_features(random, 2, 8), random_features(random, 8)) for i in range(4))
    settings = {"weights": "0" * 64, "max_words": 4, "max_frames": 3, "dtype": "float32", "dimension": 8}
    cache = write_cache(tmp_path, settings, ClipParts({}, 100.0, 8, "GELU"), videos, texts, count=5, quiet=True)
    assert [len(list(tmp_path.glob(f"{kind}-*.h5"))) for kind in ("videos", "texts")] == [3, 2]
    assert (cache.names("texts"), sorted(cache.names("videos"))) == ([f"t{i}" for i in range(4)], [f"v{i}" for i in range(5)])
    found = cache.videos([f"v{i}" for i in range(5)], 10**9)
    for i, frame_FD in enumerate(frames):
        np.testing.assert_array_equal(found.frames.gather([i])[0].numpy(), frame_FD)
        assert found.seconds[i].tolist() == [0, 1, 2]


def test_features_have_the_norm_asked_for() -> None:
    norm_N = np.linalg.norm(random_features(np.random.default_rng(0), 1000, 512, norm=3.0), axis=1)
    # The norm of a normal vector of 512 numbers strays by 1 / sqrt(2 * 512) of itself, and its mean over 1,000 by a thirtieth of that.
    assert norm_N.mean() == pytest.approx(3.0, rel=0.005)


def test_benchmarks_make_caches_of_any_size(tmp_path: Path) -> None:
    for made in (
        benchmarks.report.make_cache(tmp_path / "report", 3, 2),
        benchmarks.training.make_cache(tmp_path / "training", 3, [5, 9]),
    ):
        assert len(made.names("videos")) == 3
        assert set(made.table()["caption"]) == set(made.names("texts"))


def test_sides_run_in_turn_after_those_that_warm_up() -> None:
    """A clock that counts its readings: each run reads it twice, and takes a second and what the run itself reads."""
    ran: list[str] = []
    ticks = iter(range(100))

    def slow() -> None:
        ran.append("slow")
        next(ticks)

    sides = {"fast": lambda: ran.append("fast"), "slow": slow}
    assert seconds_interleaved(sides, 2, {"slow"}, lambda: next(ticks)) == {"fast": [1, 1], "slow": [2, 2]}
    assert ran == ["slow", "fast", "slow", "fast", "slow"]
