"""DRL's channel decorrelation: against a plain reading with padding left out, in training, and what is refused.

tests/test_golden.py compares it with the authors' code, padding included.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import train_head
from data.base.errors import UserError
from tests.features import D, pad, random_features, text_batch
from tests.glim_reference import unit
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.checks import check_options
from train_head.heads import HEADS, Head, HeadConfig, VideoBatch, has_decorrelation, make_head
from train_head.heads.own import own_class
from train_head.stage import build_head, load
from train_head.training.trainer import Trainer

WORDS, FRAMES = 7, 6
READING = [name for name, kind in HEADS.items() if kind.READS_WORDS and name != "joint"]


def correlation(rows: list[Tensor], others: list[Tensor], weights: list[Tensor]) -> Tensor:
    """The weighted sum over rows of outer products of standardised features."""
    left, right = ((x - x.mean(dim=0)) / x.std(dim=0) for x in (torch.stack(rows), torch.stack(others)))
    return torch.stack([weight * torch.outer(a, b) for weight, a, b in zip(weights, left, right, strict=True)]).sum(dim=0)


def plain_decorrelation(head: Head, words: list[Tensor], frames: list[Tensor], alphas: tuple[float, float]) -> Tensor:
    """One pair at a time, from ragged lists."""
    if head.name == "dp":
        videos = [unit(torch.stack([unit(frame) for frame in video]).mean(dim=0)) for video in frames]
        c = correlation([unit(text[-1]) for text in words], videos, [torch.tensor(1 / len(words), dtype=torch.float64)] * len(words))
    else:
        sides = []
        for these, those, kind in ((words, frames, "word"), (frames, words, "frame")):
            rows, best, weights = [], [], []
            for these_T, those_T in zip(these, those, strict=True):
                rows += [unit(x) for x in these_T]
                units = [unit(y) for y in those_T]
                best += [units[int(torch.stack([unit(x) @ y for y in units]).argmax())] for x in these_T]
                if head.name == "wti":
                    weights += list(head.get_submodule(f"{kind}_weight")(these_T)[:, 0].softmax(dim=0) / len(these))
            sides.append(correlation(rows, best, weights or [torch.tensor(1 / len(rows), dtype=torch.float64)] * len(rows)))
        c = (sides[0] + sides[1]) / 2
    loss = torch.zeros((), dtype=torch.float64)
    for i in range(len(c)):
        for j in range(len(c)):
            loss = loss + (alphas[0] * (c[i, j] - 1) ** 2 if i == j else alphas[1] * c[i, j] ** 2)
    return loss


@pytest.mark.parametrize("name", READING)
@settings(max_examples=4, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    counts=st.lists(st.tuples(st.integers(1, WORDS), st.integers(1, FRAMES)), min_size=3, max_size=5),
    alphas=st.sampled_from([(1.0, 0.06), (0.14, 0.0), (0.5, 2.0)]),
)
def test_the_loss_and_its_gradients_equal_the_equations(
    name: str, seed: int, counts: list[tuple[int, int]], alphas: tuple[float, float]
) -> None:
    """Padded frames hold features, which must not show."""
    generator = torch.Generator().manual_seed(seed)
    features = random_features(generator, [words for words, _ in counts], [frames for _, frames in counts])
    sentences, words, frames = ([x.double().requires_grad_() for x in rows] for rows in features)
    torch.manual_seed(seed)
    head = make_head(name, HeadConfig(D, WORDS, logit_scale=1.0, max_frames=FRAMES)).double()
    videos = head.apply_temporal(VideoBatch(*pad(frames, extra=2, fill=2.0)))
    found = head.decorrelation(text_batch(sentences, words), videos, alphas)
    expected = plain_decorrelation(head, words, frames, alphas)
    torch.testing.assert_close(found, expected)
    sources = [*words, *frames, *(p for key, p in head.named_parameters() if name == "wti" and "_weight." in key)]
    of_found, of_expected = (
        torch.cat([x.flatten() for x in torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)])
        for loss in (found, expected)
    )
    # Of the largest: where few rows hardly differ in a channel, large gradients cancel.
    assert (of_found - of_expected).abs().max() <= 1e-9 * of_expected.abs().max()


@pytest.mark.parametrize("name", ["ti", "meanmaxsim"])
def test_frames_are_those_after_the_temporal_encoder(name: str) -> None:
    _, words, frames = random_features(torch.Generator().manual_seed(0), [3, 2, 4], [2, 4, 3])
    torch.manual_seed(0)
    encoder = {"temporal": "seq-transf", "temporal_positions": FRAMES, "temporal_heads": 2}
    head = make_head(name, HeadConfig(D, WORDS, logit_scale=1.0, **encoder)).double()  # type: ignore[arg-type]
    videos = head.apply_temporal(VideoBatch(*pad([x.double() for x in frames])))
    after = [frame_FD[mask_F] for frame_FD, mask_F in zip(videos.frame_BFD, videos.mask_BF, strict=True)]
    words = [x.double() for x in words]
    found = head.decorrelation(text_batch([w[0] for w in words], words), videos)
    torch.testing.assert_close(found, plain_decorrelation(head, words, after, (1.0, 0.06)))


@pytest.mark.parametrize("name", ["dp", "ti", "wti"])
def test_constant_channels_have_no_correlation_and_no_gradient(name: str) -> None:
    """Three texts of the same words: all their channels are constant, so C is 0, and each entry of its diagonal costs 1."""
    sentences, words, frames = random_features(torch.Generator().manual_seed(0), [1, 1, 1], [1, 1, 1])
    words = [words[0].clone().requires_grad_() for _ in words]
    head = make_head(name, HeadConfig(D, WORDS, logit_scale=1.0))
    loss = head.decorrelation(text_batch(sentences, words), head.apply_temporal(VideoBatch(*pad(frames))))
    assert loss.item() == pytest.approx(D)
    for gradient in torch.autograd.grad(loss, words):
        assert not gradient.any()


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    return TrainOptions(
        cache=cache_path, out=tmp_path / "run", head="wti", cdcr=0.001, epochs=1, batch_size=32, lr=1e-3, checkpoint_steps=2,
        temporal="none", device="cpu", quiet=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["dp", "glccl"])
def test_the_loss_joins_the_step(options: TrainOptions, name: str) -> None:
    options = replace(options, head=name)
    loaded = load(options)
    batch = np.arange(32) * 3 % len(loaded.train.answers)

    def step(cdcr: float) -> dict[str, float]:
        torch.manual_seed(0)
        given_ = replace(options, cdcr=cdcr, temporal="seq-transf", temporal_init="random")
        trainer = Trainer(build_head(given_, loaded.cache), given_, loaded.train)
        texts, videos = trainer.batches(batch)
        with torch.no_grad():
            plain = trainer.head.decorrelation(texts, trainer.head.apply_temporal(videos))
        return {**dict(zip(trainer.losses, trainer.step(batch).tolist(), strict=True)), "plain": plain.item()}

    without = step(0.0)
    with_ = step(0.5)
    assert list(without) == ["loss", "contrastive", "csc", "plain"]
    assert list(with_) == ["loss", "contrastive", "csc", "cdcr", "plain"]
    assert with_["cdcr"] == pytest.approx(0.5 * with_["plain"], rel=1e-5)
    assert with_["loss"] == pytest.approx(without["loss"] + with_["cdcr"], rel=1e-5)
    assert (with_["contrastive"], with_["csc"]) == (without["contrastive"], without["csc"])


@pytest.mark.exact
def test_a_run_with_the_loss_logs_it_and_resumes_to_the_same_bits(options: TrainOptions, tmp_path: Path) -> None:
    whole = train_head.main(options)
    log: pd.DataFrame = logged(whole)
    assert list(log.columns[:5]) == ["epoch", "loss", "contrastive", "csc", "cdcr"]
    assert log["loss"][1] == pytest.approx(log["contrastive"][1] + log["cdcr"][1])
    stopped = replace(options, out=tmp_path / "stopped")
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(stopped)
    resumed = train_head.main(replace(stopped, resume=True))
    assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
    pd.testing.assert_frame_equal(logged(resumed), log, check_exact=True)
    plain = train_head.main(replace(options, cdcr=0.0, out=tmp_path / "plain"))
    assert (plain / "head.safetensors").read_bytes() != (whole / "head.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"--cdcr was 0.001 and is 0.002"):
        train_head.main(replace(options, cdcr=0.002, resume=True))


OWN = """
import torch
from torch import nn
from train_head.heads import Head, unit, unit_mean

