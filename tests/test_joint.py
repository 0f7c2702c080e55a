"""The head `joint` and training on hard negatives: start, exactness, what is drawn, what is chosen, what is resumed, what is refused."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from data.compute.processes import ProcessGroup
from evaluate import EvaluateOptions
from tests.all_scores import all_scores
from tests.features import PATCHES, D, random_features, text_batch, video_batch
from tests.plain_heads import random_parameters
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.heads import HeadConfig, PairwiseHead, TextBatch, VideoBatch, make_head
from train_head.scoring.answers import Answers
from train_head.scoring.candidates import Candidates
from train_head.settle import settled
from train_head.stage import build_head, load, make_trainer
from train_head.training.cost import say_step_cost
from train_head.training.hard_negatives import HardNegativeTrainer, Pools, few_candidates


def small(name: str = "joint") -> PairwiseHead:
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(D, 9, 7.0, max_frames=7, patches=PATCHES, temporal_positions=8))
    assert isinstance(head, PairwiseHead)
    return head


def test_before_training_it_scores_as_mean() -> None:
    """To the rounding of a cosine of 16 numbers, times the logit scale."""
    sentences, words, frames = random_features(torch.Generator().manual_seed(0), [4, 2, 9], [3, 7, 1, 5])
    mean = make_head("mean", HeadConfig(D, 9, 7.0))
    found, expected = (
        head.scores(head.encode_texts(text_batch(sentences, words)), head.encode_videos(video_batch(frames))) for head in (small(), mean)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=7 * 3 * D * 2.0**-24)


@pytest.mark.parametrize("name", ["joint", "tight"])
@pytest.mark.parametrize("rows", [1, 70, 10**6])
def test_chosen_pairs_score_as_in_the_matrix_of_all(name: str, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores and gradients, in double precision, in pieces of one pair, a few, and all; texts of both of training's blocks."""
    monkeypatch.setattr("train_head.heads.pairs.pairwise.ROWS_AT_ONCE", {"cpu": rows})
    counts = [1 + i % 9 for i in range(20)]
    sentences, words, frames = ([x.double() for x in some] for some in random_features(torch.Generator().manual_seed(1), counts, [3, 7, 1]))
    head = small(name)
    random_parameters(head, 1)
    head.double()
    text_P, video_P = torch.tensor([0, 19, 19, 4, 0, 0]), torch.tensor([2, 0, 2, 1, 0, 2])

    def gradients(chosen: bool) -> list[torch.Tensor]:
        texts, videos = head.encode_texts(text_batch(sentences, words)), head.encode_videos(video_batch(frames))
        score_P = head.pair_scores(texts, videos, text_P, video_P) if chosen else head.scores(texts, videos)[0, text_P, video_P]
        return [score_P, *torch.autograd.grad(score_P.square().sum(), [value for value in head.parameters() if value.requires_grad])]

    for found, expected in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.exact
