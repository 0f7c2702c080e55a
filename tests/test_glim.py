"""GLIM's scores by the identity against the plain reading of the equations."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.features import KINDS, D, degenerate, pad, random_features, random_head, text_batch
from tests.glim_reference import NAMES, reference_scores
from tests.plain_heads import rounding
from train_head.glim import frame_weights, glim_scores
from train_head.heads import HeadConfig, VideoBatch, make_head


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    word_counts=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    frame_counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_scores_equal_the_equations(seed: int, word_counts: list[int], frame_counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    sentences, words, frames = random_features(generator, word_counts, frame_counts)
    head = random_head(generator, max_words=9)
    scores = glim_scores(torch.stack(sentences), *pad(words), *pad(frames), head)
    expected = reference_scores(sentences, words, frames, head)
    assert ((scores - expected).abs() <= 100 * rounding("glccl", sentences, words, frames, head)).all()


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    word_mask=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=5),
    frame_mask=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4),
    identity=st.booleans(),
)
def test_any_masks_give_the_scores_of_what_they_leave(
    seed: int, word_mask: list[list[bool]], frame_mask: list[list[bool]], identity: bool
) -> None:
    """Also with holes, which leave P1 ... P6 with the rows and columns of the real words; gradients as by the plain form in float64."""
    generator = torch.Generator().manual_seed(seed)
    mask_AL, mask_BF = torch.tensor(word_mask), torch.tensor(frame_mask)
    sentences, words, frames = random_features(generator, [5] * len(mask_AL), [4] * len(mask_BF), norm=4.0)
    head = None if identity else random_head(generator, 7)
    found = with_gradients(torch.stack(sentences), torch.stack(words), mask_AL, torch.stack(frames), mask_BF, head)
    exact = with_gradients(
        torch.stack(sentences).double(),
        torch.stack(words).double(),
        mask_AL,
        torch.stack(frames).double(),
        mask_BF,
        head and {name: value.double() for name, value in head.items()},
    )
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() <= 2e-4 * theirs.norm()
    for a, b in [(a, b) for a in range(len(mask_AL)) for b in range(len(mask_BF))]:
        at = mask_AL[a].nonzero()[:, 0]
        matrices = head or {"M_g": torch.eye(D), "M_l": torch.eye(D)} | dict.fromkeys(NAMES, torch.eye(5))
        closed_up = {name: value[at][:, at] if name in NAMES else value for name, value in matrices.items()}
        if not mask_BF[b].any():
            assert not found[0][:, a, b].any()
        elif len(at) == 0:
            assert not found[0][1:, a, b].any()
        else:
            expected = reference_scores([sentences[a]], [words[a][at]], [frames[b][mask_BF[b]]], closed_up, kappa=SOFT)
            torch.testing.assert_close(found[0][:, a, b].double(), expected[:, 0, 0], rtol=1e-4, atol=1e-3)


SOFT = 0.05
"""A kappa at which rounding is not amplified a hundredfold, so that float32 and float64 can be compared closely."""


def with_gradients(
    sentence_AD: Tensor, word_ALD: Tensor, mask_AL: Tensor, frame_BFD: Tensor, mask_BF: Tensor, head: dict[str, Tensor] | None
) -> list[Tensor]:
    """Scores, and the gradients of a function of them by every tensor."""
    leaves = [t.clone().requires_grad_() for t in (sentence_AD, word_ALD, frame_BFD, *(head or {}).values())]
    matrices = head and dict(zip(head, leaves[3:], strict=True))
    scores = glim_scores(leaves[0], leaves[1], mask_AL, leaves[2], mask_BF, matrices, kappa=SOFT)
    weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(scores.dtype)
    return [scores.detach(), *torch.autograd.grad((scores * weight).sum(), leaves)]


def two_and_two() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Two texts, the first with a hole, and two videos."""
    sentences, words, frames = random_features(torch.Generator().manual_seed(9), [4, 4], [3, 5])
    word_ALD, mask_AL = pad(words)
    mask_AL[0, 1] = False
    return torch.stack(sentences), word_ALD, mask_AL, *pad(frames)


