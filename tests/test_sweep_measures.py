"""What a sweep measures of each run: margins, variances and recalls by the kind of caption, and heads that score candidates alone.

Shape suffixes: A texts, B videos.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.listings import Listing
from evaluate import EvaluateOptions
from evaluate.report.collect import ReportCollector
from evaluate.report.variance import score_variance
from tests.all_scores import all_scores
from train_head import TrainOptions
from train_head.heads import HeadConfig, make_head
from train_head.run import load_head
from train_head.scoring.answers import Answers
from train_head.scoring.pairs import score_all_pairs
from train_head.scoring.splits import load_split
from train_head.settle import settled
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep
from train_head.sweep.runs import run_name
from train_head.training.first_stage import FirstRun

KINDS = ("order", "two words", "")


@pytest.fixture(scope="module")
def kinds_cache(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the demo's cache whose captions have kinds, some of them none. Two test videos share a caption."""
    path = tmp_path_factory.mktemp("kinds") / "cache"
    shutil.copytree(cache_path, path)
    listings = FeatureCache(path).listings
    [(name, source)] = listings.sources().items()
    captions = listings.captions(name)
    first, other = captions.index[captions["split"] == "test"][[0, -1]]
    assert captions["video_id"][first] != captions["video_id"][other]
    captions.loc[other, "caption"] = captions["caption"][first]
    listed = Listing(source, captions.assign(kind=[KINDS[i % 3] for i in range(len(captions))]), listings.videos(name))
    listings.complete(name, listed)
    return path


def options_for(cache: Path, out: Path, **given: Any) -> Any:
    usual = {"seeds": 1, "epochs": "1", "batch_size": "32", "lr": "1e-3", "device": "cpu", "processes": 1, "quiet": True}
    return SweepOptions(cache=cache, out=out, **(usual | {"temporal": "none"} | given))


def test_columns_say_what_the_scores_of_the_run_say(kinds_cache: Path, tmp_path: Path) -> None:
    """The scores of the saved run, pair by pair; a head with one score has margins alone. The report has the same negatives."""
    path = sweep(options_for(kinds_cache, tmp_path / "sweep", head="glccl,mean"))
    table, cache = pd.read_csv(path), FeatureCache(kinds_cache)
    split = load_split(cache, "test", None, 2**30)
    assert split.kinds is not None
    texts = split.texts.texts
    right_A = [{int(own) for own, text in zip(split.answers, texts, strict=True) if text == caption} for caption in texts]
    assert [len(right) for right in right_A].count(2) == 2
    for _, row in table.iterrows():
        head, _ = load_head(str(path.parent / row["run"]), cache, torch.device("cpu"))
        kept, scale = all_scores(head, split), float(head.scale().detach())
        found: dict[str, list[tuple[int, float, float, float]]] = {"": [], "order": [], "two words": []}
        for a, own in enumerate(split.answers.tolist()):
            score_B = kept.mean_AB[a].tolist()
            best = sorted(range(len(score_B)), key=lambda b, score_B=score_B: -score_B[b])  # type: ignore[misc]
            answer, wrong = next(b for b in best if b in right_A[a]), next(b for b in best if b not in right_A[a])
            both = (kept.score_SAB[:, a, [answer, wrong]].double() / scale).var(dim=0, unbiased=False).tolist()
            figures = (1 + sum(score > score_B[own] for score in score_B), (score_B[answer] - score_B[wrong]) / scale, *both)
            for kind in {"", split.kinds[a]}:
                found[kind].append(figures)
        for kind, of_kind in found.items():
            suffix = f" [{kind}]" if kind else ""
            rank_A, *means = np.array(of_kind).T
            assert row[f"test t2v R@1{suffix}"] == pytest.approx(100 * (rank_A == 1).mean())
            assert row[f"test t2v R@5{suffix}"] == pytest.approx(100 * (rank_A <= 5).mean())
            margin, of_answers, of_negatives = (float(mean_A.mean()) for mean_A in means)
            assert row[f"test margin{suffix}"] == pytest.approx(margin, abs=1e-6)
            names = ("variance of answers", "variance of negatives", "variance ratio")
            written = [row[f"test {name}{suffix}"] for name in names]
            if row["head"] == "mean":
                assert pd.isna(written).all()
            else:
                assert written == pytest.approx([of_answers, of_negatives, of_answers / of_negatives], rel=1e-5)
        collector = ReportCollector(Answers(texts, split.answers, len(split.videos.ids)), len(head.score_names()))
        score_all_pairs(head, split.texts, split.videos, split.answers, [collector], 2**30)
        negative_SA = collector.collected().negative_SA
        best_A = [max(kept.mean_AB[a, b].item() for b in right) for a, right in enumerate(right_A)]
        assert np.mean(best_A - negative_SA.mean(axis=0)) / scale == pytest.approx(row["test margin"], abs=1e-6)
        if row["head"] != "mean":
            # The report's variances are unbiased, like the CSC loss.
            of_report = score_variance(negative_SA, scale).mean() * (len(negative_SA) - 1) / len(negative_SA)
            assert of_report == pytest.approx(row["test variance of negatives"], rel=1e-5)
    assert pd.isna(table[["candidates", "candidates_run", "hard_negatives"]]).all(axis=None)
    assert not any("[]" in name or name.startswith("val margin") for name in map(str, table))


