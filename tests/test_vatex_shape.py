"""15,000 captions against 1,500 videos, both directions, within the memory budget."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from tests.conftest import ROOT

VIDEOS, CAPTIONS, FRAMES, WORDS, DIMENSION = 1500, 10, 6, 8, 16
MIB = 110
"""The matrix of all scores would take 86 MiB as float32, beside the features, the tables and the counts."""

# The first evaluation loads the libraries and is not counted.
PROGRAM = """
import resource, sys
from pathlib import Path
from evaluate import EvaluateOptions, main

small, large, out, budget = sys.argv[1:]
peaks = []
for cache in (small, large):
    options = EvaluateOptions(
        cache=Path(cache), run="zero-shot:mean", out=Path(out), memory_budget=float(budget), device="cpu", report=False, quiet=True
    )
    main(options)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
print(peaks[1] - peaks[0])
"""


@pytest.fixture(scope="module")
def vatex_shaped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, np.ndarray]:
    """A cache of random features, captions a little like their videos; its sentences and its frames."""
    path = tmp_path_factory.mktemp("vatex") / "cache"
    rng = np.random.default_rng(0)
    settings = {"weights": "none", "dimension": DIMENSION, "dtype": "float16", "max_words": 32}
    clip = ClipParts({"positional_embedding": np.zeros((77, DIMENSION), dtype=np.float32)}, 100.0, 1, "QuickGELU")
    cache = FeatureCache.create(path, settings, clip, {})
    # As the cache holds them.
    frames = rng.standard_normal((VIDEOS, FRAMES, DIMENSION)).astype(np.float16).astype(np.float32)
    noise = rng.standard_normal((VIDEOS * CAPTIONS, DIMENSION)) / 4
    sentences = (frames.mean(axis=1).repeat(CAPTIONS, axis=0) + noise).astype(np.float16).astype(np.float32)
    words = rng.standard_normal((VIDEOS * CAPTIONS, WORDS, DIMENSION)).astype(np.float32)
    ids = [f"video{i}" for i in range(VIDEOS)]
    captions = pd.DataFrame(
        [(video_id, f"caption {n} of {video_id}", "test") for video_id in ids for n in range(CAPTIONS)],
        columns=["video_id", "caption", "split"],
    )
    cache.write_videos([VideoEntry(video_id, frames[i], np.arange(FRAMES, dtype=np.float64), 1, 1) for i, video_id in enumerate(ids)])
    cache.write_texts([TextEntry(text, words[i], sentences[i]) for i, text in enumerate(captions["caption"])])
    cache.write_table("vatex", captions)
    return path, sentences, frames


def unit(array: np.ndarray) -> np.ndarray:
    return np.asarray(array / np.linalg.norm(array, axis=-1, keepdims=True))


@pytest.mark.long
def test_the_shape_of_vatex_within_the_budget(vatex_shaped: tuple[Path, np.ndarray, np.ndarray], cache_path: Path, tmp_path: Path) -> None:
    path, sentences, frames = vatex_shaped
    arguments = [str(cache_path), str(path), str(tmp_path), str(MIB / 1024)]
    done = subprocess.run([sys.executable, "-c", PROGRAM, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < MIB
    assert "vatex test: scored 1,500 of 1,500 videos expected (1,500 present, 1,500 decoded) and 15,000 of 15,000 captions" in done.stdout
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert (result["queries"], result["gallery"]) == (15_000, 1500)
    assert result["protocol"].startswith("several captions per video")
    # The whole matrix, ranked in the plainest way; random scores have no ties to speak of.
    scores = unit(sentences) @ unit(unit(frames).mean(axis=1)).T
    answers = np.arange(VIDEOS).repeat(CAPTIONS)
    text_ranks = 1 + (scores > scores[np.arange(len(answers)), answers][:, None]).sum(axis=1)
    best = scores.reshape(VIDEOS, CAPTIONS, VIDEOS).max(axis=1)
    video_ranks = 1 + (best > np.diag(best)[None, :]).sum(axis=0)
    for direction, ranks in (("text_to_video", text_ranks), ("video_to_text", video_ranks)):
        for k in (1, 5, 10):
            assert result[direction][f"R@{k}"] == pytest.approx(100 * (ranks <= k).mean(), abs=0.1)
        assert result[direction]["MnR"] == pytest.approx(ranks.mean(), rel=0.01)
    assert 5 < result["text_to_video"]["R@1"] < 95
