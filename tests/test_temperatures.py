"""The temperatures tau and kappa of a run: in every path that scores, in what is recorded, and in the names of a sweep's runs."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.metrics import retrieval_metrics
from evaluate import EvaluateOptions
from evaluate.compare.results import Result, group_by_seed
from search import SearchOptions
from search.searcher import Searcher
from tests.caches import BUDGET, captions_of
from tests.choice import long_but
from tests.features import D, pad, random_features, text_batch
from tests.plain_heads import plain_scores, rounding
from train_head import TrainOptions
from train_head.glim import glim_scores
from train_head.heads import HEADS, Execution, Head, HeadConfig, VideoBatch, make_head
from train_head.run import load_head
from train_head.scoring.splits import load_split
from train_head.settle import settled
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep
from train_head.sweep.runs import run_name

TAU, KAPPA = 1.3, 0.2
CPU = torch.device("cpu")
WITH_TEMPERATURES = [name for name, kind in HEADS.items() if kind.TEMPERATURES]
WORD_COUNTS, FRAME_COUNTS = [4, 1, 7], [3, 5, 1, 6]


def head_at(name: str, execution: Execution, tau: float = TAU, kappa: float = KAPPA) -> Head:
    """A head with matrices far from the identity."""
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(D, max_words=9, logit_scale=1.0, max_frames=8, tau=tau, kappa=kappa), execution)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            if key != "logit_scale":
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return head


def scored(head: Head, features: tuple[list[Tensor], list[Tensor], list[Tensor]]) -> Tensor:
    sentences, words, frames = features
    return head.scores(head.encode_texts(text_batch(sentences, words)), head.encode_videos(VideoBatch(*pad(frames))))


@pytest.mark.parametrize("name", WITH_TEMPERATURES)
@pytest.mark.parametrize("tau", long_but([0.01], [TAU, 0.01, 40.0]))
def test_every_way_of_scoring_uses_the_temperatures_of_the_head(name: str, tau: float) -> None:
    """Compiled with and without gradients, for few texts, and plain in float64; against the equations in float64."""
    features = random_features(torch.Generator().manual_seed(3), WORD_COUNTS, FRAME_COUNTS)
    parameters = {key: value.detach().double() for key, value in head_at(name, Execution()).named_parameters()}
    expected = plain_scores(name, *features, parameters, tau=tau, kappa=KAPPA)
    usual = plain_scores(name, *features, parameters)
    allowed = rounding(name, *features, parameters, tau=tau, kappa=KAPPA)
    assert ((expected - usual).abs() > 10 * allowed).any(), "the paper's temperatures would pass too"
    for execution in (Execution(), Execution(few_texts=True)):
        with torch.no_grad():
            assert ((scored(head_at(name, execution, tau), features) - expected).abs() <= allowed).all()
    sentences, words, frames = ([x.double() for x in rows] for rows in features)
    found = scored(head_at(name, Execution(), tau).double(), (sentences, words, frames))
    assert (found - expected).abs().max() < 1e-9
    head = head_at(name, Execution(), tau)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    trained = scored(head, features)
    assert ((trained - expected).abs() <= allowed).all()
    (trained * weight).sum().backward()
    exact = {key: value.requires_grad_() for key, value in parameters.items() if key != "logit_scale"}
    (plain_scores(name, *features, exact, tau=tau, kappa=KAPPA) * weight).sum().backward()
    for key, value in exact.items():
        ours = head.get_parameter(key).grad
        assert value.grad is not None
        assert ours is not None
        # The reference makes P1 ... P6 as large as the longest text here.
        assert (ours - value.grad).norm() <= 2e-4 * value.grad.norm() + 1e-6, key


def test_frames_are_weighed_at_the_temperature_of_the_head() -> None:
    sentences, words, frames = random_features(torch.Generator().manual_seed(4), WORD_COUNTS, FRAME_COUNTS)
    found = head_at("glccl", Execution()).frame_weights(text_batch(sentences, words), VideoBatch(*pad(frames)))
    assert found.sentence_ABF is not None
    assert found.word_ABLF is not None
    for a, (sentence, of_text) in enumerate(zip(sentences, words, strict=True)):
        for b, video in enumerate(frames):
            torch.testing.assert_close(found.sentence_ABF[a, b, : len(video)], (video @ sentence / TAU).softmax(dim=0))
            weight_LF = found.word_ABLF[a, b, : len(of_text), : len(video)]
            torch.testing.assert_close(weight_LF, (of_text @ video.T / TAU).softmax(dim=1))


@pytest.fixture
def evaluation(cache_path: Path, tmp_path: Path) -> EvaluateOptions:
    return EvaluateOptions(cache=cache_path, run="zero-shot:glccl", out=tmp_path / "out", device="cpu", report=False, quiet=True)


@pytest.fixture
def training(cache_path: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(cache=cache_path, out=tmp_path / "run", epochs=1, batch_size=32, device="cpu", quiet=True)


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def reference(cache: FeatureCache, split: str, tau: float, kappa: float) -> tuple[Tensor, Any]:
    """The mean of the four scores of a split by plain tensor operations in float64, and the answers."""
    loaded = load_split(cache, split, None, BUDGET)
    sentence_AD = loaded.texts.sentences.gather(range(len(loaded.texts.texts)))[0].double()
    words = [loaded.texts.words.gather([i])[0].double() for i in range(len(sentence_AD))]
    frames = [loaded.videos.frames.gather([i])[0].double() for i in range(len(loaded.videos.ids))]
    return glim_scores(sentence_AD, *pad(words), *pad(frames), tau=tau, kappa=kappa).mean(dim=0), loaded.answers


def test_evaluation_at_other_temperatures_says_and_records_them(
    evaluation: EvaluateOptions, cache: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all pairs and of candidates."""
    result = metrics(evaluate.main(replace(evaluation, tau=0.05, kappa=1.0, candidates="12")))
    score_AB, answers = reference(cache, "test", 0.05, 1.0)
    expected = retrieval_metrics(score_AB, answers)
    assert result["RSum"] == pytest.approx(expected["RSum"])
    assert result["RSum"] != pytest.approx(retrieval_metrics(*reference(cache, "test", 5.0, 0.01))["RSum"])
    assert result["candidates"][0]["lost"] == {"R@1": 0, "R@5": 0, "R@10": 0}
    assert result["temperatures"]["instead_of"] == {"tau": 5.0, "kappa": 0.01}
    assert (result["temperatures"]["tau"], result["temperatures"]["kappa"]) == (0.05, 1.0)
    said = capsys.readouterr().out
    assert "zero-shot:glccl: tau 0.05 instead of the 5 of the paper" in said
    assert "zero-shot:glccl: kappa 1 instead of the 0.01 of the paper" in said


