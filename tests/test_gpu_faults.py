"""Faults on a GPU that `benchmarks.gpu` must notice, injected on the CPU."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.extraction import DEMO_CLIP
from benchmarks.gpu.correctness import encoding, evaluation, heads, processes, recorded, training
from benchmarks.gpu.correctness.bounds import largest, most
from benchmarks.gpu.correctness.caches import make_cache
from benchmarks.gpu.correctness.commands import Word, run
from benchmarks.gpu.correctness.evaluation import Evaluated
from benchmarks.gpu.correctness.losses import load_data
from benchmarks.gpu.place import Place
from data.metrics import RankCounter
from evaluate.ranks import RANKS_FILES, RankTables
from extract.encode.clip import load_clip
from extract.encode.pictures.resize import DeviceResize
from tests.choice import long_but
from train_head import TrainOptions
from train_head.heads import HEADS, Execution
from train_head.training.checkpoint import CHECKPOINT_FILE

SMALL = heads.sizes(small=True)
GALLERY, CAPTIONS = 12, 24
ROUNDING = 1e-4


def test_the_largest_value_is_nan_if_one_is() -> None:
    for values in ([1.0, float("nan")], [float("nan"), 1.0]):
        assert np.isnan(most(values))
    assert np.isnan(largest(torch.tensor([0.0, float("nan")])))


def test_a_gradient_or_score_that_is_not_finite_fails() -> None:
    head = SMALL.head("wti", "none", Execution())
    reference, features = heads.reference_of(head, SMALL)
    good = heads.result(head, features)
    assert most(reference.errors(good).values()) <= 1
    for value in (float("nan"), float("inf")):
        for name in good.gradients:
            spoilt = {**good.gradients, name: good.gradients[name] * 0 + value}
            assert not reference.errors(replace(good, gradients=spoilt))["gradient by bound"] <= 1
        assert not reference.errors(replace(good, scores_SAB=good.scores_SAB * value))["scores by bound"] <= 1


@pytest.mark.parametrize("name", long_but(("mean", "wti", "tmass"), [name for name in HEADS if name not in ("tight", "joint")]))
def test_a_doubled_gradient_of_any_parameter_is_noticed(name: str) -> None:
    head = SMALL.head(name, "none", Execution())
    reference, features = heads.reference_of(head, SMALL)
    good = heads.result(head, features)
    assert reference.wide == []
    for parameter, gradient in good.gradients.items():
        doubled = replace(good, gradients={**good.gradients, parameter: 2 * gradient})
        noticed = reference.errors(doubled)["gradient by bound"] > 1
        assert noticed == (parameter not in reference.rounding_only), parameter


@pytest.fixture
def evaluated() -> Evaluated:
    """The results that the program's own ranks and metrics give for random scores in float32."""
    rng = np.random.default_rng(0)
    answer_A = np.arange(CAPTIONS) % GALLERY
    score_AB = (rng.standard_normal((CAPTIONS, GALLERY)) + 2 * (answer_A[:, None] == np.arange(GALLERY))).astype(np.float32)
    return results_of(score_AB, answer_A)


def results_of(score_AB: np.ndarray, answer_A: np.ndarray) -> Evaluated:
    counter = RankCounter(answer_A, GALLERY)
    counter.update(torch.from_numpy(score_AB), torch.arange(CAPTIONS), torch.arange(GALLERY))
    tables = RankTables.of_ids([""] * CAPTIONS, answer_A, [""] * GALLERY, counter.ranks())
    ranks = dict(zip(RANKS_FILES, (tables.text_to_video, tables.video_to_text), strict=True))
    return Evaluated(score_AB, answer_A, ranks, {name: counter.metrics()[name] for name in RANKS_FILES})


def claims(found: Evaluated, exact_AB: np.ndarray) -> list[bool]:
    """Ranks follow, metrics follow, scores are close, ranks are close."""
    return list(evaluation.compare(found, {"float64": exact_AB}, ROUNDING)[1].values())


def test_what_rounding_alone_decides_holds(evaluated: Evaluated) -> None:
    exact_AB = evaluated.score_AB.astype(np.float64)
    assert claims(evaluated, exact_AB) == [True] * 4
    # Two videos that tie with the answer, and that rounding puts above it.
    tied_AB = exact_AB.copy()
    tied_AB[:, :2] = tied_AB[np.arange(CAPTIONS), evaluated.answer_A][:, None]
    moved_AB = tied_AB.astype(np.float32)
    moved_AB[2:12, :2] += np.float32(ROUNDING / 2)
    assert (
        not results_of(moved_AB, evaluated.answer_A)
        .ranks["text_to_video"]
        .equals(results_of(tied_AB.astype(np.float32), evaluated.answer_A).ranks["text_to_video"])
    )
    assert claims(results_of(moved_AB, evaluated.answer_A), tied_AB) == [True] * 4


@pytest.mark.parametrize(
    ("fault", "refuted"),
    [
        (lambda score_AB: np.roll(score_AB, 1, axis=1), [2, 3]),
        (lambda score_AB: score_AB * np.float32(1.001), [2]),
        (lambda score_AB: score_AB + np.float32(np.nan), [2]),
    ],
)
def test_wrong_scores_are_refuted(evaluated: Evaluated, fault: Callable[[np.ndarray], np.ndarray], refuted: list[int]) -> None:
    wrong_AB = fault(evaluated.score_AB)
    found = replace(evaluated, score_AB=wrong_AB) if np.isnan(wrong_AB).any() else results_of(wrong_AB, evaluated.answer_A)
    held = claims(found, evaluated.score_AB.astype(np.float64))
    assert all(not held[i] for i in refuted)


