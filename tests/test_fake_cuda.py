"""Every path on a CUDA device that is not there: where its tensors are, how often it waits for the device, and what it computes.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.gpu.launches.counts import count_scores, count_step, random_head, random_split
from benchmarks.gpu.launches.fake_cuda import CUDA, fake_cuda
from data.compute.staging import to_device
from data.metrics import RankCounter
from extract.encode.clip import load_clip
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from train_head.heads import HEADS, Head, PairwiseHead, TextBatch, VideoBatch
from train_head.scoring.candidates import CandidateCollector
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.rerank import rerank

CPU = torch.device("cpu")
EVERY = [
    (name, encoder) for name, kind in HEADS.items() for encoder in (["none"] if kind.OWN_BLOCKS else ["none", "seq-transf", "seq-lstm"])
]
QUICK = [("glccl", "none"), ("mean", "seq-lstm"), ("xclip", "seq-transf"), ("ts2", "none"), ("joint", "none"), ("tmass", "none")]
UPLOADS = 4
"""Copies of the features of a split, once each, before any score: words, sentences, frames and patch tokens."""


def scores_on(device: torch.device, head: Head, gradients: bool) -> Tensor:
    """The scores of a few texts and videos of a random split."""
    split = random_split(7, 5)
    texts, videos = TextBatch.gather(split.texts, range(7), device), VideoBatch.gather(split.videos, range(5), device)
    with torch.set_grad_enabled(gradients):
        return head.scores(head.encode_texts(texts), head.encode_videos(videos)).detach()


@pytest.mark.parametrize(("name", "temporal"), long_but(QUICK, EVERY))
def test_a_head_gives_the_scores_of_the_cpu_on_the_device_and_never_waits(name: str, temporal: str) -> None:
    with fake_cuda() as counts:
        there, here = (random_head(name, temporal, device).eval() for device in (CUDA, CPU))
        expected = {gradients: scores_on(CPU, here, gradients) for gradients in (False, True)}
        for gradients in (False, True):
            counts.clear()
            scores_SAB = scores_on(CUDA, there, gradients)
            assert not counts.waits
            assert counts.staged
            assert scores_SAB.device == CUDA
            torch.testing.assert_close(scores_SAB.cpu(), expected[gradients], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", long_but(["glccl", "glscl"], [name for name, kind in HEADS.items() if not issubclass(kind, PairwiseHead)]))
def test_a_training_step_never_waits_for_the_device(name: str) -> None:
    # tmass compares hashes, to know whether the support text's cosines are those of the same step.
    expected = {"aten.equal.default": 2} if name == "tmass" else {}
    assert count_step(name, batch=8).waits == expected


def test_a_step_on_features_that_do_not_fit_on_the_device_never_waits_for_it() -> None:
    counts = count_step("mean", "seq-transf", batch=8, free_bytes=0)
    assert not counts.waits
    # A copy of the rows takes the place of each copy of their indices.
    assert counts.staged == count_step("mean", "seq-transf", batch=8).staged


def test_a_block_of_scores_is_read_once() -> None:
    """70 texts in one strip and 20 videos in one block."""
    assert count_scores("mean", 70, 20).waits == {"copy to the device": UPLOADS, "to the CPU": 1}
    assert count_scores("mean", 70, 20, free_bytes=0).waits == {"to the CPU": 1}


def test_ranks_candidates_and_re_ranked_scores_are_those_of_the_cpu() -> None:
    split, found = random_split(40, 20), {}
    with fake_cuda():
        for device in (CUDA, CPU):
            head = random_head("wti", "none", device)
            counter, collector = RankCounter(split.answers, 20), CandidateCollector(40, 20, 5)
            score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter), collector], 2**30)
            video_AK = collector.candidates().video_AK
            score_AK = rerank(head, split.texts, split.videos, torch.from_numpy(video_AK), 2**30)
            found[device.type] = counter.metrics(), video_AK, score_AK
    assert found["cuda"][0] == found["cpu"][0]
    np.testing.assert_array_equal(found["cuda"][1], found["cpu"][1])
    torch.testing.assert_close(found["cuda"][2], found["cpu"][2], rtol=1e-4, atol=1e-4)


def test_texts_with_padding_and_texts_cut_are_those_of_the_cpu() -> None:
    split = random_split(6, 6)
    with fake_cuda() as counts:
        there, here = (TextBatch.gather(split.texts, range(6), device) for device in (CUDA, CPU))
        counts.clear()
        for change in (
            lambda batch: batch.padded_to(12),
            lambda batch: batch.padded_to(12).without_padding(),
            lambda batch: batch.cut_to(4),
        ):
            changed = change(there)
            assert not counts.waits
            assert torch.equal(changed.word_RD.cpu(), change(here).word_RD)
            counts.clear()


@pytest.mark.parametrize("name", ["joint", "tight"])
def test_chosen_pairs_are_scored_as_on_the_cpu_without_waiting(name: str) -> None:
    """As in a step on hard negatives."""
    split, found = random_split(9, 7), []
    text_P, video_P = torch.tensor([0, 8, 8, 3, 1]), torch.tensor([6, 0, 1, 3, 6])
    with fake_cuda() as counts:
        for device in (CPU, CUDA):
            head = random_head(name, "none", device)
            texts, videos = TextBatch.gather(split.texts, range(9), device), VideoBatch.gather(split.videos, range(7), device)
            counts.clear()
            found.append(head.pair_scores(head.encode_texts(texts), head.encode_videos(videos), text_P, video_P))  # type: ignore[operator]
            found[-1].sum().backward()
            assert not counts.waits
        torch.testing.assert_close(found[1].detach().cpu(), found[0].detach(), rtol=1e-4, atol=1e-4)


def test_clip_in_finetuning_gives_the_features_of_the_cpu_without_waiting() -> None:
    clip = load_clip(DEMO_CLIP, None, CPU)
    clip.model.requires_grad_(True)
    image_NCHW = torch.randn(2, 3, clip.model.visual.image_size, clip.model.visual.image_size, generator=torch.Generator().manual_seed(0))
    ids_NL, _ = clip.tokenize(["a ring", "a blue heart moves"], 8)
    with torch.no_grad():
        expected = clip.image_features(image_NCHW), *clip.text_features(ids_NL)
    with fake_cuda() as counts:
        there = replace(clip, model=clip.model.to(CUDA), device=CUDA)
        images, ids = to_device(image_NCHW, CUDA), to_device(ids_NL, CUDA)
        # The kind of the text tower is found out once.
        assert there.text
        counts.clear()
        found = there.image_features(images), *there.text_features(ids)
        torch.cat([feature.flatten() for feature in found]).sum().backward()
        assert not counts.waits
        for feature, of_cpu in zip(found, expected, strict=True):
            assert feature.device == CUDA
            torch.testing.assert_close(feature.detach().cpu(), of_cpu, rtol=1e-3, atol=1e-4)


def test_the_fake_device_refuses_what_cuda_refuses() -> None:
    with fake_cuda() as counts:
        x = torch.arange(6.0).to(CUDA).view(2, 3)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(2, 3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.cat([x, torch.ones(2, 3)])
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.numpy()
        # A scalar on the CPU is a number to CUDA.
        assert (x + torch.ones(())).device == CUDA
        counts.clear()
        assert x[x > 1].shape == (4,)
        assert x[torch.tensor([1])].device == CUDA
        assert int(x[1, 2]) == 5
        assert not x.isnan().any()
        assert x.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert counts.waits.total() == 5
        counts.clear()
        torch.ones(3).pin_memory().to(CUDA, non_blocking=True)
        assert (counts.staged, counts.waits.total()) == (1, 0)
        weight = torch.nn.Parameter(x.clone())
        (weight * x).sum().backward()
        assert weight.grad is not None
        assert torch.equal(weight.grad.cpu(), x.cpu())


def test_operations_are_those_of_fake_tensor_mode() -> None:
    """The rules are torch's own: the same error, without `fake_cuda` around it."""
    with fake_cuda():
        pass
    with FakeTensorMode(), pytest.raises(RuntimeError, match="same device"):
        torch.ones(3, device="cuda") + torch.ones(3)


def test_every_file_with_a_branch_for_cuda_is_on_the_page() -> None:
    page = (ROOT / "docs" / "design" / "gpu.md").read_text()
    signs = (
        '.type == "cuda"',
        '.type != "cuda"',
        '.type == "cpu"',
        '.type != "cpu"',
        "torch.cuda.",
        "torch.backends.cuda",
        "by_device(",
        "decode_device == ",
        "sampling.cuda",
    )
    folders = ("data", "extract", "train_head", "search", "evaluate", "demo", "experiments")
    found = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        if any(sign in path.read_text() for sign in signs)
    }
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `") and ".py`" in line}
    assert {Path(name) for name in found} == {Path(name) for name in listed}
