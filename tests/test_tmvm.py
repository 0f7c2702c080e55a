"""Text-adaptive multiple visual prototypes: what tests of every head leave out.

Shape suffixes: A texts, B videos, F frames, M patch tokens of a frame, D joint dimension, S scores of a pair.
"""

import pytest
import torch
from torch import Tensor

from tests.features import D, pad, random_features, text_batch
from tests.plain_heads import random_parameters, tmvm_masks
from train_head.batches import EncodedFrames
from train_head.heads import HeadConfig, VideoBatch, make_head
from train_head.heads.tmvm import PROTOTYPES, VARIANCE, TmvmHead

PATCHES = 3
SENTENCES, WORDS, FRAMES = random_features(torch.Generator().manual_seed(3), [4, 2, 7], [3, 5, 2, 4])
TOKENS = [torch.randn(len(v), PATCHES, D, generator=torch.Generator().manual_seed(b)) for b, v in enumerate(FRAMES)]
NAMES = ("tmvm", "tmvm-frames")


def head_of(name: str) -> tuple[TmvmHead, dict[str, Tensor]]:
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(D, max_words=9, logit_scale=1.0, patches=PATCHES))
    assert isinstance(head, TmvmHead)
    return head, random_parameters(head, 5)


def videos(frames: list[Tensor], tokens: list[Tensor], extra: int = 0) -> EncodedFrames:
    frame_BFD, mask_BF = pad(frames, extra=extra, fill=2.0)
    patch_BFMD = torch.full((*mask_BF.shape, PATCHES, D), 3.0)
    for b, patch_FMD in enumerate(tokens):
        patch_BFMD[b, : len(patch_FMD)] = patch_FMD
    return EncodedFrames(frame_BFD, mask_BF, patch_BFMD)


def score(head: TmvmHead, frames: list[Tensor], tokens: list[Tensor]) -> Tensor:
    return head.scores(head.encode_texts(text_batch(SENTENCES, WORDS)), head.encode_frames(videos(frames, tokens)))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_frames_and_tokens_does_not_matter(name: str) -> None:
    head, _ = head_of(name)
    turned = [patch_FMD.flip(0)[:, [1, 2, 0]] for patch_FMD in TOKENS]
    found_SAB = score(head, [frame_FD.flip(0) for frame_FD in FRAMES], turned)
    torch.testing.assert_close(found_SAB, score(head, FRAMES, TOKENS), rtol=0, atol=1e-6)
    if name == "tmvm":
        # They do matter: without them there are other scores.
        assert (found_SAB - score(head, FRAMES, [patch_FMD * 0 for patch_FMD in TOKENS])).abs().max() > 0.01


def test_with_equal_masks_the_score_is_that_of_mean() -> None:
    """Of the frames, or of frames and patch tokens as if each were a frame."""
    together = [torch.cat([frame_FD[:, None], patch_FMD], dim=1).flatten(0, 1) for frame_FD, patch_FMD in zip(FRAMES, TOKENS, strict=True)]
    mean = make_head("mean", HeadConfig(D, max_words=9, logit_scale=1.0))
    for name, given in (("tmvm", together), ("tmvm-frames", FRAMES)):
        head, _ = head_of(name)
        with torch.no_grad():
            head.mask.weight.zero_()
        frame_BFD, mask_BF = pad(given)
        expected_SAB = mean.scores(mean.encode_texts(text_batch(SENTENCES, WORDS)), mean.encode_videos(EncodedFrames(frame_BFD, mask_BF)))
        torch.testing.assert_close(score(head, FRAMES, TOKENS), expected_SAB, rtol=0, atol=1e-6)


def test_a_text_takes_the_prototype_that_is_nearest() -> None:
    """Masks that hold one of two frames each, and texts that describe one each: a mean would give a cosine of 0.707 at most."""
    head, _ = head_of("tmvm-frames")
    frame_FD = torch.eye(D)[:2]
    with torch.no_grad():
        head.mask.weight.zero_()
        head.mask.bias.zero_()
        head.mask.weight[0], head.mask.weight[1] = 100 * (frame_FD[0] - frame_FD[1]), 100 * (frame_FD[1] - frame_FD[0])
        texts = text_batch([frame_FD[0], frame_FD[1], frame_FD.sum(dim=0)], WORDS)
        scores_SAB = head.scores(head.encode_texts(texts), head.encode_frames(videos([frame_FD], [])))
    torch.testing.assert_close(scores_SAB[0, :, 0], torch.ones(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_variance_loss(name: str) -> None:
    head, parameters = head_of(name)
    spread = []
    for frame_FD, patch_FMD in zip(FRAMES, TOKENS, strict=True):
        tokens_ND = torch.cat([frame_FD, patch_FMD.flatten(0, 1)]) if name == "tmvm" else frame_FD
        spread.append(tmvm_masks(tokens_ND.double(), parameters).var(dim=0, correction=0).mean())
    texts = text_batch(SENTENCES, WORDS)
    for extra in (0, 3):
        losses = head.extra_losses(texts, videos(FRAMES, TOKENS, extra))
        assert tuple(losses) == head.extra_loss_names
        assert losses["variance"].item() == pytest.approx(VARIANCE * (1 - 4 * torch.stack(spread).mean().item()), rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_variance_loss_is_largest_for_equal_masks_and_0_for_opposite_ones(name: str) -> None:
    head, _ = head_of(name)
    texts, given = text_batch(SENTENCES, WORDS), videos(FRAMES, TOKENS)
    with torch.no_grad():
        different = head.extra_losses(texts, given)["variance"]
        head.mask.weight.zero_()
        head.mask.bias.fill_(0.7)
        equal = head.extra_losses(texts, given)["variance"]
        head.mask.bias[: PROTOTYPES // 2] = -100.0
        head.mask.bias[PROTOTYPES // 2 :] = 100.0
        opposite = head.extra_losses(texts, given)["variance"]
    assert equal.item() == pytest.approx(VARIANCE)
    assert 0 < different < equal
    assert opposite.item() == pytest.approx(0, abs=1e-7)


def test_the_variance_loss_moves_the_masks_apart() -> None:
    head, _ = head_of("tmvm")
    optimiser = torch.optim.SGD(head.parameters(), lr=1.0)
    texts, given = text_batch(SENTENCES, WORDS), videos(FRAMES, TOKENS)
    before = head.extra_losses(texts, given)["variance"]
    before.backward()
    optimiser.step()
    assert head.extra_losses(texts, given)["variance"] < before


@torch.no_grad()
def test_with_many_patch_tokens_fewer_videos_are_encoded_at_once_and_keep_their_bits() -> None:
    """Those of a ViT-B/32 would take hundreds of MiB in blocks of 48 videos."""
    torch.manual_seed(0)
    head = make_head("tmvm", HeadConfig(D, max_words=9, logit_scale=1.0, patches=49))
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(20, 6, *shape, generator=generator) for shape in ((D,), (49, D))]
    texts = text_batch(SENTENCES, WORDS)

    def scored(videos: list[int]) -> Tensor:
        frame_BFD, patch_BFMD = (features[videos] for features in batches)
        encoded = head.encode_videos(VideoBatch(frame_BFD, torch.ones(frame_BFD.shape[:2], dtype=torch.bool), patch_BFMD))
        assert {len(block.block) for block in encoded} == {12}
        return head.scores(head.encode_texts(texts), encoded)

    together_SAB = scored(list(range(20)))
    assert torch.equal(scored([7, 19, 3]), together_SAB[:, :, [7, 19, 3]])
