"""Training that stops and goes on, batches that are broken, and losses that leave pairs out."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from tests.conftest import ROOT
from tests.training_runs import logged, stop_at
from tests.waiting import wait_until
from train_head import TrainOptions
from train_head.losses import contrastive_loss, csc_loss
from train_head.stage import TrainingData, build_head, load
from train_head.training.checkpoint import CHECKPOINT_FILE
from train_head.training.trainer import Trainer


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    """Ten steps: 5 an epoch."""
    return TrainOptions(
        cache=cache_path,
        out=tmp_path / "run",
        epochs=2,
        batch_size=32,
        lr=1e-3,
        checkpoint_steps=2,
        mask_same_video=True,
        device="cpu",
        quiet=True,
    )


@pytest.mark.long
@pytest.mark.exact
def test_a_run_stopped_at_any_step_ends_with_the_same_bits(options: TrainOptions, tmp_path: Path) -> None:
    whole = train_head.main(options)
    for step in (1, 2, 3, 5, 6, 8, 10):
        stopped = replace(options, out=tmp_path / f"stopped {step}")
        with pytest.MonkeyPatch.context() as patch:
            stop_at(patch, step)
            with pytest.raises(KeyboardInterrupt, match="with --resume"):
                train_head.main(stopped)
        assert not (stopped.out / "run.json").exists()
        # Of a process that was killed while it wrote.
        (stopped.out / ".checkpoint-0-0.safetensors.host.1.tmp").touch()
        resumed = train_head.main(replace(stopped, resume=True))
        assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes(), step
        pd.testing.assert_frame_equal(logged(resumed), logged(whole), check_exact=True)
        assert sorted(path.name for path in resumed.iterdir()) == [
            "head.safetensors",
            "log.csv",
            "options.yaml",
            "run.json",
            "trained-on.json",
        ]


def test_a_resume_with_other_options_or_another_cache_is_refused(
    options: TrainOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(options)
    with pytest.raises(UserError, match="unfinished run: add --resume to continue it, name another folder"):
        train_head.main(options)
    again = replace(options, resume=True)
    with pytest.raises(
        UserError, match=r"other options \(--csc-weight was 0.5 and is 0.1; --lr was 0.001 and is 0.1\): use them"
    ) as refusal:
        train_head.main(replace(again, lr=0.1, csc_weight=0.1))
    assert "\n" not in str(refusal.value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("train_head.stage.load", lambda given: replace(load(given), train=replace(load(given).train, counts={})))
        with pytest.raises(UserError, match="the training videos or captions have changed since it began"):
            train_head.main(again)
    with pytest.MonkeyPatch.context() as patch:

        def reversed_captions(given: TrainOptions) -> TrainingData:
            # As many as before, of other videos.
            loaded = load(given)
            return replace(loaded, train=replace(loaded.train, answers=loaded.train.answers[::-1].copy()))

        patch.setattr("train_head.stage.load", reversed_captions)
        with pytest.raises(UserError, match="the videos or captions for training or for choosing the epoch have changed since"):
            train_head.main(again)
    next(options.out.glob("checkpoint-*.safetensors")).write_bytes(b"")
    with pytest.raises(UserError, match="damaged"):
        train_head.main(again)


def test_a_finished_run_is_not_trained_again(options: TrainOptions, capsys: pytest.CaptureFixture[str]) -> None:
    once = replace(options, epochs=1, resume=True)
    train_head.main(once)
    before = {path: path.stat().st_mtime_ns for path in options.out.iterdir()}
    capsys.readouterr()
    train_head.main(replace(once, json=True))
    assert json.loads(capsys.readouterr().out)["best_epoch"] == 1
    assert {path: path.stat().st_mtime_ns for path in options.out.iterdir()} == before
    with pytest.raises(UserError, match="--epochs was 1 and is 2"):
        train_head.main(replace(once, epochs=2))
    with pytest.raises(UserError, match="holds a finished run: name another folder, or delete"):
        train_head.main(replace(once, resume=False))


def test_a_folder_of_other_files_is_left_alone(options: TrainOptions) -> None:
    options.out.mkdir()
    (options.out / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        train_head.main(options)


@pytest.mark.long
def test_sigterm_ends_with_130_and_can_be_resumed(options: TrainOptions) -> None:
    arguments = [
        "--cache",
        options.cache,
        "--out",
        options.out,
        "--batch-size",
        32,
        "--epochs",
        60,
        "--checkpoint-steps",
        2,
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "train_head", *map(str, arguments), "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    wait_until((options.out / CHECKPOINT_FILE).exists, "a checkpoint")
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said == f"interrupted; run the same command with --resume to go on from the last checkpoint in {options.out}\n"
    state = json.loads((options.out / CHECKPOINT_FILE).read_text())
    assert 1 <= state["epoch"] <= 60
    assert (options.out / state["tensors"]).is_file()


def test_features_that_are_no_numbers_stop_at_the_step(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(given: TrainOptions) -> object:
        loaded = load(given)
        held = loaded.train.videos.frames._values_TD
        assert held is not None
        held[0] = torch.nan
        return loaded

    monkeypatch.setattr("train_head.stage.load", broken)
    first = load(options).train.videos.ids[0]
    with pytest.raises(UserError, match=rf"features are not finite of '{first}: .*', epoch 1") as refusal:
        train_head.main(options)
    assert all(line.startswith(f"{first}: ") for line in refusal.value.listed)
    state = json.loads((options.out / CHECKPOINT_FILE).read_text())
    assert (state["epoch"], state["trainer"]["steps_done"] % options.checkpoint_steps) == (1, 0)


def test_a_loss_that_is_no_number_names_the_batch(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train_head.training.trainer.contrastive_loss", lambda score_AB, _: score_AB.sum() * torch.inf)
    with pytest.raises(UserError, match=r"the loss is (-?inf|nan) in epoch 1, on videos video\d+, .* --lr") as refusal:
        train_head.main(options)
    assert len(refusal.value.listed) == 32
    assert "\n" not in str(refusal.value)


def test_captions_of_the_same_video_can_be_left_out() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    video = torch.tensor([0, 1, 0, 2, 0])
    left_out = (video[:, None] == video) & ~torch.eye(5, dtype=torch.bool)
    plain = scores.mean(dim=0)
    entropies = []
    for a in range(5):
        kept = [b for b in range(5) if not left_out[a, b]]
        entropies += [cross_entropy(line[kept], torch.tensor(kept.index(a))) for line in (plain[a], plain[:, a])]
    contrastive = contrastive_loss(plain, left_out)
    torch.testing.assert_close(contrastive, torch.stack(entropies).mean())
    variance = scores.var(dim=0)
    others = [variance[a, b] for a in range(5) for b in range(5) if video[a] != video[b]]
    csc = csc_loss(scores, left_out_AB=left_out)
    torch.testing.assert_close(csc, variance.diagonal().mean() / torch.stack(others).mean())
    (contrastive + csc).backward()
    assert scores.grad is not None
    assert not scores.grad[:, left_out].any()
    assert csc_loss(scores, left_out_AB=~torch.eye(5, dtype=torch.bool)).item() == 0


def test_masking_the_same_video_changes_the_batches_it_is_in(options: TrainOptions) -> None:
    loaded = load(options)
    texts = np.arange(8)
    assert len(set(loaded.train.answers[texts].tolist())) < 8
    losses = []
    for mask in (False, True):
        torch.manual_seed(0)
        chosen = replace(options, mask_same_video=mask)
        losses.append(Trainer(build_head(chosen, loaded.cache), chosen, loaded.train).step(texts))
    assert losses[1][1] < losses[0][1]


def test_lower_precision_is_near_and_refused_on_the_cpu(options: TrainOptions, cache: FeatureCache) -> None:
    """The temporal encoder in bfloat16 on the CPU; the option itself is for CUDA."""
    with pytest.raises(UserError, match="--precision bf16 needs CUDA"):
        train_head.main(replace(options, precision="bf16", device="cpu"))
    _, videos = Trainer(build_head(options, cache), options, load(options).train).batches(np.arange(6))
    exact, rough = (build_head(replace(options, precision=precision), cache).temporal_frames(videos) for precision in ("fp32", "bf16"))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact)[videos.mask_BF].norm() < 0.02 * exact[videos.mask_BF].norm()
