"""Heads that read patch tokens: what tests of every head leave out.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, K chosen ones, N draws, R rows of scores, D joint dimension.
"""

import json
import re
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import evaluate
import search
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.metrics import retrieval_metrics
from evaluate import EvaluateOptions
from search import SearchOptions
from tests.caches import captions_of, with_patches
from tests.conftest import ROOT
from tests.features import PATCHES, D, patches_of, random_features, text_batch, video_batch
from tests.plain_heads import random_parameters, ts2_token_scores
from tests.processes import launch
from tests.shell import stage
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.batches import EncodedFrames, TextBatch, VideoBatch
from train_head.heads import HeadConfig, make_head, unit
from train_head.heads.ts2 import CHOSEN, Ts2Head
from train_head.kernels.perturbed import DRAWS, SIGMA, chosen_places, perturbed_choice
from train_head.scoring.splits import load_split
from train_head.stage import build_head
from train_head.sweep import SweepOptions
from train_head.sweep import main as sweep

FRAMES = 5
OWN = "zero-shot:tests.patch_mean:PatchMean"
FEATURES = random_features(torch.Generator().manual_seed(3), [4, 2, 7], [3, 5, 2])


def ts2(dimension: int = D, patches: int = PATCHES) -> Ts2Head:
    torch.manual_seed(0)
    head = make_head("ts2", HeadConfig(dimension, max_words=9, logit_scale=1.0, max_frames=FRAMES, patches=patches))
    assert isinstance(head, Ts2Head)
    return head


def golden(name: str) -> dict[str, Tensor]:
    with np.load(ROOT / "tests" / "golden" / f"{name}.npz") as file:
        return {key: torch.as_tensor(value) for key, value in file.items()}


# The authors' numbers


@torch.no_grad()
def test_the_selector_equals_the_authors_code() -> None:
    given = golden("ts2_token_select")
    token_BFND = given["tokens"]
    head = ts2(32, token_BFND.shape[2] - 1).eval()
    weights = {"norm.weight": "norm_weight", "norm.bias": "norm_bias"}
    weights |= {f"{layer}.weight": f"{name}_weight" for layer, name in (("into", "in"), ("hidden", "hidden"), ("score", "score"))}
    head.selector.load_state_dict({ours: given[theirs] for ours, theirs in weights.items()})
    frame_BFD, patch_BFMD = token_BFND[:, :, 0], token_BFND[:, :, 1:]
    score_BFN = head.selector(frame_BFD, token_BFND)
    assert (score_BFN - given["token_scores"]).abs().max() < 2e-5
    place_BFK = given["chosen_patch_indices"].long()
    assert int(given["k"]) == CHOSEN == place_BFK.shape[-1]
    assert torch.equal(chosen_places(score_BFN[..., 1:], CHOSEN), place_BFK)
    chosen_BFKD = head.chosen_patches(VideoBatch(frame_BFD, torch.ones(frame_BFD.shape[:2], dtype=torch.bool), patch_BFMD))
    assert torch.equal(torch.cat([frame_BFD[:, :, None], chosen_BFKD], dim=2), given["output"])


@torch.no_grad()
@pytest.mark.parametrize("case", ["full", "padded"])
def test_the_frame_weighting_equals_the_authors_code(case: str) -> None:
    given = golden("ts2_score")
    head = ts2(32).eval()
    head.logit_scale.copy_(given["log_logit_scale"])
    sentence_AD = given[f"{case}_sentences"]
    texts = TextBatch(sentence_AD, sentence_AD, torch.ones(len(sentence_AD), dtype=torch.int64))
    frames = EncodedFrames(given[f"{case}_frames"], given[f"{case}_frame_mask"].bool())
    score_AB = head.scores(head.encode_texts(texts), head.encode_frames(frames))[0]
    assert (score_AB - given[f"{case}_scores"]).abs().max() < 1e-4
    assert (head.weights_of(texts, frames) - given[f"{case}_frame_weights"]).abs().max() < 2e-6


# The choice under noise


