"""--optimizer, --padding and --recipe of training: what they stand for, what a run records, and that it goes on with the same bits."""

import json
from dataclasses import replace
from math import cos, pi
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
from evaluate import EvaluateOptions
from search import SearchOptions
from search.searcher import Searcher
from tests.caches import BUDGET, captions_of
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.heads import TextBatch, VideoBatch
from train_head.run import load_head
from train_head.settle import settled
from train_head.stage import build_head, load
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep
from train_head.sweep.runs import run_name
from train_head.training.optimisers import bert_adam_groups
from train_head.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def plain(cache_path: Path, tmp_path: Path) -> TrainOptions:
    """Five steps."""
    return TrainOptions(
        cache=cache_path, out=tmp_path / "run", epochs=1, batch_size=32, lr=1e-3, checkpoint_steps=2, device="cpu", quiet=True
    )


@pytest.fixture
def options(plain: TrainOptions) -> TrainOptions:
    return replace(plain, recipe="authors", head="glim-global", max_frames=3)


def test_a_run_by_the_recipe_is_recorded_evaluated_and_searched(
    options: TrainOptions, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head.main(replace(options, head="glccl", quiet=False))
    assert "up to 64 words and 3 frames: as zero vectors, because the cache holds no features of padding" in capsys.readouterr().err
    record = json.loads((run / "run.json").read_text())
    trained_with = record["trained_with"]["options"]
    assert [trained_with[name] for name in ("recipe", "optimizer", "padding")] == ["authors", "bert-adam", "authors"]
    assert (record["head"]["padding"], record["head"]["padded_frames"]) == ("authors", 3)
    evaluation = EvaluateOptions(
        cache=options.cache, run=str(run), out=tmp_path / "out", split="val", device="cpu", report=False, quiet=True
    )
    result = json.loads((evaluate.main(evaluation) / "metrics.json").read_text())
    assert result["text_to_video"] == pytest.approx(record["val"]["text_to_video"])
    head, _ = load_head(str(run), cache, CPU)
    assert result["cost"]["flops_a_pair"] == head.pair_flops(np.array([64.0]), np.array([3.0]))
    with pytest.raises(UserError, match="--padding authors pads every video to 3 frames: use --max-frames 3 or less"):
        evaluate.main(replace(evaluation, max_frames=4, out=tmp_path / "longer"))
    caption = captions_of(cache, 1)[0]
    hit = next(Searcher(SearchOptions(cache=options.cache, run=str(run), device="cpu", quiet=True)).search([caption])).hits[0]
    texts, videos = TextBatch.gather(cache.texts([caption], BUDGET), [0], CPU), cache.videos([hit.video_id], BUDGET, 3)
    with torch.no_grad():
        scores_SAB = head.scores(head.encode_texts(texts), head.encode_videos(VideoBatch.gather(videos, [0], CPU)))
    assert hit.score == pytest.approx(scores_SAB.mean().item(), abs=0.05)
    assert 0 < sum(hit.moment.weight_F) <= 1 + 1e-6


@pytest.mark.exact
def test_a_stopped_run_by_the_recipe_ends_with_the_same_bits(options: TrainOptions, tmp_path: Path) -> None:
    whole = train_head.main(options)
    stopped = replace(options, out=tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(KeyboardInterrupt, match="with --resume"):
            train_head.main(stopped)
    with pytest.raises(UserError, match="--optimizer was bert-adam and is adamw"):
        train_head.main(replace(stopped, resume=True, optimizer="adamw"))
    # What the recipe stands for, in other words.
    resumed = train_head.main(replace(stopped, resume=True, recipe=None, optimizer="bert-adam", padding="authors"))
    assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
    pd.testing.assert_frame_equal(logged(resumed), logged(whole), check_exact=True)


def test_the_first_step_of_bert_adam_has_rate_0_and_the_log_has_the_rates(options: TrainOptions) -> None:
    loaded = load(options)
    trainer = Trainer(build_head(options, loaded.cache), options, loaded.train)
    before = {name: value.clone() for name, value in trainer.weights().items()}
    moved: list[set[str]] = []
    rates: list[float] = []

    def log(_: int, scalars: Any) -> None:
        if "train/lr" in scalars:
            rates.append(scalars["train/lr"])
            moved.append({name for name, value in trainer.weights().items() if not torch.equal(value, before[name])})

    trainer.run_epoch(1, log=log)
    assert moved[0] == set()
    assert moved[-1] >= {"M_g", "P1", "temporal.positional_embedding"}
    # After each step, the rate of the next: of seven steps none is within the warm-up but the first.
    assert rates == pytest.approx([options.lr * (1 + cos(pi * done / 7)) / 2 for done in range(1, 8)])
    assert [group["initial_lr"] for group in trainer.optimiser.param_groups] == [1e-3, 1e-3, 1e-6, 1e-6]


@pytest.mark.parametrize("head", ["glccl", "xpool", "wti"])
def test_names_decide_the_groups(plain: TrainOptions, cache: FeatureCache, head: str) -> None:
    named = dict(build_head(replace(plain, head=head), cache).named_parameters())
    decaying, spared, of_clip, of_clip_spared = bert_adam_groups(named.items(), 1.0, 0.5, 0.2)
    assert [(group["lr"], group["weight_decay"]) for group in (decaying, spared, of_clip, of_clip_spared)] == [
        (1.0, 0.2),
        (1.0, 0.0),
        (0.5, 0.2),
        (0.5, 0.0),
    ]
    assert of_clip["params"] == [named["logit_scale"]]
    assert of_clip_spared["params"] == []
    biases = {id(value) for name, value in named.items() if name.endswith("bias")}
    assert {id(value) for value in spared["params"]} == biases
    assert {id(value) for value in decaying["params"]} == {id(value) for value in named.values()} - biases - {id(named["logit_scale"])}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ("adamw", "masked")),
        ({"recipe": "authors"}, ("bert-adam", "authors")),
        ({"recipe": "authors", "padding": "masked"}, ("bert-adam", "masked")),
        ({"recipe": "authors", "optimizer": "adamw"}, ("adamw", "authors")),
        ({"padding": "authors"}, ("adamw", "authors")),
    ],
)
def test_what_is_given_counts_before_the_recipe(
    plain: TrainOptions, cache: FeatureCache, change: dict[str, Any], expected: tuple[str, str]
) -> None:
    found = settled(replace(plain, **change), cache)
    assert (found.optimizer, found.padding) == expected
    assert build_head(found, cache).config.padding == expected[1]