def test_a_run_keeps_its_temperatures(training: TrainOptions, evaluation: EvaluateOptions, cache: FeatureCache) -> None:
    """In evaluation, in the moments of search, and on resume; a given value replaces them."""
    run = train_head.main(replace(training, tau=0.5, kappa=0.1, temporal="none"))
    record = json.loads((run / "run.json").read_text())
    assert (record["head"]["tau"], record["head"]["kappa"]) == (0.5, 0.1)
    result = metrics(evaluate.main(replace(evaluation, run=str(run), split="val")))
    assert result["RSum"] == pytest.approx(record["val"]["RSum"])
    assert (result["temperatures"]["tau"], result["temperatures"]["instead_of"]) == (0.5, {})
    same = metrics(evaluate.main(replace(evaluation, run=str(run), split="val", tau=0.5)))
    assert same["temperatures"] == result["temperatures"]
    other = metrics(evaluate.main(replace(evaluation, run=str(run), split="val", tau=50.0)))
    assert other["temperatures"]["instead_of"] == {"tau": 0.5}
    own = evaluate.main(replace(evaluation, run=str(run), split="val", out=evaluation.out.parent / "own"))
    labels = [group.label for group in group_by_seed([Result.read(own), Result.read(evaluation.out)])]
    assert labels == [f"{run} (evaluation tau 0.5)", f"{run} (evaluation tau 50.0)"]
    caption = captions_of(cache, 1)[0]
    sentence_D = cache.texts([caption], BUDGET).sentences.gather([0])[0][0]
    for tau in (None, 2.0):
        searcher = Searcher(SearchOptions(cache=training.cache, run=str(run), tau=tau, device="cpu", quiet=True))
        assert ("tau 2 instead of 0.5, which the run has" in searcher.scored_by) == (tau is not None)
        hit = next(searcher.search([caption])).hits[0]
        expected_F = (cache.videos([hit.video_id], BUDGET).frames.gather([0])[0] @ sentence_D / (tau or 0.5)).softmax(dim=0)
        np.testing.assert_allclose(hit.moment.weight_F, expected_F, atol=0.02)
    assert train_head.main(replace(training, tau=0.5, kappa=0.1, temporal="none", resume=True)) == run
    with pytest.raises(UserError, match=r"--tau was 0\.5 and is 5\.0"):
        train_head.main(replace(training, kappa=0.1, temporal="none", resume=True))