def test_a_csv_from_before_is_continued(cache_path: Path, tmp_path: Path) -> None:
    """Its rows lack the columns and keep their figures; its runs are not trained again."""
    options = options_for(cache_path, tmp_path / "sweep", head="mean", report_on="val")
    path = sweep(options)
    before = pd.read_csv(path)
    assert before["val margin"].notna().all()
    new = ("margin", "variance", "candidates", " [")
    old = before.drop(columns=[name for name in map(str, before) if any(part in name for part in new)])
    old = old.drop(columns="hard_negatives").assign(date="then")
    old.to_csv(path, index=False)
    after = pd.read_csv(sweep(replace(options, seeds=2)))
    assert after["seed"].tolist() == [0, 1]
    assert after["date"][0] == "then"
    assert pd.isna(after["val margin"]).tolist() == [True, False]
    pd.testing.assert_frame_equal(after[list(old)].iloc[:1], old)


def check_candidate_runs(options: Any, head: str) -> None:
    """A run of the sweep is the run of the training command, and its row says what the evaluation by candidates does."""
    path = sweep(options)
    table, split = pd.read_csv(path), options.report_on
    row = table[table["head"] == head].iloc[0]
    assert (row["candidates"], row["candidates_run"], row["hard_negatives"]) == (6, "zero-shot:mean", 2)
    alone = TrainOptions(
        cache=options.cache,
        out=options.out.parent / "alone",
        head=head,
        epochs=1,
        batch_size=32,
        lr=1e-3,
        candidates_run="zero-shot:mean",
        candidates=6,
        hard_negatives=2,
        device="cpu",
        quiet=True,
    )
    run = train_head.main(alone)
    assert (run / "head.safetensors").read_bytes() == (path.parent / row["run"] / "head.safetensors").read_bytes()
    record = json.loads((path.parent / row["run"] / "run.json").read_text())
    assert record["selected_by"].endswith("re-ranking the 6 best of zero-shot:mean")
    evaluated = EvaluateOptions(
        cache=options.cache, run=str(run), out=run / "results", split=split, candidates="6", candidates_run="zero-shot:mean", quiet=True
    )
    metrics = json.loads((evaluate.main(replace(evaluated, device="cpu")) / "metrics.json").read_text())
    assert row[f"{split} RSum"] == metrics["RSum"]
    assert row[f"{split} t2v R@5"] == metrics["text_to_video"]["R@5"]
    assert pd.isna(row[[f"{split} margin", f"{split} variance ratio"]]).all()