@torch.no_grad()
def test_long_pairs_are_scored_alone_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos of more positions than LONG_PAIR, among short ones."""
    monkeypatch.setattr("train_head.heads.pairs.joint.LONG_PAIR", 9 + 1 + 4 * PATCHES)
    sentences, words, frames = random_features(torch.Generator().manual_seed(2), [4, 9], [7, 3, 6, 4, 7, 5])
    head = small()
    random_parameters(head, 2)
    texts = head.encode_texts(text_batch(sentences, words))
    together_SAB = head.scores(texts, head.encode_videos(video_batch(frames)))
    for b, frame_FD in enumerate(frames):
        assert torch.equal(head.scores(texts, head.encode_videos(video_batch([frame_FD])))[..., 0], together_SAB[..., b])


def test_the_order_of_frames_counts() -> None:
    sentences, words, frames = random_features(torch.Generator().manual_seed(3), [4], [5])
    head = small()
    random_parameters(head, 3)
    forth, back = (
        head.scores(head.encode_texts(text_batch(sentences, words)), head.encode_videos(video_batch([frame_FD])))
        for frame_FD in (frames[0], frames[0].flip(0))
    )
    assert (forth - back).abs() > 1e-3


def plain_pool(score_E: NDArray[np.float32], right: list[int], k: int) -> list[int]:
    order = sorted(range(len(score_E)), key=lambda e: (-score_E[e], e))
    return [e for e in order if e not in right][:k]


@pytest.fixture
def options(patches_cache_path: Path, tmp_path: Path) -> TrainOptions:
    """Two epochs of four steps on 160 captions of 40 videos."""
    return TrainOptions(
        cache=patches_cache_path,
        out=tmp_path / "run",
        head="joint",
        candidates_run="zero-shot:mean",
        hard_negatives=2,
        candidates=4,
        epochs=2,
        batch_size=40,
        max_frames=2,
        lr=1e-3,
        checkpoint_steps=2,
        device="cpu",
        quiet=True,
    )


def trainer_of(options: TrainOptions) -> HardNegativeTrainer:
    loaded = load(options)
    chosen = settled(options, loaded.cache)
    torch.manual_seed(chosen.seed)
    trainer = make_trainer(build_head(chosen, loaded.cache), chosen, loaded, ProcessGroup())
    assert isinstance(trainer, HardNegativeTrainer)
    trainer.prepare()
    return trainer


def test_negatives_are_drawn_from_the_best_wrong_entries(options: TrainOptions) -> None:
    trainer = trainer_of(options)
    split, answers = trainer.first.train, trainer.split.answers
    score_AB = all_scores(trainer.first.run.head, split).mean_AB.numpy()
    texts = np.arange(len(answers))
    pools = {("text", a): plain_pool(score_AB[a], [int(answers[a])], 4) for a in texts.tolist()}
    pools |= {("video", b): plain_pool(score_AB[:, b], np.flatnonzero(answers == b).tolist(), 4) for b in range(40)}
    assert trainer.pools.video_AK.tolist() == [pools["text", a] for a in texts.tolist()]
    assert trainer.pools.text_BK.tolist() == [pools["video", b] for b in range(40)]
    seen: set[tuple[int, ...]] = set()
    for _ in range(3):
        videos_AN, texts_AN = trainer.draw(texts)
        assert videos_AN.shape == texts_AN.shape == (len(texts), 2)
        for a in texts.tolist():
            assert set(videos_AN[a].tolist()) <= set(pools["text", a])
            assert set(texts_AN[a].tolist()) <= set(pools["video", int(answers[a])])
            assert len({*videos_AN[a].tolist()}) == len({*texts_AN[a].tolist()}) == 2
        assert not (videos_AN == answers[:, None]).any()
        assert not (answers[texts_AN] == answers[:, None]).any()
        seen.add(tuple(videos_AN[0].tolist()))
    assert len(seen) > 1


def test_pools_of_few_entries_hold_every_wrong_one() -> None:
    answers = np.array([0, 0, 1])
    everything = Candidates(np.array([[0, 1], [1, 0], [0, 1]]), np.array([[2, 0, 1], [1, 2, 0]]), (0, 0))
    pools = Pools.of(everything, Answers(["a", "b", "c"], answers, 2), 50)
    assert pools.video_AK.tolist() == [[1], [1], [0]]
    # A pool has as many captions as the video with the most leaves.
    assert pools.text_BK.tolist() == [[2], [1]]


def test_captions_that_videos_share_are_no_negatives(options: TrainOptions) -> None:
    """Of videos 0, 1 and 2, with the captions a, b; a; c: their pools, what is drawn of them, and a loss by hand."""
    trainer = trainer_of(replace(options, hard_negatives=2))
    captions = ["a", "b", "a", "c", *(f"other {i}" for i in range(len(trainer.split.answers) - 4))]
    trainer.answers = Answers(captions, trainer.split.answers, 40)
    answers = np.array([0, 0, 1, 2])
    shared = Answers(captions[:4], answers, 3)
    everything = Candidates(
        np.array([[0, 1, 2], [1, 0, 2], [1, 0, 2], [1, 2, 0]]), np.array([[2, 0, 3, 1], [0, 2, 1, 3], [3, 0, 1, 2]]), (0, 0)
    )
    pools = Pools.of(everything, shared, 2)
    # What is right for video 0 or 1 stands last: of caption a both, of caption b video 0 alone.
    assert pools.video_AK.tolist() == [[2, 0], [1, 2], [2, 1], [1, 0]]
    assert pools.text_BK.tolist() == [[3, 2], [1, 3], [0, 1]]
    trainer.answers, trainer.pools = shared, pools
    trainer.split = replace(trainer.split, answers=answers)
    seen = [trainer.draw(np.array([0, 2])) for _ in range(5)]
    assert all(videos_AN[:, 0].tolist() == [2, 2] and texts_AN[0, 0] == 3 for videos_AN, texts_AN in seen)
    random_parameters(trainer.head, 4)
    with torch.no_grad():
        encoded_texts = trainer.head.encode_texts(TextBatch.gather(trainer.texts, range(4), trainer.device))
        score_AB = trainer.head.scores(
            encoded_texts, trainer.head.encode_videos(VideoBatch.gather(trainer.videos, range(3), trainer.device))
        )[0]
    rows = [score_AB[0, [0, 2]], score_AB[[0, 3], 0], score_AB[2, [1, 2]], score_AB[[2, 1, 3], 1]]
    expected = torch.stack([cross_entropy(row, torch.tensor(0)) for row in rows]).mean()
    # Scores of up to 100 round at 1e-5 in products of another shape.
    torch.testing.assert_close(trainer.losses_of(np.array([0, 2]))[1][0], expected, rtol=1e-4, atol=1e-4)


def test_features_of_a_negative_that_are_no_numbers_are_named(options: TrainOptions) -> None:
    """The patch tokens of a video that is not in the batch."""
    trainer = trainer_of(options)
    video = trainer.pools.video_AK[0, 0]
    patches = trainer.videos.patches
    assert patches is not None
    held = patches._values_TD
    assert held is not None
    held[patches._first_N[video]] = torch.nan
    name = re.escape(trainer.split.videos.ids[video])
    losses_K = torch.full((1, 3), torch.nan)
    with pytest.raises(UserError, match=rf"^patch token features are not finite of '{name}: .*', epoch 1: delete the cache"):
        trainer._check(1, losses_K, np.array([[0]]))


def test_fewer_candidates_than_asked_for_are_said(options: TrainOptions) -> None:
    loaded = load(options)
    assert few_candidates(4, loaded.train, loaded.select) == ""
    assert few_candidates(50, loaded.train, loaded.select) == (
        "note: --candidates 50 is more than there are: wrong videos of a training caption, 39; videos to re-rank in validation, 10; "
        "captions to re-rank in validation, 20"
    )


def test_the_loss_is_that_of_a_plain_reading(options: TrainOptions) -> None:
    trainer = trainer_of(options)
    random_parameters(trainer.head, 4)
    texts = np.array([3, 70, 12, 4])
    videos_AN, texts_AN = trainer.draw(texts)
    trainer.drawn = 0
    every = np.unique([*texts, *texts_AN.ravel()])
    score_AB = torch.full((len(trainer.split.answers), 40), torch.nan)
    with torch.no_grad():
        encoded_texts = trainer.head.encode_texts(TextBatch.gather(trainer.texts, every, trainer.device))
        encoded_videos = trainer.head.encode_videos(VideoBatch.gather(trainer.videos, range(40), trainer.device))
        score_AB[every] = trainer.head.scores(encoded_texts, encoded_videos)[0]
    entropies = []
    for a, videos, others in zip(texts.tolist(), videos_AN.tolist(), texts_AN.tolist(), strict=True):
        own = int(trainer.split.answers[a])
        to_video = torch.stack([score_AB[a, own], *(score_AB[a, b] for b in videos)])
        to_text = torch.stack([score_AB[a, own], *(score_AB[other, own] for other in others)])
        entropies += [cross_entropy(row, torch.tensor(0)) for row in (to_video, to_text)]
    _, losses = trainer.losses_of(texts)
    # Scores of up to 100 round at 1e-5 in products of another shape.
    torch.testing.assert_close(losses, torch.stack([torch.stack(entropies).mean()] * 2 + [torch.zeros(())]), rtol=1e-4, atol=1e-4)


def test_a_resumed_run_ends_with_the_same_bits(options: TrainOptions, tmp_path: Path) -> None:
    options = replace(options, hard_negatives=1, epochs=1)
    whole = train_head.main(options)
    stopped = replace(options, out=tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(KeyboardInterrupt, match="with --resume"):
            train_head.main(stopped)
    with pytest.raises(UserError, match=r"--hard-negatives was 1 and is 3"):
        train_head.main(replace(stopped, resume=True, hard_negatives=3))
    resumed = train_head.main(replace(stopped, resume=True))
    assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
    assert logged(resumed).equals(logged(whole))


def test_the_epoch_is_chosen_by_the_metrics_of_two_stages(
    options: TrainOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of evaluate on the same split, first run and number of candidates."""
    first = train_head.main(
        TrainOptions(options.cache, tmp_path / "first", head="mean", epochs=1, batch_size=32, max_frames=3, device="cpu", quiet=True)
    )
    run = train_head.main(replace(options, candidates_run=str(first), epochs=1, quiet=False))
    assert f"hard negatives: 2 of the 4 best of {first} for every caption and every video; the epoch" in capsys.readouterr().err
    record = json.loads((run / "run.json").read_text())
    out = evaluate.main(
        EvaluateOptions(
            options.cache, str(run), tmp_path / "out", split="val", candidates="4", candidates_run=str(first), device="cpu", report=False
        )
    )
    result = json.loads((out / "metrics.json").read_text())
    for name in ("text_to_video", "video_to_text", "RSum"):
        assert result[name] == record["val"][name]
        assert result["two_stage"][name] == record["first_stage"]["val"][name]
    assert record["selected_by"] == f"text_to_video R@1 on val, re-ranking the 4 best of {first}"
    kept = {name: record["first_stage"][name] for name in ("run", "weights_sha256", "max_frames", "candidates", "hard_negatives")}
    digest = hashlib.sha256((first / "head.safetensors").read_bytes()).hexdigest()
    assert kept == {"run": str(first), "weights_sha256": digest, "max_frames": 3, "candidates": 4, "hard_negatives": 2}
    assert logged(run)["candidates"].tolist() == [4, 4]


