"""The benchmarks of heads, on few pairs: what they measure and say, not how fast it was."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import benchmarks.heads
import benchmarks.rerank.joint
import benchmarks.training
from benchmarks.heads import HeadsOptions, System
from benchmarks.rerank.joint import RerankOptions
from benchmarks.training import TrainingOptions, heads_to_time, make_cache, measure_heads
from data.base.errors import UserError
from data.cache import FeatureCache
from train_head.heads import HEADS
from train_head.scoring.splits import load_split


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    return make_cache(tmp_path_factory.mktemp("made") / "cache", 8, [5, 9])


@pytest.mark.long
def test_a_table_and_a_line_of_json_tell_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.heads, "caption_lengths", lambda _: ([3, 9, 6], [9]))
    out = benchmarks.heads.main(HeadsOptions(texts=20, videos=21, heads="glccl", repeats=1, out=tmp_path / "heads.json"))
    *table, line = capsys.readouterr().out.splitlines()
    figures = json.loads(line)
    assert figures == json.loads(out.read_text())["figures"]
    assert [row.split("`")[1] for row in table[2:]] == list(figures) == ["glccl"]
    assert {len(row.split("|")) for row in table} == {11}
    # Two matrices of 512 x 512, six over 32 words, and the logit scale.
    assert figures["glccl"]["parameters"] == 2 * 512**2 + 6 * 32**2 + 1
    assert (figures["glccl"]["texts"], figures["glccl"]["videos"], figures["glccl"]["times_glccl"]) == (20, 21, 1)
    assert figures["glccl"]["ms_a_query"] > 0


def test_every_head_and_temporal_encoder_is_measured() -> None:
    systems = benchmarks.heads.chosen("all")
    assert systems[0] == System("glccl")
    assert {system.head for system in systems if system.temporal == "none"} == HEADS.keys()
    assert System("mean", "seq-transf") in systems


def test_a_head_with_too_many_operations_scores_fewer_pairs(cache: FeatureCache) -> None:
    """mean takes 1,024 operations a pair."""
    head = System("mean").build(cache)
    assert benchmarks.heads.affordable(head, [5] * 100, 200, most_flops=1024 * 20_000) == (100, 200)
    assert benchmarks.heads.affordable(head, [5] * 100, 200, most_flops=1024 * 5_000) == (50, 100)
    assert benchmarks.heads.affordable(head, [5] * 100, 200, most_flops=1) == (1, 1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (HeadsOptions(heads="mean,best"), r"--heads mean,best: --head best is unknown: choose one of glccl"),
        (HeadsOptions(videos=0), r"--videos 0: give a number above 0"),
    ],
)
def test_wrong_options_are_refused(options: HeadsOptions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        benchmarks.heads.main(options)


def test_training_steps_of_heads_are_timed_beside_those_of_glccl(cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.training, "BATCH", 4)
    split = load_split(cache, "train", None, 10**9)
    rows = measure_heads(cache, split, TrainingOptions(head_steps=1, heads="mean", device="cpu"), "none")
    assert list(rows) == ["head glccl, temporal none", "head mean, temporal none"]
    glccl, mean = rows.values()
    assert glccl["wall seconds of a step against glccl"] == glccl["CPU seconds of a step against glccl"] == 1
    assert mean["CPU seconds of a step"] > 0
    assert mean["wall seconds of a step against glccl"] == pytest.approx(glccl["steps a second"] / mean["steps a second"])


def test_heads_with_too_many_operations_for_a_step_are_left_out_and_named(
    cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Between the 2 * 512 operations a pair of mean and those of wti.
    monkeypatch.setattr(benchmarks.training, "MOST_STEP_FLOPS", 3 * 128**2 * 10_000)
    assert heads_to_time(cache, "wti,mean") == ["glccl", "mean"]
    assert capsys.readouterr().err.startswith("head wti is left out: a step takes ")


SMALL = RerankOptions(candidates=3, words=5, frames=2, patches=2, dimension=32, threads=1, repeats=1)
"""A text of 5 words and 3 videos of 2 frames with 2 tokens."""


def test_re_ranking_scores_every_candidate(tmp_path: Path) -> None:
    for name in benchmarks.rerank.joint.HEADS:
        scores_SAB = benchmarks.rerank.joint.score(*benchmarks.rerank.joint.problem(name, SMALL))
        assert scores_SAB.shape[1:] == (1, 3)
        assert scores_SAB.isfinite().all()
    with pytest.raises(UserError, match="--candidates 0 must be at least 1"):
        benchmarks.rerank.joint.main(replace(SMALL, candidates=0, out=tmp_path / "joint.json"))


@pytest.mark.long
def test_re_ranking_is_timed_beside_other_heads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = benchmarks.rerank.joint.main(replace(SMALL, out=tmp_path / "joint.json"))
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads(out.read_text())["figures"]
    assert list(figures) == ["joint", "tight", "glccl"]
    assert figures["glccl"]["times glccl, processor"] == 1
    # 30 W^2 for each of 10 positions and 14 W^2 at the first, with W = 32, then attention and the cosine.
    assert figures["joint"]["MFLOP a pair"] == (314 * 32**2 + 32 * (8 * 10**2 + 4 * 10 + 2) + 2 * 32) / 1e6