def test_derivatives_of_gradients_are_refused_in_float32_and_right_in_float64() -> None:
    sentence, word, word_mask, frame, frame_mask = two_and_two()
    sentence.requires_grad_()
    with pytest.raises(RuntimeError, match="use float64"):
        torch.autograd.grad(glim_scores(sentence, word, word_mask, frame, frame_mask).sum(), sentence, create_graph=True)

    def scores(x: Tensor) -> Tensor:
        return glim_scores(x, word.double(), word_mask, frame.double(), frame_mask, kappa=0.5, logit_scale=1.0)

    assert torch.autograd.gradgradcheck(scores, sentence.detach().double().requires_grad_())


def test_settings_around_it_change_nothing() -> None:
    """A head's other parameters, matrices for longer texts of any size, masks of numbers, autocast, another default type."""
    sentence, word, word_mask, frame, frame_mask = two_and_two()
    head = random_head(torch.Generator().manual_seed(1), 9)
    exact = glim_scores(sentence, word, word_mask, frame, frame_mask, head)
    more = head | {"logit_scale": torch.tensor(3.0), "P2": torch.nn.functional.pad(head["P2"], (0, 4, 0, 4), value=7.0)}
    frame.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = glim_scores(sentence, word, word_mask.int(), frame, frame_mask.int(), more)
    torch.testing.assert_close(scores, exact, rtol=1e-5, atol=1e-4)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        torch.testing.assert_close(glim_scores(sentence, word, word_mask, frame, frame_mask, more), exact, rtol=1e-5, atol=1e-4)
        assert glim_scores(sentence, word, word_mask, frame, frame_mask).dtype == torch.float32
    finally:
        torch.set_default_dtype(before)
    alpha_ABF, _ = frame_weights(sentence, word, word_mask.int(), frame, frame_mask.int())
    assert torch.equal(alpha_ABF, frame_weights(sentence, word, word_mask, frame, frame_mask)[0])


def test_temperatures() -> None:
    sentence, word, word_mask, frame, frame_mask = two_and_two()
    for tau, kappa in ((-5.0, 0.01), (5.0, 0.0)):
        with pytest.raises(ValueError, match="not both above 0"):
            glim_scores(sentence, word, word_mask, frame, frame_mask, tau=tau, kappa=kappa)
    learned = torch.tensor(5.0, requires_grad=True)
    glim_scores(sentence, word, word_mask, frame, frame_mask, tau=learned).sum().backward()  # type: ignore[arg-type]
    assert learned.grad is not None
    assert learned.grad != 0


def test_no_texts_or_no_videos_give_no_scores() -> None:
    generator = torch.Generator().manual_seed(8)
    sentences, words, frames = random_features(generator, [3, 2], [2, 3])
    (word, word_mask), (frame, frame_mask) = pad(words), pad(frames)
    sentence = torch.stack(sentences)
    assert glim_scores(sentence[:0], word[:0], word_mask[:0], frame, frame_mask).shape == (4, 0, 2)
    assert glim_scores(sentence, word, word_mask, frame[:0], frame_mask[:0]).shape == (4, 2, 0)


def test_the_constants_reach_the_equations() -> None:
    generator = torch.Generator().manual_seed(1)
    sentences, words, frames = random_features(generator, [4, 2], [3, 5])
    head = random_head(generator, max_words=4)
    scores = glim_scores(torch.stack(sentences), *pad(words), *pad(frames), head, tau=2.0, kappa=0.1, logit_scale=7.0)
    expected = reference_scores(sentences, words, frames, head, tau=2.0, kappa=0.1, scale=7.0)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-4)


def test_no_head_is_the_identity() -> None:
    generator = torch.Generator().manual_seed(2)
    sentences, words, frames = random_features(generator, [4, 2, 5], [3, 5])
    identity = {"M_g": torch.eye(D), "M_l": torch.eye(D)} | {name: torch.eye(5) for name in NAMES}
    scores = glim_scores(torch.stack(sentences), *pad(words), *pad(frames))
    torch.testing.assert_close(scores.double(), reference_scores(sentences, words, frames, identity), rtol=1e-4, atol=1e-3)


def test_padding_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    sentences, words, frames = random_features(generator, [4, 2], [3, 5])
    head = random_head(generator, max_words=12)
    scores = glim_scores(torch.stack(sentences), *pad(words), *pad(frames), head)
    padded = glim_scores(torch.stack(sentences), *pad(words, extra=5, fill=3.0), *pad(frames, extra=4, fill=-2.0), head)
    torch.testing.assert_close(padded, scores, rtol=1e-5, atol=1e-4)


