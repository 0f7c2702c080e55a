"""Heads that let padding count, as their authors do (--padding authors). tests/test_golden.py compares them with the authors' code, whose
padding holds features; here padding is what a cache gives, zero vectors.

Shape suffixes: A texts, B videos, D joint dimension, F frames, L words, S the scores of a pair.
"""

from copy import deepcopy
from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from data.base.errors import UserError
from tests.features import D, pad, random_features, text_batch
from tests.glim_reference import reference_scores
from tests.plain_heads import Parameters, plain_temporal, xclip_pair, xpool_pair
from tests.torch_threads import threads
from train_head.heads import DEFAULT_EXECUTION, HEADS, Execution, Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.heads.base import SCORES
from train_head.run import check_frames

WORDS, FRAMES, KAPPA = 5, 6, 0.2
COUNTING = [name for name, kind in HEADS.items() if kind.AUTHORS_PADDING == "counts"]
Temporal = Literal["none", "seq-transf"]
READ_PLAINLY: list[tuple[str, Temporal]] = [
    ("glccl", "none"),
    ("glccl", "seq-transf"),
    ("glim-global", "none"),
    ("glim-local", "none"),
    ("xclip", "none"),
    ("xclip", "seq-transf"),
    ("xpool", "none"),
    ("xpool", "seq-transf"),
]
"""The heads with a plain reading below."""
WORD_COUNTS, FRAME_COUNTS = [3, 1, 5], [3, 6, 1]


def head_with_padding(name: str, temporal: Temporal, execution: Execution = DEFAULT_EXECUTION) -> Head:
    """All its parameters away from where they start, where a wrong mask or a transposed matrix would hide."""
    torch.manual_seed(1)
    config = HeadConfig(D, WORDS, logit_scale=1.0, max_frames=FRAMES, kappa=KAPPA, padding="authors", padded_frames=FRAMES)
    if temporal != "none":
        config = replace(config, temporal=temporal, temporal_positions=FRAMES, temporal_heads=2)
    head = make_head(name, config, execution)
    with torch.no_grad():
        for key, parameter in head.named_parameters():
            if key != "logit_scale":
                parameter.add_(torch.randn(parameter.shape), alpha=0.2)
    return head


def scored(head: Head, sentences: list[Tensor], words: list[Tensor], frames: list[Tensor]) -> Tensor:
    return head.scores(head.encode_texts(text_batch(sentences, words)), head.encode_videos(VideoBatch(*pad(frames))))


def longer(rows: Tensor, count: int) -> Tensor:
    """The rows [N, D] with zero rows after them, `count` in all."""
    return torch.cat([rows, rows.new_zeros(count - len(rows), rows.shape[1])])


def plainly(head: Head, parameters: Parameters, sentences: list[Tensor], words: list[Tensor], frames: list[Tensor]) -> Tensor:
    """The scores [S, A, B] before the logit scale, one pair at a time in float64."""
    temporal = None if head.temporal is None else deepcopy(head.temporal).double()
    sentences = [sentence.double() for sentence in sentences]
    words = [longer(word.double(), WORDS) for word in words]
    before = [longer(frame.double(), FRAMES) for frame in frames]
    after = before if temporal is None else [plain_temporal(temporal, u, len(v)) for u, v in zip(before, frames, strict=True)]
    if head.name not in ("xclip", "xpool"):
        matrices = {"M_g": torch.eye(D), "M_l": torch.eye(D)} | {f"P{i}": torch.eye(WORDS) for i in range(1, 7)} | parameters
        chosen = [SCORES.index(score) for score in head.score_names()]
        return reference_scores(sentences, words, after, matrices, kappa=KAPPA, scale=1.0)[chosen]

    def pair(a: int, b: int) -> Tensor:
        if head.name == "xpool":
            return torch.stack(xpool_pair(sentences[a], words[a], before[b], after[b], parameters))
        # The video feature is the mean of real frames.
        return torch.stack(xclip_pair(sentences[a], words[a], before[b], after[b][: len(frames[b])], parameters, KAPPA))

    return torch.stack([torch.stack([pair(a, b) for b in range(len(frames))], dim=1) for a in range(len(sentences))], dim=1)


@pytest.mark.parametrize(("name", "temporal"), READ_PLAINLY)
def test_scores_and_gradients_equal_the_equations_with_zeros_for_padding(name: str, temporal: Temporal) -> None:
    """In float32 with and without gradients, for few texts, and in float64."""
    features = random_features(torch.Generator().manual_seed(3), WORD_COUNTS, FRAME_COUNTS)
    head = head_with_padding(name, temporal)
    parameters = {key: value.detach().double().requires_grad_() for key, value in head.named_parameters()}
    expected = plainly(head, parameters, *features)
    # A similarity is a dot product of D numbers over two norms, 3 * D * 2^-24 of rounding, and kappa = 0.2 multiplies it in two softmaxes.
    allowed = 3 * D * 2.0**-24 * (1 + 1 / KAPPA) ** 2 * max(1.0, float(expected.detach().abs().max()))
    with torch.no_grad():
        for execution in (DEFAULT_EXECUTION, Execution(few_texts=True)):
            assert (scored(head_with_padding(name, temporal, execution), *features) - expected).abs().max() < allowed
        wide = deepcopy(head).double()
        sentences, words, frames = ([x.double() for x in rows] for rows in features)
        assert (scored(wide, sentences, words, frames) - expected).abs().max() < 1e-9
    trained = scored(head, *features)
    assert (trained - expected).abs().max() < allowed
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(2))
    (trained * weight).sum().backward()
    (expected * weight).sum().backward()
    for key, value in parameters.items():
        if key == "logit_scale" or value.grad is None:
            continue
        ours = head.get_parameter(key).grad
        assert ours is not None
        assert (ours - value.grad).norm() <= 2e-4 * value.grad.norm() + 1e-6, key


