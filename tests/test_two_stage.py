"""Re-ranking the candidates of another run: ranks against a plain reading, no pass over all pairs, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import search
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.metrics import RankCounter, Ranks
from evaluate import EvaluateOptions, main
from evaluate.compare import CompareOptions
from evaluate.compare import main as compare
from evaluate.ranks import RANKS_FILES
from search import SearchOptions
from tests.all_scores import all_scores
from train_head import TrainOptions
from train_head.heads import Head, HeadConfig, make_head
from train_head.run import load_head, save_run
from train_head.scoring import cost
from train_head.scoring.candidates import CandidateCollector
from train_head.scoring.ranks import answers_there, two_stage_ranks
from train_head.scoring.rerank import Pairs, score_pairs
from train_head.scoring.splits import load_split
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep

PAIR_BY_PAIR = "tests.pair_by_pair:PairByPair"
Scores = NDArray[np.float32]


def plain_ranks(
    first_QE: Scores, second_QE: Scores, owner_E: list[int], own_Q: list[int], k: int
) -> tuple[list[tuple[int, int]], float, int]:
    """The best and worst rank of every query, the percentage of answers among the candidates, and the queries with ties at the boundary.

    Entry e belongs to video owner_E[e]; a video stands where the best of its entries does.
    """
    ranks, there, ties = [], 0, 0
    for first_E, second_E, own in zip(first_QE.tolist(), second_QE.tolist(), own_Q, strict=True):
        order = sorted(range(len(owner_E)), key=lambda e, scores=first_E: (-scores[e], e))  # type: ignore[misc]
        candidates = set(order[:k])
        ties += len(order) > k and first_E[order[k]] == first_E[order[k - 1]]
        # A candidate stands before all others, whatever its score.
        keys = [(1, second_E[e]) if e in candidates else (0, first_E[e]) for e in range(len(owner_E))]
        place = {video: max(key for key, owner in zip(keys, owner_E, strict=True) if owner == video) for video in owner_E}
        ranks.append((1 + sum(key > place[own] for key in place.values()), sum(key >= place[own] for key in place.values())))
        there += place[own][0]
    return ranks, 100 * there / len(own_Q), ties


def pairs_of(ranks: Ranks) -> list[tuple[int, int]]:
    return list(zip(ranks.best_Q.tolist(), ranks.worst_Q.tolist(), strict=True))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6), videos=st.integers(1, 9), k=st.integers(1, 20), levels=st.integers(1, 6))
def test_ranks_are_those_of_a_plain_reading(data: st.DataObject, seed: int, videos: int, k: int, levels: int) -> None:
    """Scores of few values, so that they tie everywhere, in blocks of any size and order."""
    captions = data.draw(st.lists(st.integers(1, 3), min_size=videos, max_size=videos))
    rng = np.random.default_rng(seed)
    answer_A = rng.permutation(np.repeat(np.arange(videos), captions))
    first_AB, second_AB = rng.integers(0, levels, (2, len(answer_A), videos)).astype(np.float32)
    counter, collector = RankCounter(answer_A, videos), CandidateCollector(len(answer_A), videos, k)
    owner_groups = np.array_split(rng.permutation(videos), data.draw(st.integers(1, videos)))
    blocks = [
        (texts, columns) for texts in owner_groups for columns in np.array_split(np.arange(videos), data.draw(st.integers(1, videos)))
    ]
    for place in rng.permutation(len(blocks)):
        texts = torch.from_numpy(np.flatnonzero(np.isin(answer_A, blocks[place][0])))
        columns = torch.from_numpy(blocks[place][1])
        scores_SAB = torch.from_numpy(first_AB)[texts][:, columns][None]
        counter.update(scores_SAB, texts, columns)
        collector.update(scores_SAB, texts, columns)
    candidates = collector.candidates()
    assert candidates.video_AK.shape == (len(answer_A), min(k, videos))
    assert candidates.text_BK.shape == (videos, min(k, len(answer_A)))
    of_texts, of_videos = counter.ranks()
    rows = np.arange(len(answer_A))[:, None]
    found = two_stage_ranks(of_texts, candidates.video_AK, second_AB[rows, candidates.video_AK], answer_A)
    expected, there, ties = plain_ranks(first_AB, second_AB, list(range(videos)), answer_A.tolist(), k)
    assert pairs_of(found) == expected
    assert 100 * answers_there(candidates.video_AK, answer_A).mean() == pytest.approx(there)
    assert candidates.boundary_ties[0] == ties
    owner_BK = answer_A[candidates.text_BK]
    found = two_stage_ranks(of_videos, owner_BK, second_AB.T[np.arange(videos)[:, None], candidates.text_BK], of_videos.query_Q)
    expected, there, ties = plain_ranks(first_AB.T, second_AB.T, answer_A.tolist(), list(range(videos)), k)
    assert pairs_of(found) == expected
    assert 100 * answers_there(owner_BK, np.arange(videos)).mean() == pytest.approx(there)
    assert candidates.boundary_ties[1] == ties


def random_run(cache: FeatureCache, path: Path, name: str, trained_on: list[str]) -> str:
    """A run of a head with random parameters."""
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(cache.dimension, max_words=64, logit_scale=100.0, max_frames=40)).requires_grad_(False)
    for parameter in head.parameters():
        if parameter.ndim:
            parameter.add_(torch.randn(parameter.shape), alpha=0.3 * parameter.shape[-1] ** -0.5)
    options = {"max_frames": 5 if name == "wti" else None, "seed": 0, "head": name}
    record = {
        **{"weights": cache.weights, "selected_on": "val", "train_counts": {"videos_scored": len(trained_on)}},
        "trained_with": {"version": 1, "options": options},
    }
    path.mkdir()
    save_run(path, head, record, trained_on)
    return str(path)


@pytest.fixture(scope="module")
def runs(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By head: two of the test videos were trained on by xpool, and one of these and a third by wti, of 5 frames a video."""
    cache, folder = FeatureCache(cache_path), tmp_path_factory.mktemp("runs")
    test = load_split(cache, "test", None, 2**30).videos.ids
    trained = {"xpool": test[:2], "wti": test[1:3]}
    return {name: random_run(cache, folder / name, name, trained[name]) for name in trained} | {"folder": str(folder)}