def test_another_first_run_of_the_same_name_is_refused_on_resume(options: TrainOptions, tmp_path: Path) -> None:
    first = TrainOptions(options.cache, tmp_path / "first", head="dp", temporal="none", epochs=1, batch_size=32, device="cpu", quiet=True)
    train_head.main(first)
    stopped = replace(options, candidates_run=str(first.out))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(stopped)
    weights = first.out / "head.safetensors"
    other = tmp_path / "other"
    train_head.main(replace(first, out=other, lr=1e-2))
    weights.write_bytes((other / "head.safetensors").read_bytes())
    with pytest.raises(UserError, match="of --candidates-run has other weights than when it began; use what it was started with"):
        train_head.main(replace(stopped, resume=True))


def test_tight_trains_on_hard_negatives_too(options: TrainOptions) -> None:
    run = train_head.main(replace(options, head="tight", epochs=1))
    assert json.loads((run / "run.json").read_text())["trained_with"]["options"]["candidates_run"] == "zero-shot:mean"


def test_the_usual_numbers_are_recorded(options: TrainOptions, cache: FeatureCache) -> None:
    usual = settled(replace(options, hard_negatives=None, candidates=None), cache)
    assert (usual.hard_negatives, usual.candidates) == (15, 50)
    without = settled(replace(options, head="mean", candidates_run=None, hard_negatives=None, candidates=None), cache)
    assert (without.hard_negatives, without.candidates) == (None, None)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"candidates_run": None, "hard_negatives": None, "candidates": None},
            "head joint is trained on the candidates of another run: add --candidates-run RUN, such as --candidates-run zero-shot:mean",
        ),
        ({"head": "mean"}, "--candidates-run: head mean shares its work between pairs and is trained on all pairs of a batch: leave the"),
        (
            {"head": "tight", "candidates_run": None, "candidates": None},
            "--hard-negatives goes with --candidates-run: add it, or leave this out",
        ),
        ({"hard_negatives": 5}, "--hard-negatives 5 are drawn from the 4 best of --candidates: use --hard-negatives 4 or less, or"),
        ({"hard_negatives": None}, "--hard-negatives 15 are drawn from the 4 best of --candidates"),
        ({"hard_negatives": 0}, "--hard-negatives 0 must be at least 1"),
        (
            {"hard_negatives": 40, "candidates": 50},
            "--hard-negatives 40: there are 40 training videos, and one of them is the caption's own: use --hard-negatives 39",
        ),
        ({"finetune": True}, "--finetune does not go with --candidates-run: candidates come from cached features, and CLIP changes; leave"),
        ({"mask_same_video": True}, "--mask-same-video does not go with --candidates-run: captions of the same video are never hard"),
        ({"cdcr": 0.1}, "--cdcr does not go with --candidates-run: "),
        ({"candidates_run": "nowhere"}, "--candidates-run: --run nowhere: there is no such folder"),
        ({"candidates_run": "zero-shot:joint"}, "--candidates-run: --run zero-shot:joint: head joint scores nothing before training"),
        ({"temporal": "seq-transf"}, "--temporal seq-transf: head joint reads the frames through blocks of its own: leave the option out"),
    ],
)
def test_what_does_not_go_together_is_refused_in_one_line(options: TrainOptions, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as found:
        train_head.main(replace(options, **given))
    assert "\n" not in str(found.value)
    assert not options.out.exists()


def test_a_cache_without_tokens_and_a_first_run_of_another_clip_are_refused(
    options: TrainOptions, cache_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^head joint reads patch tokens, and the cache .* has none: run extract again with --tokens"):
        train_head.main(replace(options, cache=cache_path))
    first = train_head.main(
        TrainOptions(options.cache, tmp_path / "first", head="dp", temporal="none", epochs=1, batch_size=32, device="cpu", quiet=True)
    )
    record = json.loads((first / "run.json").read_text())
    (first / "run.json").write_text(json.dumps({**record, "weights": "0" * 64}))
    with pytest.raises(UserError, match=r"^--candidates-run: --run .* was trained on features of other CLIP weights"):
        train_head.main(replace(options, candidates_run=str(first)))
    assert not options.out.exists()


def test_a_step_says_how_many_pairs_it_scores(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train_head.training.cost.EXPENSIVE_PAIR", 1)
    monkeypatch.setattr("train_head.training.cost.EXPENSIVE_STEP", 1)
    loaded = load(options)
    trainer = make_trainer(build_head(settled(options, loaded.cache), loaded.cache), settled(options, loaded.cache), loaded, ProcessGroup())
    assert isinstance(trainer, HardNegativeTrainer)
    say_step_cost(trainer.head, loaded.train, trainer.batch_size, steps=10, pairs=trainer.pairs_a_step)
    assert re.match(r"head joint: a step scores 200 pairs, .* a smaller --hard-negatives, --batch-size or --max", capsys.readouterr().err)