def expected_choice(score_M: Tensor, count: int, sigma: float) -> Tensor:
    """How often place m is the k-th of the `count` highest scores under normal noise [K, M]: sums over all subsets of the probability that
    all others lie below the lowest of the subset, integrated over the highest of those others."""
    low, high = score_M.detach().aminmax()
    t_T = torch.linspace(float(low) - 8 * sigma, float(high) + 8 * sigma, 4001, dtype=torch.float64)
    z_MT = (t_T - score_M[:, None]) / sigma
    below_MT, density_MT = torch.special.ndtr(z_MT), (-z_MT.square() / 2).exp() / (2 * torch.pi) ** 0.5 / sigma
    found = torch.zeros(count, len(score_M), dtype=torch.float64)
    for subset in combinations(range(len(score_M)), count):
        others = [m for m in range(len(score_M)) if m not in subset]
        highest_T = sum(
            (density_MT[m] * torch.stack([below_MT[n] for n in others if n != m] or [torch.ones_like(t_T)]).prod(dim=0) for m in others),
            start=torch.zeros_like(t_T),
        )
        chance = torch.trapezoid(highest_T * torch.stack([1 - below_MT[m] for m in subset]).prod(dim=0), t_T)
        for k, m in enumerate(subset):
            mark = torch.zeros_like(found)
            mark[k, m] = 1
            found = found + mark * chance
    return found


@pytest.mark.parametrize(("places", "count"), [(2, 1), (5, 3)])
def test_averages_and_gradients_are_those_of_the_expectation(places: int, count: int) -> None:
    """To five standard errors. A choice is 0 or 1, and a term of the gradient at most |weights| |e| / sigma."""
    generator, sigma, rows, draws = torch.Generator().manual_seed(places), SIGMA, 400, DRAWS
    score_M = 0.05 * torch.randn(places, generator=generator, dtype=torch.float64)
    weight_KM = torch.randn(count, places, generator=generator, dtype=torch.float64)
    exact_M, given_RM = score_M.clone().requires_grad_(), score_M.repeat(rows, 1).requires_grad_()
    expected_KM = expected_choice(exact_M, count, sigma)
    torch.testing.assert_close(expected_KM.sum(dim=1), torch.ones(count, dtype=torch.float64))
    found_RKM = perturbed_choice(given_RM, torch.randint(2**62, (rows,), generator=generator), count, sigma, draws)
    assert found_RKM.sum(dim=2).sub(1).abs().max() < 1e-12
    error = (rows * draws) ** -0.5
    assert (found_RKM.mean(dim=0) - expected_KM).abs().max() < 5 * 0.5 * error
    (expected_M,) = torch.autograd.grad((expected_KM * weight_KM).sum(), exact_M)
    (found_RM,) = torch.autograd.grad((found_RKM * weight_KM).sum(), given_RM)
    largest = float(weight_KM.abs().amax(dim=1).sum()) / sigma
    assert (found_RM.mean(dim=0) - expected_M).abs().max() < 5 * largest * error
    # A gradient that is zero would pass for none of these.
    assert expected_M.abs().max() > 20 * largest * error


@pytest.mark.parametrize(("places", "count"), [(7, 3), (3, 3), (50, 2)])
def test_compiled_choices_and_gradients_are_those_of_float64(places: int, count: int) -> None:
    """Of these scores and draws, none is so near another that float32 decides. A gradient is a mean of 500 products, and its rounding that
    of as many numbers as large as the largest of them."""
    generator = torch.Generator().manual_seed(places)
    score_RM = torch.randint(-8, 9, (40, places), generator=generator).float().div(256).requires_grad_()
    key_R, weight_RKM = torch.randint(2**62, (40,), generator=generator), torch.randn(40, count, places, generator=generator)
    found, exact = (perturbed_choice(x, key_R, count) for x in (score_RM, score_RM.double()))
    assert torch.equal((DRAWS * found).round(), (DRAWS * exact).round().float())
    of_found, of_exact = (torch.autograd.grad((x * weight_RKM).sum(), score_RM)[0] for x in (found, exact))
    assert (of_found - of_exact).abs().max() < DRAWS**0.5 * 2.0**-24 * count * float(weight_RKM.abs().max()) * 4.4 / SIGMA