def evaluation(cache_path: Path, out: Path, run: str, **given: Any) -> EvaluateOptions:
    return EvaluateOptions(cache=cache_path, run=run, out=out, device="cpu", report=False, quiet=True, **given)


def ranks_on_disk(out: Path) -> list[list[tuple[int, int]]]:
    tables = [pd.read_parquet(out / name) for name in RANKS_FILES.values()]
    return [list(zip(table["best_rank"], table["worst_rank"], strict=True)) for table in tables]


@pytest.mark.parametrize("run", ["xpool", "zero-shot:glccl", f"zero-shot:{PAIR_BY_PAIR}"])
def test_with_all_as_candidates_the_ranks_are_those_of_all_pairs(
    cache_path: Path, tmp_path: Path, runs: dict[str, str], run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train_head.scoring.pairs.FRAMES_PER_BLOCK", {"cpu": 60})
    main(evaluation(cache_path, tmp_path / "all", runs.get(run, run)))
    main(evaluation(cache_path, tmp_path / "two", runs.get(run, run), candidates="24", candidates_run=runs["wti"]))
    for name in RANKS_FILES.values():
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    everything, two = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("all", "two"))
    for name in ("text_to_video", "video_to_text", "RSum", "intervals"):
        assert two[name] == everything[name]
    assert two["two_stage"]["answers_among_candidates"] == {"text_to_video": 100, "video_to_text": 100}
    assert [stage["pairs"] for stage in two["two_stage"]["stages"]] == [24 * 12] * 2