@pytest.mark.parametrize("direction", list(RANKS_FILES))
def test_wrong_ranks_and_metrics_are_refuted(evaluated: Evaluated, direction: str) -> None:
    table = evaluated.ranks[direction].copy()
    table.loc[3, ["best_rank", "worst_rank"]] += 1
    wrong = replace(evaluated, ranks={**evaluated.ranks, direction: table})
    assert claims(wrong, evaluated.score_AB.astype(np.float64)) == [False, False, True, False]
    metrics = {**evaluated.metrics, direction: {**evaluated.metrics[direction], "MnR": evaluated.metrics[direction]["MnR"] + 0.01}}
    assert claims(replace(evaluated, metrics=metrics), evaluated.score_AB.astype(np.float64)) == [True, False, True, True]


def test_a_run_that_starts_over_is_told_from_one_that_continues(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_FILE).write_text(
        '{"rows": [{"epoch": 0, "seconds": 0.1}, {"epoch": 1, "seconds": 0.2}], "trainer": {"steps_done": 5}}'
    )
    assert training.has_steps(tmp_path)
    assert training.mark(tmp_path) == 2
    rows = pd.read_json(tmp_path / CHECKPOINT_FILE, typ="series")["rows"]
    log = pd.DataFrame([*rows, {"epoch": 2, "seconds": 0.2}])
    assert training.continued(log, 2)
    assert not training.continued(log.assign(seconds=0.2), 2)
    assert not training.continued(pd.concat([log, log]), 2)
    assert not training.continued(log, 0)


def test_other_epochs_are_infinitely_far() -> None:
    log = pd.DataFrame({"loss": [np.nan, 2.0, 1.0]})
    assert training.apart(log, log) == 0
    assert training.apart(log.assign(loss=[np.nan, 2.0, 1.5]), log) == pytest.approx(0.5)
    assert training.apart(log[:2], log) == np.inf


def test_a_process_that_has_ended_was_not_killed(tmp_path: Path) -> None:
    assert not training.kill_after_checkpoint(["this"], tmp_path)


def test_a_doubled_or_missing_gradient_of_two_processes_is_noticed() -> None:
    one = {"0": torch.tensor([1.0, 2.0]).double(), "1": torch.tensor([1e-9]).double()}
    shares = {"0": 1e-4, "1": 0.25}
    assert processes.gradients_by_bound(one, {"0": one["0"] + 1e-4, "1": one["1"]}, shares) <= 1
    for name, gradient in one.items():
        assert processes.gradients_by_bound(one, {**one, name: 2 * gradient}, shares) > 1
        assert not processes.gradients_by_bound(one, {**one, name: np.nan * gradient}, shares) <= 1
    assert processes.gradients_by_bound(one, {"0": one["0"]}, shares) == np.inf


@pytest.mark.long
def test_gradients_are_recorded_before_they_are_clipped(tmp_path: Path) -> None:
    cache = make_cache(tmp_path / "cache", 10, 8).path
    words: list[Word] = ["--cache", cache, "--batch-size", 4, "--epochs", 1, "--device", "cpu", "--quiet"]
    options = TrainOptions(cache, tmp_path / "unused", batch_size=4, lr=1e-4, epochs=1, quiet=True)
    bounds = processes.shares(options, load_data(options), share=1e-6)
    assert 0 < most(bounds.values()) < 1
    run(processes.RECORDED, tmp_path / "found.safetensors", "train_head", "--out", tmp_path / "run", *words)
    found = recorded.read(tmp_path / "found.safetensors")
    assert found.keys() == bounds.keys()
    # They would be 1 at most after clipping.
    assert torch.cat([x.flatten() for x in found.values()]).norm() > 1


@pytest.mark.long
def test_features_of_wrong_weights_are_noticed(tmp_path: Path) -> None:
    clip = load_clip(DEMO_CLIP, None, torch.device("cpu"))
    expected = encoding.of_clip(clip)
    bounds = encoding.bounds_of(clip, expected, 1e-5)
    again = encoding.of_clip(clip)
    with torch.no_grad():
        for parameter in clip.model.parameters():
            # As TF32 rounds.
            parameter.mul_(1 + 2.0**-11 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(9)))
    wrong = encoding.of_clip(clip)
    for kind, feature_ND in expected.items():
        assert largest(again[kind] - feature_ND) == 0
        assert largest(wrong[kind] - feature_ND) > bounds[kind]


@pytest.mark.long
def test_pictures_that_are_shifted_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(torch.device("cpu"), small=True, folder=tmp_path)
    monkeypatch.setattr(encoding, "SIZES", [(90, 70)])
    assert list(encoding.resizing(place).holds.values()) == [True]
    resize = DeviceResize.__call__
    monkeypatch.setattr(DeviceResize, "__call__", lambda self, image: resize(self, image).roll(1, -1))
    assert not any(encoding.resizing(place).holds.values())