def test_videos_are_padded_to_the_longest_of_the_cache(plain: TrainOptions, cache: FeatureCache) -> None:
    longest = max(place.stop - place.start for place in cache.places("videos").values())
    assert build_head(replace(plain, padding="authors"), cache).config.padded_frames == longest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "xpool", "recipe": "authors"}, r"--recipe authors: the figures of head xpool .* leave it out, or use head glccl, .*mean"),
        ({"head": "own_mean:Own", "recipe": "authors"}, r"--recipe authors: the figures of head own_mean:Own .* use head glccl, .*mean"),
        (
            {"head": "own_mean:Own", "padding": "authors"},
            r"--padding authors: how the authors of head own_mean:Own treat .* use head glccl, ",
        ),
    ],
)
def test_what_does_not_go_with_a_head_is_refused_before_the_work(
    plain: TrainOptions, change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_mean.py").write_text("from train_head.heads.mean import MeanHead\n\n\nclass Own(MeanHead):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=message) as refusal:
        train_head.main(replace(plain, **change))
    assert "\n" not in str(refusal.value)
    assert not plain.out.exists()


def test_a_run_of_before_the_options_had_adamw_and_masks(plain: TrainOptions, cache: FeatureCache) -> None:
    run = train_head.main(replace(plain, head="mean"))
    record = json.loads((run / "run.json").read_text())
    for name in ("optimizer", "padding", "recipe"):
        del record["trained_with"]["options"][name]
    for name in ("padding", "padded_frames"):
        del record["head"][name]
    (run / "run.json").write_text(json.dumps(record))
    assert load_head(str(run), cache, CPU)[0].config.padding == "masked"
    again = replace(plain, head="mean", resume=True)
    assert train_head.main(again) == train_head.main(replace(again, optimizer="adamw", padding="masked")) == run
    with pytest.raises(UserError, match="--padding was masked and is authors; --optimizer was adamw and is bert-adam"):
        train_head.main(replace(again, recipe="authors"))


def test_a_sweep_varies_the_recipe_and_knows_it_in_other_words(
    plain: TrainOptions, cache: FeatureCache, capsys: pytest.CaptureFixture[str]
) -> None:
    by_recipe, spelt = replace(plain, recipe="authors"), replace(plain, optimizer="bert-adam", padding="authors")
    names = [run_name(settled(run, cache), cache, "test") for run in (plain, by_recipe, spelt)]
    assert names[0] == run_name(settled(replace(plain, optimizer="adamw", padding="masked"), cache), cache, "test")
    assert names[1] == names[2] != names[0]
    options = SweepOptions(
        cache=plain.cache,
        out=plain.out,
        seeds=1,
        epochs="1",
        batch_size="32",
        head="mean",
        temporal="none",
        recipe="none,authors",
        device="cpu",
        processes=1,
        quiet=True,
    )
    table = pd.read_csv(sweep(options))
    assert table[["optimizer", "padding"]].to_numpy().tolist() == [["adamw", "masked"], ["bert-adam", "authors"]]
    assert "padding: the authors of mean mask it as we do, so --padding authors changes nothing\n" in capsys.readouterr().err
    sweep(replace(options, recipe="none", optimizer="recipe,bert-adam", padding="authors"))
    table = pd.read_csv(plain.out / "runs.csv")
    assert table[["optimizer", "padding"]].to_numpy().tolist()[2:] == [["adamw", "authors"]]