def test_the_head_in_blocks_equals_the_function() -> None:
    """GlcclHead scores texts in blocks of like length; the result is in the order of the batch."""
    generator = torch.Generator().manual_seed(4)
    word_counts = torch.randint(2, 11, (45,), generator=generator).tolist()
    sentences, words, frames = random_features(generator, word_counts, [3, 1, 5, 4])
    head = make_head("glccl", HeadConfig(D, 12, logit_scale=50.0)).requires_grad_(False)
    matrices = random_head(generator, max_words=12)
    for name, value in matrices.items():
        head.get_parameter(name).copy_(value)
    texts, videos = text_batch(sentences, words), VideoBatch(*pad(frames))
    scores = head.scores(head.encode_texts(texts), head.encode_videos(videos))
    expected = reference_scores(sentences, words, frames, matrices, scale=50.0)
    torch.testing.assert_close(scores.double(), expected, rtol=1e-4, atol=1e-3)


@torch.no_grad()
def test_the_plain_path_in_blocks_equals_the_function() -> None:
    """What the head does where the compiled loops do not run (on CUDA): here in float64."""
    generator = torch.Generator().manual_seed(4)
    word_counts = torch.randint(2, 11, (45,), generator=generator).tolist()
    sentences, words, frames = ([t.double() for t in some] for some in random_features(generator, word_counts, [3, 1, 5, 4]))
    matrices = random_head(generator, max_words=12, dtype=torch.float64)
    head = make_head("glccl", HeadConfig(D, 12, logit_scale=50.0)).double()
    for name, value in matrices.items():
        head.get_parameter(name).copy_(value)
    scores = head.scores(head.encode_texts(text_batch(sentences, words)), head.encode_videos(VideoBatch(*pad(frames))))
    torch.testing.assert_close(scores, reference_scores(sentences, words, frames, matrices, scale=50.0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_features_give_finite_scores_and_gradients(kind: str) -> None:
    inputs = [tensor.requires_grad_() for tensor in degenerate(kind)]
    sentence, word, frame = inputs
    head = {name: value.requires_grad_() for name, value in random_head(torch.Generator().manual_seed(6), 6).items()}
    word_mask = torch.ones(word.shape[:2], dtype=torch.bool)
    frame_mask = torch.ones(frame.shape[:2], dtype=torch.bool)
    scores = glim_scores(sentence, word, word_mask, frame, frame_mask, head)
    scores.square().sum().backward()
    assert scores.isfinite().all()
    for tensor in (*inputs, *head.values()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().max() < 1e8


def test_a_zero_video_scores_zero_and_zero_frames_count_as_padding() -> None:
    sentence, word, frame = degenerate("zero frames")
    word_mask, frame_mask = torch.ones(1, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    assert glim_scores(sentence, word, word_mask, frame, frame_mask)[:, 0, 0].abs().max() == 0
    sentence, word, frame = degenerate("one zero frame")
    without = torch.tensor([[True, False, True], [True, True, True]])
    torch.testing.assert_close(
        glim_scores(sentence, word, word_mask, frame, frame_mask), glim_scores(sentence, word, word_mask, frame, without)
    )


def test_gradients_by_finite_differences() -> None:
    generator = torch.Generator().manual_seed(7)
    sentences, words, frames = random_features(generator, [3, 2], [2, 3], norm=3.0)
    head = random_head(generator, 3, dtype=torch.float64)
    word, word_mask = pad(words)
    frame, frame_mask = pad(frames)
    inputs = [t.double().requires_grad_() for t in (torch.stack(sentences), word, frame)]
    names = list(head)
    matrices = [head[name].requires_grad_() for name in names]

    def scores(sentence: Tensor, word: Tensor, frame: Tensor, *values: Tensor) -> Tensor:
        # A softer kappa: at 0.01 finite differences see mostly the curvature.
        given = dict(zip(names, values, strict=True))
        return glim_scores(sentence, word, word_mask, frame, frame_mask, given, kappa=0.5, logit_scale=1.0)

    assert torch.autograd.gradcheck(scores, (*inputs, *matrices))


def test_wrong_shapes_are_refused() -> None:
    sentence, word, frame = degenerate("equal frames")
    masks = torch.ones(1, 4, dtype=torch.bool), torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="shapes"):
        glim_scores(sentence, word, masks[0], frame[..., :-1], masks[1])
    with pytest.raises(ValueError, match="up to 4 words"):
        glim_scores(sentence, word, masks[0], frame, masks[1], random_head(torch.Generator(), 3))
