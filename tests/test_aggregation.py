"""X-CLIP's aggregations in training: scores and gradients of the compiled loops against the plain operations in double precision."""

from collections.abc import Iterator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.features import pad, random_features, text_batch
from tests.torch_threads import threads
from train_head.heads import Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.kernels.aggregation import aggregate_pairs
from train_head.kernels.lanes import LANES

WORDS, FRAMES, D = 13, 7, 16


def parts(seed: int, texts: int, videos: int) -> tuple[Head, TextBatch, VideoBatch]:
    """A head with all matrices away from the identity, and features of texts and videos of several lengths."""
    generator = torch.Generator().manual_seed(seed)
    word_counts = torch.randint(1, WORDS + 1, (texts,), generator=generator).tolist()
    frame_counts = torch.randint(1, FRAMES, (videos,), generator=generator).tolist()
    sentences, words, frames = random_features(generator, word_counts, frame_counts)
    head = make_head("xclip", HeadConfig(D, WORDS, logit_scale=1.0, max_frames=FRAMES, kappa=0.05))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return head, text_batch(sentences, words), VideoBatch(*pad(frames, extra=1, fill=2.0))


def trained(head: Head, texts: TextBatch, videos: VideoBatch, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """The scores, and the gradients of a weighted sum of them by features and parameters."""
    head = head.to(dtype)
    head.zero_grad()
    leaves = [t.detach().to(dtype).requires_grad_() for t in (texts.sentence_AD, texts.word_RD, videos.frame_BFD)]
    encoded = head.encode_texts(TextBatch(leaves[0], leaves[1], texts.length_A))
    scores_SAB = head.scores(encoded, head.encode_videos(VideoBatch(leaves[2], videos.mask_BF)))
    weight_SAB = torch.randn(scores_SAB.shape, generator=torch.Generator().manual_seed(0))
    (scores_SAB * weight_SAB).sum().backward()
    yield "scores", scores_SAB.detach()
    gradients = {"sentences": leaves[0], "words": leaves[1], "frames": leaves[2], **dict(head.named_parameters())}
    for name, leaf in gradients.items():
        assert leaf.grad is not None
        yield name, leaf.grad.clone()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), texts=st.integers(1, 20), videos=st.integers(1, 2 * LANES + 1))
def test_scores_and_gradients_equal_the_plain_operations_in_double_precision(seed: int, texts: int, videos: int) -> None:
    given_ = parts(seed, texts, videos)
    for (name, found), (_, exact) in zip(list(trained(*given_, torch.float32)), trained(*given_, torch.float64), strict=True):
        share = (found - exact).norm() / exact.norm().clamp(min=1e-6)
        assert share < 2e-4, f"{name}: {share:.1e} of it is wrong"


def test_a_video_without_frames_scores_zero_and_passes_no_gradient_to_the_matrices() -> None:
    head, texts, videos = parts(1, 3, 4)
    videos.mask_BF[2] = False
    found = dict(trained(head, texts, videos, torch.float32))
    assert not found["scores"][:, :, 2].any()
    alone = VideoBatch(videos.frame_BFD[[0, 1, 3]], videos.mask_BF[[0, 1, 3]])
    with torch.no_grad():
        torch.testing.assert_close(found["scores"][:, :, [0, 1, 3]], head.scores(head.encode_texts(texts), head.encode_videos(alone)))
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert not found["frames"][2].any()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(2)
    frame_columns = 2 * 3 * LANES
    cosines = [torch.rand(shape, generator=generator) for shape in ((6, 5, frame_columns), (6, frame_columns), (6, 5, 20))]
    mask_BF, length_A = torch.ones(20, 3, dtype=torch.bool), torch.tensor([5, 1, 2, 3, 4, 5])
    found = []
    for count in (1, 3):
        leaves = [tensor.clone().requires_grad_() for tensor in (*cosines, torch.eye(5).repeat(3, 1, 1), torch.eye(3).repeat(3, 1, 1))]
        with threads(count):
            scores_SAB = aggregate_pairs(leaves[0], leaves[1], leaves[2], length_A, mask_BF, leaves[3], leaves[4], 0.01)
            scores_SAB.square().sum().backward()
        found.append([scores_SAB.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)])
    assert len(found[0]) == 6
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
