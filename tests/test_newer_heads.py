"""T-MASS and GLSCL: what tests of every head leave out. Their losses, the noise in training, and scores without chance."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import train_head
from tests.conftest import ROOT
from tests.features import D, pad, random_features, text_batch
from tests.plain_heads import glscl_concepts, random_parameters, tmass_noise, tmass_stochastic, tmass_support
from tests.tmass_gallery import gallery
from tests.torch_threads import threads
from tests.training_runs import logged, stop_at
from train_head import TrainOptions
from train_head.batches import EncodedFrames
from train_head.heads import Head, HeadConfig, TextBatch, make_head
from train_head.heads.glscl import INTER, INTRA, QUERIES
from train_head.heads.tmass import ALPHA, TmassHead
from train_head.kernels.mass import Pairs, best_of, cosines

FEATURES = random_features(torch.Generator().manual_seed(3), [4, 2, 7, 1], [3, 5, 2, 4])


def config() -> HeadConfig:
    return HeadConfig(D, max_words=9, logit_scale=1.0, max_frames=7)


def head_of(name: str) -> tuple[Head, dict[str, Tensor]]:
    torch.manual_seed(0)
    head = make_head(name, config())
    return head, random_parameters(head, 5)


def batches() -> tuple[TextBatch, EncodedFrames]:
    sentences, words, frames = FEATURES
    frame_BFD, mask_BF = pad(frames, extra=1, fill=2.0)
    return text_batch(sentences, words), EncodedFrames(frame_BFD, mask_BF, before_BFD=frame_BFD)


def contrast(score_AB: Tensor) -> Tensor:
    """Symmetric InfoNCE, of text a with video a."""
    matching = score_AB.diagonal()
    return ((score_AB.logsumexp(dim=1) - matching).mean() + (score_AB.logsumexp(dim=0) - matching).mean()) / 2


# T-MASS


def in_training(head: Head) -> Tensor:
    texts, videos = batches()
    return head.scores(head.encode_texts(texts), head.encode_frames(videos))


def test_a_training_step_takes_one_stochastic_text_and_adds_the_support_texts_loss() -> None:
    head, parameters = head_of("tmass")
    sentences, _, frames = ([x.double() for x in part] for part in FEATURES)
    for _ in range(2):
        scores_SAB = in_training(head)
        noise_ABMD = tmass_noise(FEATURES[0], FEATURES[2], int(head.get_buffer("draws")), samples=1)
        expected = [
            [tmass_stochastic(s, v, parameters, noise_ABMD[a, b, 0]) for b, v in enumerate(frames)] for a, s in enumerate(sentences)
        ]
        torch.testing.assert_close(scores_SAB[0].double(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-5)
        support_AB = torch.tensor([[tmass_support(s, v, parameters) for v in frames] for s in sentences], dtype=torch.float64)
        loss = head.extra_losses(*batches())["support"]
        assert loss.item() == pytest.approx(ALPHA * contrast(support_AB).item(), rel=1e-4)
        # Without the scores of the same step it is computed anew, as in several processes.
        again = head.extra_losses(*batches())["support"]
        assert again.item() == loss.item()
        gradients = [torch.autograd.grad(of, list(head.parameters()), retain_graph=True, allow_unused=True) for of in (loss, again)]
        assert all(x is not None and torch.allclose(x, y, rtol=1e-5, atol=1e-7) for x, y in zip(*gradients, strict=True) if y is not None)


def test_pairs_that_are_left_out_are_no_negatives_of_the_support_text() -> None:
    head, parameters = head_of("tmass")
    sentences, _, frames = ([x.double() for x in part] for part in FEATURES)
    support_AB = torch.tensor([[tmass_support(s, v, parameters) for v in frames] for s in sentences], dtype=torch.float64)
    left_out_AB = torch.zeros(support_AB.shape, dtype=torch.bool)
    left_out_AB[0, 1] = True
    in_training(head)
    loss = head.extra_losses(*batches(), left_out_AB)["support"]
    assert loss.item() == pytest.approx(ALPHA * contrast(support_AB.masked_fill(left_out_AB, -torch.inf)).item(), rel=1e-4)


def test_the_loss_of_other_texts_is_not_that_of_the_last_scores() -> None:
    head, _ = head_of("tmass")
    in_training(head)
    texts, videos = batches()
    turned = TextBatch(texts.sentence_AD.flip(0), texts.word_RD, texts.length_A)
    expected = head.extra_losses(turned, videos)["support"].item()
    assert head.extra_losses(turned, videos)["support"].item() == expected
    assert head.extra_losses(texts, videos)["support"].item() != pytest.approx(expected)


def test_every_step_has_other_noise_and_the_weights_say_which() -> None:
    head, _ = head_of("tmass")
    steps = [in_training(head) for _ in range(3)]
    assert all((earlier - later).abs().min() > 0 for earlier, later in pairwise(steps))
    torch.manual_seed(1)
    other = make_head("tmass", config())
    assert other.get_buffer("draws") != head_of("tmass")[0].get_buffer("draws")
    other.load_state_dict(head.state_dict())
    assert torch.equal(in_training(other), in_training(head))
    # Evaluation has no chance in it, whatever has been trained.
    with torch.no_grad():
        before = in_training(head)
        other.get_buffer("draws").zero_()
        assert torch.equal(in_training(other), before)


@pytest.mark.parametrize("dimension", [16, 18])
def test_compiled_cosines_and_gradients_are_those_of_float64(dimension: int) -> None:
    """With a dimension that fills whole vectors, and one that does not."""
    generator = torch.Generator().manual_seed(dimension)
    shapes = ((5, dimension), (7, 5, 4), (7, 4, dimension), (7, 5, 3), (3, dimension))
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    with torch.no_grad():
        given[0][1] = 0  # A text without direction.
        given[1][2] = 0  # A video without direction, whose cosines are 0.
    key_BA = torch.randint(2**62, (7, 5), generator=generator)
    weight_SAB = torch.randn(2, 5, 7, generator=generator)
    found, exact = cosines(Pairs(*given), key_BA), cosines(Pairs(*(x.double() for x in given)), key_BA)
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=1e-6)
    of_found, of_exact = (torch.autograd.grad((x * weight_SAB).sum(), given) for x in (found, exact))
    for one, other in zip(of_found, of_exact, strict=True):
        assert (one - other).norm() < 1e-5 * other.norm()
    with torch.no_grad():
        best_AB = best_of(Pairs(*given), key_BA, 20)
        torch.testing.assert_close(best_AB.double(), best_of(Pairs(*(x.double() for x in given)), key_BA, 20), rtol=0, atol=1e-6)
        assert (best_AB >= best_of(Pairs(*given), key_BA, 1)).all()


def test_a_text_without_radius_is_a_point() -> None:
    head, _ = head_of("tmass")
    assert isinstance(head, TmassHead)
    texts, videos = batches()
    # With gradients, all texts and all videos are one block each.
    ((some,), (others,)) = head.encode_texts(texts), head.encode_frames(videos)
    pairs = head.pairs(some.block, others.block)
    pairs = pairs._replace(cosine_BAF=torch.ones_like(pairs.cosine_BAF), radius_FD=torch.full_like(pairs.radius_FD, -9.0))
    xpool = make_head("xpool", config())
    xpool.load_state_dict({name: value for name, value in head.state_dict().items() if name not in ("radius", "draws")})
    expected_AB = xpool.scores(xpool.encode_texts(texts), xpool.encode_frames(videos))[0]
    key_BA = torch.zeros(pairs.mixture_BAK.shape[:2], dtype=torch.int64)
    torch.testing.assert_close(best_of(pairs, key_BA, 3), expected_AB, rtol=0, atol=1e-6)


def test_a_score_has_no_chance_in_it() -> None:
    """The same bits alone, and in a gallery in another order."""
    with threads(1):
        score_AB = gallery([0, 1, 2], list(range(60)))
        for a, b in ((0, 0), (1, 33), (2, 59)):
            assert torch.equal(gallery([a], [b]), score_AB[a : a + 1, b : b + 1])
        assert torch.equal(gallery([2, 0], [40, 7, 21]), score_AB[[2, 0]][:, [40, 7, 21]])


@pytest.mark.long
def test_another_process_gives_a_score_the_same_bits(tmp_path: Path) -> None:
    with threads(1):
        score_AB = gallery([0, 1, 2], list(range(60)))
    subprocess.run([sys.executable, "-m", "tests.tmass_gallery", str(tmp_path / "other")], check=True, cwd=ROOT)
    assert torch.equal(load_file(tmp_path / "other")["score_AB"], score_AB)


# GLSCL


def test_the_losses_of_glscl() -> None:
    head, parameters = head_of("glscl")
    _, words, frames = ([x.double() for x in part] for part in FEATURES)
    of_text, of_video = ([glscl_concepts(x, parameters) for x in part] for part in (words, frames))
    inter = torch.stack([(p - q).square().sum(dim=1).mean() for p, q in zip(of_text, of_video, strict=True)]).mean()
    apart = [[(p[k] @ p[j]).square() for k in range(QUERIES) for j in range(QUERIES) if k != j] for p in (*of_text, *of_video)]
    losses = head.extra_losses(*batches())
    assert losses.keys() == set(head.extra_loss_names)
    assert losses["inter"].item() == pytest.approx(INTER * inter.item(), rel=1e-4)
    assert losses["intra"].item() == pytest.approx(INTRA * torch.tensor(apart).mean().item(), rel=1e-4)


def test_the_losses_pull_concepts_of_a_pair_together_and_those_of_a_text_apart() -> None:
    head, _ = head_of("glscl")
    optimiser = torch.optim.SGD(head.parameters(), lr=1.0)
    for name in head.extra_loss_names:
        before = head.extra_losses(*batches())[name]
        optimiser.zero_grad()
        before.backward()
        optimiser.step()
        assert head.extra_losses(*batches())[name] < before


def test_glscl_weighs_frames_as_its_score_does() -> None:
    head, _ = head_of("glscl")
    texts, videos = batches()
    weight_ABF = head.frame_weights(texts, videos).sentence_ABF
    assert weight_ABF is not None
    sentences, _, frames = FEATURES
    for a, b in ((0, 0), (3, 2)):
        expected = (frames[b] @ sentences[a] / 5).softmax(dim=0)
        torch.testing.assert_close(weight_ABF[a, b, : len(expected)], expected)
        assert not weight_ABF[a, b, len(expected) :].any()


# Both


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> TrainOptions:
    """Six steps: 3 an epoch."""
    return TrainOptions(
        cache=cache_path,
        out=tmp_path / "run",
        epochs=2,
        batch_size=48,
        lr=1e-3,
        temporal="none",
        checkpoint_steps=1,
        device="cpu",
        quiet=True,
    )


@pytest.mark.parametrize(("name", "columns"), [("tmass", ["support"]), ("glscl", ["inter", "intra"]), ("tmvm-frames", ["variance"])])
def test_the_log_has_the_losses_and_a_resumed_run_ends_with_the_same_bits(
    options: TrainOptions, name: str, columns: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(options, head=name)
    whole = train_head.main(options)
    log = pd.read_csv(whole / "log.csv")
    trained = log[log["epoch"] > 0]
    assert len(trained) == 2
    assert (trained["csc"] == 0).all()
    assert (trained[columns] > 0).all().all()
    parts = trained["contrastive"] + trained[columns].sum(axis=1)
    assert trained["loss"].to_numpy() == pytest.approx(parts.to_numpy(), abs=1e-4)
    assert trained["loss"].iloc[1] < trained["loss"].iloc[0]
    stopped = replace(options, out=options.out.parent / "stopped")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train_head.main(stopped)
    resumed = train_head.main(replace(stopped, resume=True))
    assert (resumed / "head.safetensors").read_bytes() == (whole / "head.safetensors").read_bytes()
    pd.testing.assert_frame_equal(logged(resumed), logged(whole), check_exact=True)