class Plain(Head):
    def encode_text_block(self, block): return unit(block.sentence_AD)
    def encode_video_block(self, block): return unit_mean(block.frames.frame_BFD, block.frames.mask_BF)
    def score_block(self, texts, videos): return (texts @ videos.T)[None]
    def pair_flops(self, words, frames): return 2.0 * self.config.dimension + 0 * words * frames

class Defines(Plain):
    def decorrelation(self, texts, videos, alphas=(1.0, 0.06)): return super().decorrelation(texts, videos, alphas)

class Fails(Plain):
    def decorrelation(self, texts, videos): return texts.words

class Vector(Plain):
    def decorrelation(self, texts, videos): return texts.sentence_AD[0]
"""


@pytest.fixture
def own_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cdcr_heads.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cdcr_heads", raising=False)
    own_class.cache_clear()


@pytest.mark.usefixtures("own_heads")
@pytest.mark.parametrize(
    ("head", "cdcr", "message"),
    [
        ("mean", 0.001, "--cdcr 0.001: head mean reads no words: leave the option out, or use a head such as wti"),
        ("xpool", 0.001, "head xpool reads no words"),
        ("wti", -0.1, "--cdcr -0.1 must be a number of at least 0"),
        ("wti", float("nan"), "--cdcr nan must be a number of at least 0"),
        ("cdcr_heads:Plain", 0.001, "head cdcr_heads:Plain defines no method decorrelation: leave the option out"),
        ("cdcr_heads:Fails", 0.001, r"its decorrelation failed .* in .*cdcr_heads.py, line 16: mend it there"),
        ("cdcr_heads:Vector", 0.001, r"decorrelation must return a tensor that is one finite number, and returns one of shape \[\d+\]"),
    ],
)
def test_what_cannot_be_decorrelated_is_refused(options: TrainOptions, head: str, cdcr: float, message: str) -> None:
    with pytest.raises(UserError, match=message):
        train_head.main(replace(options, head=head, cdcr=cdcr))
    assert not options.out.exists()


@pytest.mark.usefixtures("own_heads")
def test_heads_that_have_the_loss_are_not_refused(options: TrainOptions) -> None:
    for head in (*READING, "cdcr_heads:Defines"):
        assert has_decorrelation(head)
        check_options(replace(options, head=head))
    make_head("cdcr_heads:Defines", HeadConfig(D, WORDS, logit_scale=1.0))