@pytest.mark.parametrize("name", COUNTING)
@torch.no_grad()
def test_padding_of_a_batch_is_that_of_the_head(name: str) -> None:
    """Zero rows that a batch carries are those that the head would add. Features in their place are others, except in DRL, where the
    cosines of padding are 0."""
    sentences, words, frames = random_features(torch.Generator().manual_seed(5), WORD_COUNTS, FRAME_COUNTS)
    head = head_with_padding(name, "seq-transf")
    expected = scored(head, sentences, words, frames)

    def carried(size: float) -> Tensor:
        word_ALD, real_AL = pad(words)
        frame_BFD, mask_BF = pad(frames)
        generator = torch.Generator().manual_seed(6)
        for rows, real in ((word_ALD, real_AL), (frame_BFD, mask_BF)):
            rows[~real] = size * torch.randn(int((~real).sum()), D, generator=generator)
        texts = TextBatch(torch.stack(sentences), word_ALD.flatten(0, 1), torch.full((len(words),), WORDS), real_AL.sum(dim=1))
        return head.scores(head.encode_texts(texts), head.encode_videos(VideoBatch(frame_BFD, mask_BF)))

    assert torch.equal(carried(0.0), expected)
    assert torch.allclose(carried(1.0), expected) == (name in ("ti", "wti"))


@pytest.mark.exact
@pytest.mark.parametrize("temporal", ["none", "seq-transf"])
@pytest.mark.parametrize("name", COUNTING)
@torch.no_grad()
@settings(max_examples=2, deadline=None)
@given(data=st.data(), seed=st.integers(0, 10**6), texts=st.integers(2, 40), videos=st.integers(2, 60))
def test_not_a_bit_depends_on_order_neighbours_or_threads(
    name: str, temporal: Temporal, data: st.DataObject, seed: int, texts: int, videos: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    word_counts = torch.randint(1, WORDS + 1, (texts,), generator=generator).tolist()
    frame_counts = torch.randint(1, FRAMES + 1, (videos,), generator=generator).tolist()
    sentences, words, frames = random_features(generator, word_counts, frame_counts)
    head = head_with_padding(name, temporal)
    with threads(1):
        scores_SAB = scored(head, sentences, words, frames)
    some_texts = data.draw(st.permutations(range(texts)))[: data.draw(st.integers(1, texts))]
    some_videos = data.draw(st.permutations(range(videos)))[: data.draw(st.integers(1, videos))]
    with threads(2):
        found_SAB = scored(head, [sentences[a] for a in some_texts], [words[a] for a in some_texts], [frames[b] for b in some_videos])
    assert torch.equal(found_SAB, scores_SAB[:, some_texts][:, :, some_videos])


@pytest.mark.parametrize("temporal", ["none", "seq-transf"])
def test_frames_are_weighed_among_the_padding(temporal: Temporal) -> None:
    """The weights of a video's frames are those that the scores use. Padding has the rest."""
    sentences, words, frames = random_features(torch.Generator().manual_seed(4), WORD_COUNTS, FRAME_COUNTS[:2])
    head = head_with_padding("glccl", temporal).requires_grad_(False)
    found = head.frame_weights(text_batch(sentences, words), VideoBatch(*pad(frames)))
    assert found.sentence_ABF is not None
    assert found.word_ABLF is not None
    assert found.sentence_ABF.shape == (3, 2, 6)
    for b, video in enumerate(frames):
        whole = longer(video, FRAMES)
        whole = whole if head.temporal is None else plain_temporal(head.temporal, whole, len(video))
        for a, (sentence, of_text) in enumerate(zip(sentences, words, strict=True)):
            expected_F = (whole @ sentence / 5).softmax(dim=0)[: len(video)]
            torch.testing.assert_close(found.sentence_ABF[a, b, : len(video)], expected_F, rtol=1e-4, atol=1e-6)
            assert not found.sentence_ABF[a, b, len(video) :].any()
            expected_LF = (of_text @ whole.T / 5).softmax(dim=1)[:, : len(video)]
            torch.testing.assert_close(found.word_ABLF[a, b, : len(of_text), : len(video)], expected_LF, rtol=1e-4, atol=1e-6)
            assert not found.word_ABLF[a, b, len(of_text) :].any()


@pytest.mark.parametrize("name", COUNTING)
def test_a_video_longer_than_the_padding_is_refused(name: str) -> None:
    head = head_with_padding(name, "none")
    with pytest.raises(UserError, match=rf"--padding authors pads every video to {FRAMES} frames: use --max-frames {FRAMES} or less"):
        check_frames(head, FRAMES + 1, "videos of split 'test'")
    check_frames(head, FRAMES, "videos of split 'test'")


def test_padding_beyond_memory_is_refused() -> None:
    """A billion positions would end in torch's error about memory."""
    config = HeadConfig(D, WORDS, logit_scale=1.0, padding="authors", padded_frames=10**9)
    with pytest.raises(UserError, match=r"^--padding authors, which pads all videos alike, would take 1,000,000,000 frames, and 16,384"):
        make_head("ti", config)


def test_the_padding_of_authors_who_mask_changes_nothing() -> None:
    features = random_features(torch.Generator().manual_seed(6), WORD_COUNTS, FRAME_COUNTS)
    config = HeadConfig(D, WORDS, logit_scale=1.0)
    masked, authors = make_head("mean", config), make_head("mean", replace(config, padding="authors", padded_frames=FRAMES + 2))
    assert not authors.with_padding
    assert torch.equal(scored(authors, *features), scored(masked, *features))
    check_frames(authors, FRAMES + 9, "videos")