def in_training(head: Ts2Head, chosen: list[int], extra: int = 0) -> Tensor:
    videos = video_batch([FEATURES[2][b] for b in chosen], extra, fill=2.0)
    with torch.enable_grad():
        return head.train().chosen_patches(videos).detach()


def test_noise_belongs_to_a_video_and_a_step() -> None:
    """Not to its place in a batch, so that several processes draw that of one; and the weights say which step it is."""
    head = ts2()
    random_parameters(head, 1)
    together = in_training(head, [0, 1, 2])
    torch.testing.assert_close(in_training(head, [2, 1], extra=2)[:, :2], together[[2, 1], :2], rtol=0, atol=1e-5)
    videos = video_batch(FEATURES[2])
    before = head.get_buffer("draws").clone()
    steps = [head.temporal_frames(videos) for _ in range(2)]
    assert head.get_buffer("draws") == before + 2
    assert not torch.equal(*steps)
    other = ts2()
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.temporal_frames(videos), head.temporal_frames(videos))
    with torch.no_grad():
        plain = head.eval().temporal_frames(videos)
        other.get_buffer("draws").zero_()
        assert torch.equal(other.eval().temporal_frames(videos), plain)
        assert torch.equal(other.train().temporal_frames(videos), plain)


def test_in_training_the_averages_are_near_the_choice_where_it_is_clear() -> None:
    head = ts2()
    random_parameters(head, 1)
    videos = video_batch(FEATURES[2])
    parameters = {name: value.detach().double() for name, value in head.named_parameters()}
    chosen_BFKD = head.eval().chosen_patches(videos).detach()
    clear = 0
    for b, frame_FD in enumerate(FEATURES[2]):
        for f, frame_D in enumerate(frame_FD):
            scores = sorted(float(x) for x in ts2_token_scores(torch.stack([frame_D, *patches_of(frame_D)]).double(), parameters)[1:])
            if scores[1] - scores[0] > 0.5:
                # Ten deviations apart.
                clear += 1
                torch.testing.assert_close(in_training(head, [b])[0, f], chosen_BFKD[b, f])
    assert clear > 1


# From a cache


@pytest.fixture
def options(patches_cache_path: Path, tmp_path: Path) -> TrainOptions:
    """Five steps."""
    return TrainOptions(
        cache=patches_cache_path,
        out=tmp_path / "run",
        head="ts2",
        epochs=1,
        batch_size=16,
        max_frames=3,
        lr=1e-3,
        checkpoint_steps=1,
        device="cpu",
        quiet=True,
    )


