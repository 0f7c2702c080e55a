"""The temporal encoders against a plain reading of them, and runs with `seq-lstm`."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import evaluate
import train_head
from data.base.errors import UserError
from data.cache import FeatureCache
from evaluate import EvaluateOptions
from search import SearchOptions
from search.searcher import Searcher
from tests.plain_heads import plain_temporal
from tests.training_runs import stop_at
from train_head import TrainOptions
from train_head.run import load_head
from train_head.settle import settled, settled_like, start_lines
from train_head.stage import build_head
from train_head.sweep.runs import run_name
from train_head.temporal import SeqLstm, SeqTransf, TemporalEncoder


@pytest.mark.parametrize("which", ["QuickGELU", "GELU", "LSTM"])
def test_frames_and_gradients_of_ragged_videos_equal_the_plain_reading(which: str) -> None:
    torch.manual_seed(0)
    encoder: TemporalEncoder = SeqLstm(16) if which == "LSTM" else SeqTransf(dimension=16, positions=9, heads=2, activation=which)
    encoder = encoder.double()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    counts = [7, 1, 4]
    frame_BFD = torch.randn(3, 7, 16, dtype=torch.float64, requires_grad=True)
    mask_BF = torch.arange(7) < torch.tensor(counts)[:, None]
    weight_BFD = torch.randn(3, 7, 16, dtype=torch.float64)
    inputs = [frame_BFD, *encoder.parameters()]
    found_BFD = encoder(frame_BFD, mask_BF)
    expected = [plain_temporal(encoder, frame_BFD[b, :count]) for b, count in enumerate(counts)]
    for b, count in enumerate(counts):
        torch.testing.assert_close(found_BFD[b, :count], expected[b])
    ours = torch.autograd.grad((found_BFD * weight_BFD)[mask_BF].sum(), inputs)
    loss = torch.stack([(frames * weight_BFD[b, : len(frames)]).sum() for b, frames in enumerate(expected)]).sum()
    for gradient, exact in zip(ours, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(gradient, exact)


def test_gradients_are_finite_where_frames_are_constant_or_zero() -> None:
    """Without variance, a LayerNorm multiplies by 1 / sqrt(epsilon), which is a million."""
    torch.manual_seed(0)
    encoder = SeqTransf(dimension=16, positions=4, heads=2, activation="QuickGELU")
    with torch.no_grad():
        encoder.positional_embedding[:2] = 0.0
    frame_BFD = torch.randn(3, 4, 16)
    frame_BFD[0], frame_BFD[1, 0], frame_BFD[1, 1], frame_BFD[2, 3] = 0.0, 0.0, 5.0, 0.0
    frame_BFD.requires_grad_()
    mask_BF = torch.arange(4) < torch.tensor([4, 3, 1])[:, None]
    out_BFD = encoder(frame_BFD, mask_BF)
    out_BFD[mask_BF].square().sum().backward()
    assert out_BFD.isfinite().all()
    for value in (frame_BFD, *encoder.parameters()):
        assert value.grad is not None
        assert value.grad.isfinite().all()
    assert frame_BFD.grad is not None
    assert not frame_BFD.grad[~mask_BF].any()


@torch.no_grad()
def test_the_lstm_takes_the_real_frames_of_a_mask_with_holes_in_their_order() -> None:
    torch.manual_seed(0)
    encoder = SeqLstm(16).double()
    frame_BFD = torch.randn(3, 6, 16, dtype=torch.float64)
    mask_BF = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 1, 0, 0, 0, 1], [1, 1, 1, 1, 1, 1]]).bool()
    found_BFD = encoder(frame_BFD, mask_BF)
    for frames, mask_F, found_FD in zip(frame_BFD, mask_BF, found_BFD, strict=True):
        torch.testing.assert_close(found_FD[mask_F], plain_temporal(encoder, frames[mask_F]))
        assert torch.equal(found_FD[~mask_F], frames[~mask_F])


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        cache_path, tmp_path / "run", head="mean", temporal="seq-lstm", epochs=2, batch_size=32, lr=1e-3, device="cpu", quiet=True
    )


def test_an_lstm_trains_resumes_to_the_same_bits_evaluates_and_searches(
    options: TrainOptions, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train_head.main(options)
    assert capsys.readouterr().err == ""
    record = json.loads((run / "run.json").read_text())
    assert record["start"] == {"temporal": {"from": "random"}}
    assert {name: record["trained_with"]["options"][name] for name in ("temporal", "temporal_init")} == {
        "temporal": "seq-lstm",
        "temporal_init": "random",
    }
    assert train_head.main(replace(options, resume=True)) == run
    stopped = replace(options, out=tmp_path / "stopped", checkpoint_steps=2)
    with monkeypatch.context() as interrupting:
        stop_at(interrupting, 5)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(stopped)
    resumed = train_head.main(replace(stopped, resume=True))
    assert (resumed / "head.safetensors").read_bytes() == (run / "head.safetensors").read_bytes()
    head, _ = load_head(str(run), cache, torch.device("cpu"))
    start = build_head(options, cache)
    for name, value in start.named_parameters():
        assert name == "logit_scale" or not torch.equal(value, head.get_parameter(name)), name
    assert start.frame_limits() == {}
    evaluation = EvaluateOptions(options.cache, str(run), tmp_path / "out", split="val", device="cpu", report=False, quiet=True)
    result = json.loads((evaluate.main(evaluation) / "metrics.json").read_text())
    assert result["text_to_video"] == pytest.approx(record["val"]["text_to_video"])
    [answer] = Searcher(SearchOptions(options.cache, str(run), device="cpu", quiet=True, top=3)).search(["a red ring"])
    assert len(answer.hits) == 3


def test_an_lstm_says_that_it_starts_at_random_and_refuses_clip_s_blocks(options: TrainOptions, cache: FeatureCache) -> None:
    assert list(start_lines(settled(options, cache), cache, quiet=False)) == ["temporal encoder: starts at random"]
    with pytest.raises(UserError, match=r"^--temporal-init clip: --temporal seq-lstm starts at random, .* leave --temporal-init out$"):
        train_head.main(replace(options, temporal_init="clip"))
    assert not options.out.exists()


def test_auto_is_seq_transf_under_its_old_names(options: TrainOptions, cache: FeatureCache) -> None:
    """The name of a sweep's run from before `auto` and `seq-lstm`."""
    before = TrainOptions(options.cache, options.out, temporal="seq-transf", epochs=1, batch_size=32, lr=1e-3, device="cpu", quiet=True)
    auto = settled(replace(before, temporal="auto"), cache)
    assert auto == settled(before, cache)
    assert settled_like(replace(before, temporal="auto"), {}) == auto
    others = [settled(replace(before, temporal=temporal), cache) for temporal in ("seq-lstm", "none")]
    assert len({run_name(run, cache, "test") for run in (auto, *others)}) == 3