def test_a_few_candidates_are_ranked_and_reported_as_a_plain_reading_says(
    cache_path: Path, cache: FeatureCache, tmp_path: Path, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    matrices = []
    for name, frames in (("wti", 5), ("xpool", None)):
        head, _ = load_head(runs[name], cache, torch.device("cpu"))
        split = load_split(cache, "test", None, 2**30, frames)
        matrices.append(all_scores(head, split).mean_AB.numpy())
    first_AB, second_AB = matrices
    videos, answers = list(range(12)), split.answers.tolist()
    out = main(evaluation(cache_path, tmp_path / "out", runs["xpool"], candidates="3", candidates_run=runs["wti"]))
    of_texts, texts_there, _ = plain_ranks(first_AB, second_AB, videos, answers, 3)
    of_videos, videos_there, _ = plain_ranks(first_AB.T, second_AB.T, answers, videos, 3)
    assert ranks_on_disk(out) == [of_texts, of_videos]
    result = json.loads((out / "metrics.json").read_text())
    stages = result["two_stage"]
    assert (stages["run"], stages["candidates"], stages["max_frames"], result["max_frames"]) == (runs["wti"], 3, 5, None)
    assert stages["answers_among_candidates"] == pytest.approx({"text_to_video": texts_there, "video_to_text": videos_there})
    assert texts_there < 100
    mean_first = np.mean([sum(plain_ranks(first_AB, first_AB, videos, answers, 3)[0][a]) / 2 for a in range(24)])
    assert stages["text_to_video"]["MnR"] == pytest.approx(mean_first)
    best = np.argsort(-first_AB, axis=1, kind="stable")[:, :3], np.argsort(-first_AB.T, axis=1, kind="stable")[:, :3]
    asked = {(a, b) for a in range(24) for b in best[0][a].tolist()} | {(a, b) for b in range(12) for a in best[1][b].tolist()}
    assert [stage["pairs"] for stage in stages["stages"]] == [24 * 12, len(asked)]
    # Three of the test videos are training videos of one run or the other.
    assert (result["trained_on"], stages["trained_on"]) == (3, 2)
    lines = capsys.readouterr().out.splitlines()
    shown = {line.split("  ")[0] or line.split("  ")[1]: line.split() for line in lines if line}
    gained = result["RSum"] - stages["RSum"]
    assert shown[f"first stage, {runs['wti']}"][-1] == f"{stages['RSum']:.1f}"
    assert shown["difference"][-1] == f"{gained:+.1f}"
    assert f"3 of the 12 videos of test have the ids of videos that it or {runs['wti']} was trained on" in "\n".join(lines)
    # Another number of candidates is another setting, not another seed of this one.
    main(evaluation(cache_path, tmp_path / "more", runs["xpool"], candidates="4", candidates_run=runs["wti"], json=True))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["two_stage"]["candidates"] == 4
    rows = compare(CompareOptions(results=(tmp_path / "out", tmp_path / "more")))["rows"]
    assert [re.search(r"candidates (\d)", row["run"])[1] for row in rows] == ["3", "4"]  # type: ignore[index]


class Counting(torch.nn.Module):
    """Counts the pairs of every call of a head's `score_block`."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.pairs, self._score = 0, head.score_block

    def forward(self, texts: Any, videos: Any) -> torch.Tensor:
        scores_SAB = self._score(texts, videos)
        self.pairs += scores_SAB[0].numel()
        return scores_SAB


@pytest.mark.parametrize("memory_budget", [0, 2**30])
def test_a_head_of_expensive_pairs_scores_few_besides_those_asked_for(
    cache: FeatureCache, memory_budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = load_split(cache, "train", None, 2**30)
    head = make_head(PAIR_BY_PAIR, HeadConfig(cache.dimension, 64, 100.0))
    score_AB = all_scores(head, split).mean_AB
    generator = np.random.default_rng(0)
    videos = generator.permuted(np.broadcast_to(np.arange(40), score_AB.shape), axis=1)[:, :3]
    texts = np.broadcast_to(np.arange(len(videos))[:, None], videos.shape)
    # The first text has one pair alone.
    pairs = Pairs.of(np.concatenate([texts[1:].ravel(), [0]]), np.concatenate([videos[1:].ravel(), videos[0, :1]]), 40)
    counting = Counting(head)
    monkeypatch.setattr(head, "score_block", counting)
    score_P = score_pairs(head, split.texts, split.videos, pairs, videos[:, 0], memory_budget)
    assert torch.equal(score_P, score_AB[pairs.text_P, pairs.video_P])
    # Videos of one length class fill a block of 48, and a text's pairs lie in at most three of them.
    assert counting.pairs <= len(videos) * 3 * 48


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"candidates": None}, "--candidates-run needs a number of candidates: add one"),
        ({"candidates": "2,3"}, "--candidates 2,3 with --candidates-run must be a single number"),
        ({"candidates": "25"}, "--candidates 25: the gallery has 12 videos and 24 texts: use 1 to 24"),
        ({"candidates": "0"}, "--candidates 0: the gallery has 12 videos and 24 texts: use 1 to 24"),
        ({"dual_softmax": True}, "--dual-softmax scores all pairs with --run"),
        ({"query_bank": 5}, "--query-bank scores all pairs with --run"),
        ({"query_bank": 0}, "--query-bank scores all pairs with --run"),
        ({"save_scores": Path("scores.npy")}, "--save-scores scores all pairs with --run"),
        ({"run_file": Path("scores.trec")}, "--run-file scores all pairs with --run"),
        ({"zero_shot_tau_from": "val"}, "--zero-shot-tau-from scores all pairs with --run"),
        ({"index": Path("index")}, "--index and --candidates-from find candidates with an index"),
        ({"candidates_from": "pooled"}, "--index and --candidates-from find candidates with an index"),
        ({"ties": "reference"}, "--candidates credits ties by expectation"),
        ({"candidates_run": "nowhere"}, "--candidates-run: --run nowhere: there is no such folder"),
        ({"candidates_run": "zero-shot:xpool"}, "--candidates-run: --run zero-shot:xpool: head xpool scores nothing before training"),
    ],
)
def test_what_does_not_go_with_another_run_is_refused_before_the_work(
    cache_path: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as found:
        main(evaluation(cache_path, tmp_path / "out", "zero-shot:mean", **{"candidates": "2", "candidates_run": "zero-shot:mean"} | given))
    assert "\n" not in str(found.value)
    assert not (tmp_path / "out" / "metrics.json").exists()


def test_a_report_that_cannot_be_written_is_said(cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = EvaluateOptions(cache_path, "zero-shot:mean", tmp_path, candidates="2", candidates_run="zero-shot:glim-global", device="cpu")
    main(options)
    assert capsys.readouterr().err.startswith("note: no report.html is written, because it shows scores of all pairs")
    assert not (tmp_path / "report.html").exists()


LINE = re.compile(
    r"with head tests.pair_by_pair:PairByPair takes ([\d,]+) TFLOP, about ([\d.]+) (s|min|h) at the ([\d,]+) TFLOP/s measured here"
)
SECONDS = {"s": 1, "min": 60, "h": 3600}


def check_line(line: str, flops: float) -> None:
    """The numbers of a line agree, up to their rounding."""
    found = LINE.search(line)
    assert found is not None, line
    total, rate = float(found[1].replace(",", "")), float(found[4].replace(",", ""))
    assert total == pytest.approx(flops / 1e12, rel=0.005)
    assert float(found[2]) * SECONDS[found[3]] == pytest.approx(total / rate, rel=0.02, abs=SECONDS[found[3]])


@pytest.fixture
def everything_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "SAID_FROM_S", 0.0)


@pytest.fixture
def everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "REFUSED_FROM_S", 0.0)


def test_the_cost_is_said_before_the_work(
    cache_path: Path, tmp_path: Path, everything_is_said: None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = EvaluateOptions(cache_path, f"zero-shot:{PAIR_BY_PAIR}", tmp_path / "out", device="cpu", report=False)
    main(options)
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("scoring 24 x 12 pairs with head")
    check_line(line, 24 * 12 * 1e15)
    main(evaluation(cache_path, tmp_path / "out", "zero-shot:mean"))
    main(evaluation(cache_path, tmp_path / "out", f"zero-shot:{PAIR_BY_PAIR}"))
    assert capsys.readouterr().err == ""
    search.main(SearchOptions(cache=cache_path, run=f"zero-shot:{PAIR_BY_PAIR}", query=("a ring",), top=2, device="cpu"))
    first, second = capsys.readouterr().err.splitlines()[:2]
    assert first.startswith("scoring 62 videos for the query with head")
    check_line(first, 62 * 1e15)
    assert second == (f"note: results are not compared with those of random words, which takes 1,240,000 TFLOP with head {PAIR_BY_PAIR}")


@pytest.mark.long
def test_what_takes_a_day_is_refused_before_the_work(cache_path: Path, tmp_path: Path, everything_is_refused: None) -> None:
    run, out = f"zero-shot:{PAIR_BY_PAIR}", tmp_path / "out"
    with pytest.raises(UserError, match=r"^scoring 24 x 12 pairs .* with --candidates K --candidates-run RUN$") as found:
        main(evaluation(cache_path, out, run))
    check_line(str(found.value), 24 * 12 * 1e15)
    with pytest.raises(UserError, match=r"^scoring 24 x 12 pairs, and more for the corrected ranks, with head .*: re-rank") as found:
        main(evaluation(cache_path, out, run, dual_softmax=True, query_bank=10))
    check_line(str(found.value), (2 * 24 * 12 + 10 * 12) * 1e15)
    with pytest.raises(UserError, match=r"^scoring 24 x 12 pairs, and more for --candidates, with head .*: re-rank") as found:
        main(evaluation(cache_path, out, run, candidates="3,5", candidates_from="both"))
    check_line(str(found.value), (24 * 12 + 2 * 24 * (3 + 5)) * 1e15)
    with pytest.raises(UserError, match=r"^re-ranking up to 108 pairs with head .*: use fewer --candidates$") as found:
        main(evaluation(cache_path, out, run, candidates="3", candidates_run="zero-shot:mean"))
    check_line(str(found.value), (24 + 12) * 3 * 1e15)
    with pytest.raises(UserError, match=r"^scoring 24 x 12 pairs in the first stage .*: name a faster run with --candidates-run"):
        main(evaluation(cache_path, out, "zero-shot:mean", candidates="3", candidates_run=run))
    assert not (out / "metrics.json").exists()
    with pytest.raises(
        UserError, match=r"^validation, 4 times 20 x 10 pairs, with head .*: use fewer --epochs, or name fewer videos"
    ) as found:
        train_head.main(TrainOptions(cache_path, tmp_path / "run", head=PAIR_BY_PAIR, epochs=3, temporal="none", device="cpu", quiet=True))
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").iterdir())
    options = SearchOptions(cache=cache_path, run=run, top=2, device="cpu", quiet=True)
    with pytest.raises(UserError, match=r"^scoring 62 videos for the query with head .*: score fewer videos with --candidates$"):
        search.main(SearchOptions(**vars(options) | {"query": ("a ring",)}))
    with pytest.raises(UserError, match=r"^scoring 5 videos for each of 2 queries with head .*: use fewer --candidates$"):
        search.main(SearchOptions(**vars(options) | {"query": ("a ring", "a cross"), "each": True, "candidates": 5}))
    with pytest.raises(UserError, match=r"^scoring \d+ texts with head .*: name fewer texts with --captions$"):
        search.main(SearchOptions(**vars(options) | {"video": "video0"}))


def sweep_of_one(cache_path: Path, out: Path, **given: Any) -> Any:
    return SweepOptions(
        cache=cache_path, out=out, head=PAIR_BY_PAIR, temporal="none", seeds=1, device="cpu", processes=1, batch_size="40", **given
    )


def test_a_sweep_whose_scoring_takes_a_day_is_refused_before_the_first_run(
    cache_path: Path, tmp_path: Path, everything_is_refused: None
) -> None:
    options = sweep_of_one(cache_path, tmp_path / "sweep", epochs="3", quiet=True)
    with pytest.raises(UserError, match=r"^validation, 4 times 20 x 10 pairs, with head ") as found:
        sweep(options)
    check_line(str(found.value), 4 * 20 * 10 * 1e15)
    assert not list((tmp_path / "sweep").glob("*/run.json"))


def test_a_sweep_says_what_its_scoring_costs_before_the_first_run(
    cache_path: Path, tmp_path: Path, everything_is_said: None, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep(sweep_of_one(cache_path, tmp_path / "sweep", epochs="1"))
    lines = [line for line in capsys.readouterr().err.splitlines() if LINE.search(line)]
    assert [line.split(" with head")[0] for line in lines] == [
        "validation, 2 times 20 x 10 pairs,",
        "scoring 24 x 12 pairs of split 'test' after each run",
    ]


def test_a_few_candidates_of_a_text_are_measured_as_the_block_that_they_take(
    cache: FeatureCache, everything_is_said: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same work is said if it comes as one video a text, each of which takes a block, and not if blocks are full."""
    split = load_split(cache, "train", None, 2**30)
    head = make_head(PAIR_BY_PAIR, HeadConfig(cache.dimension, 64, 100.0))
    for at_once, lines in ((None, 0), (1, 1), (48, 0)):
        cost.check_cost(head, split.texts, split.videos, "work", 1e11, "none", quiet=False, videos_at_once=at_once)
        assert capsys.readouterr().err.count("\n") == lines


@pytest.mark.parametrize(
    ("flops", "said"),
    [(72_000, "0.072 MFLOP"), (5.1e6, "5.1 MFLOP"), (1.654e11, "165 GFLOP"), (1.654e14, "165 TFLOP"), (3.3123e16, "33,100 TFLOP")],
)
def test_flops_are_said_in_the_unit_that_suits_them(flops: float, said: str) -> None:
    assert cost.work(flops) == said