def test_a_run_of_before_has_the_paper_s_temperatures(training: TrainOptions, evaluation: EvaluateOptions) -> None:
    run = train_head.main(training)
    result = metrics(evaluate.main(replace(evaluation, run=str(run))))
    record = json.loads((run / "run.json").read_text())
    for name in ("tau", "kappa"):
        del record["head"][name], record["trained_with"]["options"][name]
    (run / "run.json").write_text(json.dumps(record))
    head, _ = load_head(str(run), FeatureCache(training.cache), CPU)
    assert head.temperatures() == {"tau": 5.0, "kappa": 0.01}
    assert train_head.main(replace(training, resume=True)) == run
    before = Result.read(evaluate.main(replace(evaluation, run=str(run), out=evaluation.out.parent / "before")))
    assert before.metrics["RSum"] == result["RSum"]
    del before.metrics["temperatures"]
    before.metrics["trained_with"]["options"]["seed"] = 1
    assert [len(group.results) for group in group_by_seed([before, Result.read(evaluation.out)])] == [2]
    other = Result.read(evaluate.main(replace(evaluation, run=str(run), tau=9.0)))
    assert [len(group.results) for group in group_by_seed([before, other])] == [1, 1]


def test_a_sweep_names_runs_as_before_the_temperatures(training: TrainOptions, cache: FeatureCache) -> None:
    """The names are those that version 0.5.0 gives to these runs, so that a folder swept then is not trained again."""
    options = SweepOptions(cache=training.cache, out=training.out, seeds=1, epochs="1", batch_size="32", device="cpu", quiet=True)
    names = {"glccl": "glccl-seed0-523d7244caa7", "mean": "mean-seed0-7a6f49c842bb"}
    for head, name in names.items():
        assert run_name(settled(replace(training, head=head), cache), cache, "test") == name
    training.out.mkdir()
    pd.DataFrame({"run": [*names.values()]}).to_csv(training.out / "runs.csv", index=False)
    assert sweep(replace(options, head="glccl,mean")) == training.out / "runs.csv"
    assert sweep(replace(options, tau="5,paper", kappa="0.01")) == training.out / "runs.csv"
    assert len(pd.read_csv(training.out / "runs.csv")) == 2


def test_a_sweep_varies_the_temperatures(training: TrainOptions) -> None:
    options = SweepOptions(
        cache=training.cache,
        out=training.out,
        seeds=1,
        epochs="1",
        batch_size="32",
        tau="paper,5,0.5",
        temporal="none",
        device="cpu",
        processes=1,
        quiet=True,
    )
    table = pd.read_csv(sweep(options))
    assert table[["tau", "kappa"]].to_numpy().tolist() == [[5.0, 0.01], [0.5, 0.01]]
    heads = [load_head(str(training.out / name), FeatureCache(training.cache), CPU)[0] for name in table["run"]]
    assert [head.config.tau for head in heads] == [5.0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "mean", "tau": 2.0}, "--tau 2: head mean has no tau: leave the option out"),
        ({"head": "wti", "kappa": 0.1}, "--kappa 0.1: head wti has no kappa: leave the option out"),
        ({"head": "xclip", "tau": 2.0}, "--tau 2: head xclip has no tau: leave the option out"),
        ({"tau": 0.0}, "--tau 0 must be a number above 0, from 1e-06 to 1e+06"),
        ({"tau": -1.0}, "--tau -1 must be a number above 0, from 1e-06 to 1e+06"),
        ({"kappa": float("nan")}, "--kappa nan must be a number above 0, from 1e-06 to 1e+06"),
        ({"kappa": float("inf")}, "--kappa inf must be a number above 0, from 1e-06 to 1e+06"),
    ],
)
def test_wrong_temperatures_are_refused_before_any_work(
    training: TrainOptions, evaluation: EvaluateOptions, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        train_head.main(replace(training, **change))
    assert not training.out.exists()
    head = change.pop("head", "glccl")
    if HEADS[head].TRAINED_ONLY:
        return
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate.main(replace(evaluation, run=f"zero-shot:{head}", **change))
    assert not evaluation.out.exists()
    with pytest.raises(UserError, match=re.escape(message)):
        Searcher(SearchOptions(cache=training.cache, run=f"zero-shot:{head}", device="cpu", quiet=True, **change))