@pytest.fixture
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_heads_that_score_candidates_stand_beside_others(kinds_cache: Path, tmp_path: Path) -> None:
    options = options_for(
        kinds_cache,
        tmp_path / "sweep",
        head="mean,tight",
        temporal="auto",
        candidates_run="zero-shot:mean",
        candidates=6,
        hard_negatives=2,
    )
    check_candidate_runs(options, "tight")
    table = pd.read_csv(options.out / "runs.csv").set_index("head")
    assert pd.isna(table.loc["mean", ["candidates", "candidates_run", "hard_negatives"]]).all()
    assert table["test margin [order]"].notna()["mean"]
    of_kinds = [f"test t2v R@{k} [{kind}]" for k in (1, 5) for kind in KINDS[:2]]
    assert table[of_kinds].notna().all(axis=None)


def test_candidates_and_the_weights_of_the_first_run_tell_runs_apart(cache: FeatureCache, tmp_path: Path) -> None:
    run = settled(TrainOptions(cache.path, tmp_path, head="tight"), cache)
    by_candidates = [settled(replace(run, candidates_run="first", candidates=k), cache) for k in (6, 7)]
    firsts = [FirstRun("first", make_head("mean", HeadConfig(4, 4, 1.0)), None, weights) for weights in ("12ab", "34cd")]
    names = {run_name(one, cache, "test", first) for one in by_candidates for first in firsts}
    assert len(names | {run_name(run, cache, "test")}) == 5
    # Without candidates the first run of others in the grid does not matter.
    assert run_name(run, cache, "test", firsts[0]) == run_name(run, cache, "test")


@pytest.mark.long
@pytest.mark.parametrize("trained", [False, True])
def test_runs_by_candidates_side_by_side_and_evaluated(patches_cache_path: Path, tmp_path: Path, trained: bool) -> None:
    """A re-ranker that reads patch tokens; a first run that reads the same frames, or fewer; two processes; then evaluations."""
    first = "zero-shot:mean"
    if trained:
        given = TrainOptions(
            patches_cache_path, tmp_path / "first", head="dp", temporal="none", epochs=1, max_frames=2, device="cpu", quiet=True
        )
        first = str(train_head.main(replace(given, batch_size=32)))
    options = options_for(
        patches_cache_path,
        tmp_path / "sweep",
        head="joint",
        temporal="auto",
        seeds=2,
        report_on="val",
        candidates_run=first,
        candidates=5,
        hard_negatives=2,
    )
    tables = []
    for processes in (1, 2):
        path = sweep(replace(options, processes=processes, out=tmp_path / str(processes), evaluate=processes == 2))
        table = pd.read_csv(path)
        tables.append(table.drop(columns=[name for name in map(str, table) if "seconds" in name or name == "date"]))
    pd.testing.assert_frame_equal(tables[0], tables[1])
    for _, row in tables[1].iterrows():
        metrics = json.loads((tmp_path / "2" / row["run"] / "results" / "metrics.json").read_text())
        assert metrics["RSum"] == pytest.approx(row["val RSum"])
        assert metrics["two_stage"]["candidates"] == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"head": "mean,joint"}, "head joint is trained on the candidates of another run: add --candidates-run RUN"),
        ({"candidates": 5}, "--candidates: no head of --head scores by candidates: leave the option out, or add tight or joint"),
        ({"candidates_run": "zero-shot:mean"}, "--candidates-run: no head of --head scores by candidates"),
        ({"head": "tight", "candidates": 5}, "--candidates goes with --candidates-run: add it, or leave this out"),
        ({"head": "tight", "candidates_run": "zero-shot:mean", "candidates": 0}, "--candidates 0 must be at least 1"),
        ({"head": "mean,tight", "candidates_run": "nowhere"}, "--candidates-run: --run nowhere: there is no such folder"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_run_is_trained(
    patches_cache_path: Path, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    options = options_for(patches_cache_path, tmp_path / "sweep", **({"head": "mean", "temporal": "auto"} | given))
    with pytest.raises(UserError) as refused:
        sweep(options)
    assert message in str(refused.value)
    assert not list(tmp_path.glob("sweep/*"))
