"""What the second stage gains: differences and intervals against a plain paired bootstrap, and the lines that say them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

from data.cache import FeatureCache
from evaluate import EvaluateOptions, main
from evaluate.ranks import RANKS_FILES
from tests.all_scores import all_scores
from train_head.run import load_head
from train_head.scoring.splits import load_split

FIRST, SECOND, K, SEED = "zero-shot:mean", "zero-shot:glim-local", 3, 5
DIRECTIONS = ("text_to_video", "video_to_text")


def evaluated(cache: Path, out: Path, **given: Any) -> dict[str, Any]:
    main(EvaluateOptions(cache, out=out, device="cpu", report=False, quiet=True, seed=SEED, **given))
    result: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return result


def owners(out: Path) -> list[int]:
    """Each text's place among the video-to-text queries."""
    of_texts, of_videos = (pd.read_parquet(out / name) for name in RANKS_FILES.values())
    place = {video: i for i, video in enumerate(of_videos["video_id"])}
    return [place[video] for video in of_texts["video_id"]]


def hits(out: Path, k: int) -> list[NDArray[np.float64]]:
    """For each direction, 100 for every query that is answered within rank k, and 0 for the others."""
    of_texts, of_videos = (pd.read_parquet(out / name) for name in RANKS_FILES.values())
    for table in (of_texts, of_videos):
        assert (table["best_rank"] == table["worst_rank"]).all()
    return [np.where(table["rank"] <= k, 100.0, 0.0) for table in (of_texts, of_videos)]


def test_gains_are_those_of_a_plain_paired_bootstrap(cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluated(cache_path, tmp_path / "first", run=FIRST)
    capsys.readouterr()
    result = evaluated(cache_path, tmp_path / "both", run=SECOND, candidates=str(K), candidates_run=FIRST)
    said, found = capsys.readouterr().out, result["two_stage"]
    rng = np.random.default_rng(SEED)
    texts, videos = result["queries"], result["gallery"]
    drawn = {"text_to_video": rng.integers(texts, size=(2000, texts)), "video_to_text": rng.integers(videos, size=(2000, videos))}

    def interval(sample: list[float]) -> Any:
        return pytest.approx(np.quantile(sample, [0.025, 0.975]).tolist(), abs=1e-9)

    # RSum adds three recalls of both directions; the texts of a video are drawn with it.
    sums, owner_A = np.zeros((2, 2000)), owners(tmp_path / "both")
    for k in (1, 5, 10):
        before, after = hits(tmp_path / "first", k), hits(tmp_path / "both", k)
        for i, direction in enumerate(DIRECTIONS):
            resampled = [[stage[i][draw].mean() for draw in drawn[direction]] for stage in (before, after)]
            changes = [there - here for here, there in zip(*resampled, strict=True)]
            gained = found["difference"][direction][f"R@{k}"]
            assert gained["difference"] == pytest.approx(after[i].mean() - before[i].mean())
            assert [gained["low"], gained["high"]] == interval(changes)
            assert found["intervals"][direction][f"R@{k}"] == interval(resampled[0])
            assert f"R@{k} {gained['difference']:+.1f} ({gained['low']:+.1f} to {gained['high']:+.1f})" in said
        for stage, (of_texts, of_videos) in enumerate((before, after)):
            for n, draw in enumerate(drawn["video_to_text"]):
                times = np.bincount(draw, minlength=videos)
                sums[stage, n] += (of_videos * times).sum() / times.sum() + (of_texts * times[owner_A]).sum() / times[owner_A].sum()
    gained = found["difference"]["RSum"]
    assert gained["difference"] == pytest.approx(result["RSum"] - found["RSum"])
    assert [gained["low"], gained["high"]] == interval((sums[1] - sums[0]).tolist())
    assert found["intervals"]["RSum"] == interval(sums[0].tolist())
    # Some of these heads' changes are losses, and some may be either.
    assert min(one["low"] for direction in DIRECTIONS for one in found["difference"][direction].values()) < 0


def test_intervals_of_the_answers_among_the_candidates_are_those_of_a_plain_bootstrap(cache_path: Path, tmp_path: Path) -> None:
    found = evaluated(cache_path, tmp_path, run=SECOND, candidates=str(K), candidates_run=FIRST)["two_stage"]
    split = load_split(FeatureCache(cache_path), "test", None, 2**30)
    score_AB = all_scores(load_head(FIRST, FeatureCache(cache_path), torch.device("cpu"))[0], split).mean_AB.numpy()
    answers = split.answers.tolist()
    best_texts = np.argsort(-score_AB.T, axis=1, kind="stable")[:, :K]
    there = {
        "text_to_video": [answers[a] in order[:K] for a, order in enumerate(np.argsort(-score_AB, axis=1, kind="stable").tolist())],
        "video_to_text": [b in [answers[a] for a in best_texts[b]] for b in range(len(best_texts))],
    }
    rng = np.random.default_rng(SEED)
    for direction in DIRECTIONS:
        holds = np.array(there[direction])
        shares = [100 * holds[draw].mean() for draw in rng.integers(len(holds), size=(2000, len(holds)))]
        assert found["answers_among_candidates"][direction] == pytest.approx(100 * holds.mean())
        assert 0 < holds.mean() < 1
        assert found["intervals"]["answers_among_candidates"][direction] == pytest.approx(np.quantile(shares, [0.025, 0.975]).tolist())