@pytest.mark.long
def test_a_resumed_run_ends_with_the_same_bits_and_its_search_and_evaluation_read_patch_tokens(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = train_head.main(options)
    stopped = replace(options, out=tmp_path / "stopped")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(stopped)
    resumed = train_head.main(replace(stopped, resume=True))
    assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
    pd.testing.assert_frame_equal(logged(resumed), logged(whole), check_exact=True)
    record = json.loads((whole / "run.json").read_text())
    assert record["head"]["patches"] == PATCHES
    assert record["start"] == {"cross": {"from": "clip", "positions": 64, "positions_of_clip": 64, "positions_added": 0}}
    evaluate.main(EvaluateOptions(options.cache, str(whole), tmp_path / "out", split="val", device="cpu", quiet=True))
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert result["text_to_video"] == pytest.approx(record["val"]["text_to_video"])
    assert 0 < result["guidance"]["sentence"]["entropy"] <= 1
    assert (tmp_path / "out" / "report.html").stat().st_size
    query = captions_of(FeatureCache(options.cache), 1)[0]
    (answer,) = search.main(SearchOptions(options.cache, str(whole), query=(query,), top=3, device="cpu", quiet=True))
    assert answer.measure == "sentence"
    assert all(sum(hit.moment.weight_F) == pytest.approx(1, abs=1e-5) for hit in answer.hits)


@pytest.mark.long
def test_training_and_scoring_without_patch_tokens_open_none_of_their_parts(options: TrainOptions, tmp_path: Path) -> None:
    """A damaged part would be noticed."""
    cache = shutil.copytree(options.cache, tmp_path / "cache")
    for part in cache.glob("patches-*.h5"):
        part.write_bytes(b"no HDF5")
    run = train_head.main(replace(options, cache=cache, head="mean"))
    evaluate.main(EvaluateOptions(cache, str(run), tmp_path / "out", split="val", device="cpu", quiet=True))
    assert search.main(SearchOptions(cache, str(run), query=("a ring",), top=3, device="cpu", quiet=True))
    with pytest.raises(UserError, match="is damaged"):
        train_head.main(replace(options, cache=cache, out=tmp_path / "other"))


def test_positions_are_for_every_token_of_the_longest_video(options: TrainOptions) -> None:
    cache = FeatureCache(options.cache)
    head = build_head(replace(options, max_frames=30), cache)
    assert head.config.temporal_positions == 30 * (1 + CHOSEN)
    assert list(head.frame_limits().values()) == [30]
    clip_PD = torch.from_numpy(cache.clip_parts().tensors["positional_embedding"])
    assert torch.equal(head.get_parameter("joint.positional_embedding")[: len(clip_PD)], clip_PD)


def test_too_few_or_no_patch_tokens_are_refused_before_the_work(
    options: TrainOptions, cache_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(cache_path, tmp_path / "few")
    with_patches(FeatureCache(tmp_path / "few"), CHOSEN - 1)
    monkeypatch.setattr("train_head.stage.load_split", None)
    few = r"head ts2 chooses among the patch tokens .* needs at least 3, and the cache .* has 2: extract into another cache with --tokens"
    none = r"^head ts2 reads patch tokens, and the cache .* has none: run extract again with --tokens patches or patches:K$"
    for cache, message in ((tmp_path / "few", few), (cache_path, none)):
        with pytest.raises(UserError, match=message):
            train_head.main(replace(options, cache=cache))
        with pytest.raises(UserError, match=message):
            sweep(SweepOptions(cache, tmp_path / "sweep", head="mean,ts2", device="cpu", quiet=True))
    assert not options.out.exists()
    assert not (tmp_path / "sweep" / "runs.csv").exists()


def test_a_run_is_not_used_with_another_number_of_patch_tokens(options: TrainOptions, cache_path: Path, tmp_path: Path) -> None:
    run = train_head.main(replace(options, batch_size=40, max_frames=2))
    shutil.copytree(cache_path, tmp_path / "three")
    three = with_patches(FeatureCache(tmp_path / "three"), 3).path
    evaluation = EvaluateOptions(three, str(run), tmp_path / "out", device="cpu", report=False, quiet=True)
    with pytest.raises(UserError, match=r"was trained on 4 patch tokens of each frame, and the cache .* has 3: use the cache it was"):
        evaluate.main(evaluation)
    with pytest.raises(UserError, match=r"head ts2 reads patch tokens, and the cache .* has none"):
        evaluate.main(replace(evaluation, cache=cache_path))
    assert not (tmp_path / "out").exists()


def test_a_head_of_one_s_own_reads_patch_tokens_untrained(patches_cache: FeatureCache, cache_path: Path, tmp_path: Path) -> None:
    split = load_split(patches_cache, "test", None, 10**9)
    texts, _ = split.texts.sentences.gather(range(len(split.answers)))
    means = []
    for b in range(len(split.videos.ids)):
        patch_TMD = patches_of(split.videos.frames.gather([b])[0]).half().double()
        means.append(unit(unit(patch_TMD.flatten(0, 1)).mean(dim=0)))
    expected = retrieval_metrics((unit(texts.double()) @ torch.stack(means).T).float(), split.answers)
    evaluation = EvaluateOptions(patches_cache.path, OWN, tmp_path / "out", candidates="4,12", device="cpu", report=False, quiet=True)
    result = json.loads((evaluate.main(evaluation) / "metrics.json").read_text())
    assert result["text_to_video"] == pytest.approx(expected["text_to_video"])
    assert result["candidates"][-1]["text_to_video"] == result["text_to_video"]
    with pytest.raises(UserError, match=r"head tests.patch_mean:PatchMean reads patch tokens, and the cache .* has none"):
        evaluate.main(replace(evaluation, cache=cache_path, out=tmp_path / "none"))


def test_finetuning_a_head_that_reads_patch_tokens_is_refused(options: TrainOptions) -> None:
    message = "--finetune: head ts2 reads patch tokens, which are cached and would stay those of the old CLIP: leave it out"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        train_head.main(replace(options, finetune=True, cache=Path("nowhere")))


@pytest.mark.long
def test_from_the_shell(options: TrainOptions, tmp_path: Path) -> None:
    """Training in one process and in two, a sweep with a head that reads no patch tokens beside it, an evaluation and a search."""
    words: list[str | Path] = ["--cache", options.cache, "--device", "cpu", "--quiet"]
    training: list[str | Path] = [*words, "--head", "ts2", "--epochs", "1", "--batch-size", "16", "--max-frames", "3", "--lr", "1e-3"]
    done = stage("train_head", "--out", tmp_path / "1", *training)
    assert (done.returncode, done.stderr) == (0, "")
    two = launch(2, "train_head", "--out", tmp_path / "2", *training)
    assert two.returncode == 0, two.stderr
    losses = [pd.read_csv(tmp_path / run / "log.csv")["loss"].iloc[1] for run in ("1", "2")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    one, other = (load_file(tmp_path / run / "head.safetensors")["draws"] for run in ("1", "2"))
    assert one == other
    done = stage("evaluate", *words, "--run", tmp_path / "1", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    done = stage("search", *words, "--run", tmp_path / "1", captions_of(FeatureCache(options.cache), 1)[0])
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    grid: list[str | Path] = ["--head", "mean,ts2", "--epochs", "1", "--batch-size", "16", "--max-frames", "3", "--processes", "2"]
    done = stage("train_head.sweep", *words, "--out", tmp_path / "sweep", *grid)
    assert done.returncode == 0, done.stderr
    assert set(pd.read_csv(tmp_path / "sweep" / "runs.csv")["head"]) == {"mean", "ts2"}
    done = stage("train_head", "--out", tmp_path / "3", *training, "--finetune")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --finetune: head ts2 reads patch tokens")
    assert done.stderr.count("\n") == 1


def test_scores_of_the_whole_head_read_the_chosen_patch_tokens_alone() -> None:
    """Another vector in place of the token that no frame chooses changes no score; in place of a chosen one it does."""
    head = ts2().eval().requires_grad_(False)
    random_parameters(head, 1)
    sentences, words, frames = FEATURES
    videos = video_batch(frames)
    assert videos.patch_BFMD is not None
    texts = head.encode_texts(text_batch(sentences, words))
    with torch.no_grad():
        score_BFM = head.selector(videos.frame_BFD, videos.patch_BFMD)
        expected = head.scores(texts, head.encode_videos(videos))
        for rank, changes in ((PATCHES - 1, False), (0, True)):
            place_BF = score_BFM.sort(dim=-1, descending=True).indices[..., rank]
            other_BFMD = videos.patch_BFMD.clone()
            # Along its own direction the normalised token, and so its score, hardly changes.
            other_BFMD.scatter_(
                2,
                place_BF[..., None, None].expand(-1, -1, 1, D),
                1.01 * videos.patch_BFMD.gather(2, place_BF[..., None, None].expand(-1, -1, 1, D)),
            )
            found = head.scores(texts, head.encode_videos(replace(videos, patch_BFMD=other_BFMD)))
            assert torch.equal(found, expected) != changes
