"""The compiled scoring loops: scores and gradients of the equations, and not a bit that depends on what is scored beside them."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.features import KINDS, degenerate, pad, random_features, random_head, text_batch
from tests.glim_reference import reference_scores
from tests.plain_heads import rounding
from tests.torch_threads import threads
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Execution, HeadConfig, make_head
from train_head.kernels.fused import COLUMNS, FEW_ROWS, FEW_UNIT, ROWS, fused_score, lane_videos, tile_texts
from train_head.kernels.plain import prepare_texts, prepare_videos, score
from train_head.kernels.threads import without_subnormals

Problem = tuple[TextBatch, VideoBatch, dict[str, Tensor]]


def fused(
    texts: TextBatch, videos: VideoBatch, head: dict[str, Tensor], kappa: float = 0.01, threads: int = 2, few: bool = False
) -> Tensor:
    tiled = tile_texts(texts, head, threads, *((FEW_ROWS, FEW_UNIT) if few else (ROWS, ROWS)))
    return 100 * fused_score(tiled, lane_videos(videos), head, threads, kappa=kappa)


def plain(texts: TextBatch, videos: VideoBatch, head: dict[str, Tensor], kappa: float = 0.01) -> Tensor:
    words = list(texts.word_RD.split(texts.length_A.tolist()))
    length, dimension = int(texts.length_A.max()), texts.word_RD.shape[1]
    # Stacked, so that gradients find their way.
    word_ALD = torch.stack([torch.cat([w, w.new_zeros(length - len(w), dimension)]) for w in words])
    mask_AL = torch.arange(length) < texts.length_A[:, None]
    guides = prepare_texts(texts.sentence_AD, word_ALD, mask_AL, head)
    return 100 * score(guides, prepare_videos(videos.frame_BFD, videos.mask_BF), head, kappa=kappa)


def problem(seed: int, texts: int, videos: int, longest: int = 12, most_frames: int = 6) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    word_counts = torch.randint(1, longest + 1, (texts,), generator=generator).tolist()
    frame_counts = torch.randint(1, most_frames + 1, (videos,), generator=generator).tolist()
    sentences, words, frames = random_features(generator, word_counts, frame_counts)
    return text_batch(sentences, words), VideoBatch(*pad(frames)), random_head(generator, longest)


def take(texts: TextBatch, rows: Tensor) -> TextBatch:
    words = texts.word_RD.split(texts.length_A.tolist())
    return text_batch([texts.sentence_AD[i] for i in rows], [words[i] for i in rows])


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    word_counts=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    frame_counts=st.lists(st.integers(1, 6), min_size=1, max_size=4),
)
def test_scores_equal_the_equations(seed: int, word_counts: list[int], frame_counts: list[int]) -> None:
    generator = torch.Generator().manual_seed(seed)
    sentences, words, frames = random_features(generator, word_counts, frame_counts)
    head = random_head(generator, max_words=9)
    scores = fused(text_batch(sentences, words), VideoBatch(*pad(frames)), head)
    expected = reference_scores(sentences, words, frames, head)
    assert ((scores - expected).abs() <= 100 * rounding("glccl", sentences, words, frames, head)).all()


def test_many_tiles_and_chunks_equal_the_plain_path() -> None:
    given_ = problem(1, texts=120, videos=COLUMNS // 6 + 5)
    # A softer kappa: at 0.01, of 125,000 random pairs in 16 dimensions a few are so near to a tie that float32 itself is off by 2e-4.
    torch.testing.assert_close(fused(*given_, kappa=0.05), plain(*given_, kappa=0.05), rtol=1e-4, atol=1e-3)


def test_a_text_longer_than_a_tile() -> None:
    texts, videos, head = problem(2, texts=30, videos=2, longest=ROWS + 20, most_frames=3)
    assert texts.length_A.max() > ROWS
    torch.testing.assert_close(fused(texts, videos, head, kappa=0.05), plain(texts, videos, head, kappa=0.05), rtol=1e-3, atol=1e-2)


@pytest.mark.exact
@torch.no_grad()
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), texts=st.integers(1, 90), videos=st.integers(1, 150), few=st.booleans())
def test_not_a_bit_depends_on_order_or_neighbours(seed: int, texts: int, videos: int, few: bool) -> None:
    """On small tiles with texts that are longer than a tile among them."""
    score = partial(fused, few=few)
    text_batch, video_batch, head = problem(seed, texts // (5 if few else 1) + 1, videos, longest=40 if few else 12)
    texts = len(text_batch.length_A)
    scores = score(text_batch, video_batch, head)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(texts, generator=generator), torch.randperm(videos, generator=generator)
    rows, columns = rows[: texts // 2 + 1], columns[: videos // 2 + 1]
    some = VideoBatch(video_batch.frame_BFD[columns], video_batch.mask_BF[columns])
    assert torch.equal(score(take(text_batch, rows), some, head), scores[:, rows][:, :, columns])


def test_small_tiles_give_the_scores_of_large_ones() -> None:
    """To rounding: products of another shape may add in another order."""
    given_ = problem(12, texts=25, videos=90, longest=40)
    torch.testing.assert_close(fused(*given_, kappa=0.05, few=True), fused(*given_, kappa=0.05), rtol=1e-5, atol=1e-4)


def test_few_texts_fill_small_tiles_alone() -> None:
    texts, _, head = problem(13, texts=30, videos=1, longest=60)
    with torch.no_grad():
        tiles = tile_texts(texts, head, 1, FEW_ROWS, FEW_UNIT).tiles
    assert sorted(np.concatenate([tile.texts for tile in tiles]).tolist()) == list(range(30))
    for tile in tiles:
        size = tile.rows.stop - tile.rows.start
        assert all(-(-int(texts.length_A[a] + 1) // FEW_ROWS) == -(-size // FEW_ROWS) for a in tile.texts)
        assert 0 <= size - tile.starts[-1] < FEW_UNIT
        assert size % FEW_UNIT == 0


def trained(texts: TextBatch, videos: VideoBatch, head: dict[str, Tensor], score: object = fused) -> list[Tensor]:
    """Scores, and the gradients of a function of theirs by sentences, words, frames and matrices."""
    leaves = [t.detach().clone().requires_grad_() for t in (texts.sentence_AD, texts.word_RD, videos.frame_BFD, *head.values())]
    matrices = dict(zip(head, leaves[3:], strict=True))
    scores = score(TextBatch(leaves[0], leaves[1], texts.length_A), VideoBatch(leaves[2], videos.mask_BF), matrices, kappa=0.05)  # type: ignore[operator]
    weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0)).to(scores.dtype)
    (scores * weight).sum().backward()
    return [scores.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def in_double(texts: TextBatch, videos: VideoBatch, head: dict[str, Tensor]) -> Problem:
    doubled = TextBatch(texts.sentence_AD.double(), texts.word_RD.double(), texts.length_A)
    return doubled, VideoBatch(videos.frame_BFD.double(), videos.mask_BF), {name: value.double() for name, value in head.items()}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), texts=st.integers(1, 40), videos=st.integers(1, 40), longest=st.integers(1, 13))
def test_gradients_equal_the_plain_form_in_double_precision(seed: int, texts: int, videos: int, longest: int) -> None:
    given_ = problem(seed, texts, videos, longest)
    found, expected = trained(*given_), trained(*in_double(*given_), score=plain)
    assert len(found) == len(expected) == 4 + 8
    for name, ours, exact in zip(["scores", "sentences", "words", "frames", *given_[2]], found, expected, strict=True):
        share = (ours - exact).norm() / exact.norm().clamp(min=1e-6)
        assert share < 2e-4, f"{name}: {share:.1e} of the gradient is wrong"


def test_gradients_of_a_batch_of_several_chunks_equal_the_plain_form() -> None:
    given_ = problem(7, texts=70, videos=2 * COLUMNS // 6 + 20)
    for ours, exact in zip(trained(*given_), trained(*in_double(*given_), score=plain), strict=True):
        assert (ours - exact).norm() < 2e-4 * exact.norm()


def test_gradients_of_the_matrices_alone() -> None:
    """Frozen features: the part of the work that features would need is left out, and the rest is the same."""
    texts, videos, head = problem(8, texts=30, videos=20)
    everything = trained(texts, videos, head)[4:]
    matrices = {name: value.clone().requires_grad_() for name, value in head.items()}
    scores = fused(texts, videos, matrices, kappa=0.05)
    weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    (scores * weight).sum().backward()
    for value, expected in zip(matrices.values(), everything, strict=True):
        assert value.grad is not None
        assert torch.equal(value.grad, expected)


def test_gradients_taken_again_are_the_same() -> None:
    """The gradients take the place of the products they are made from; another backward pass multiplies again."""
    texts, videos, head = problem(11, texts=4, videos=4)
    frame_BFD = videos.frame_BFD.requires_grad_()
    loss = fused(texts, videos, {name: value.requires_grad_() for name, value in head.items()}).sum()
    leaves = [frame_BFD, *head.values()]
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for again in (torch.autograd.grad(loss, leaves, retain_graph=True), torch.autograd.grad(loss, leaves)):
        assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


@pytest.mark.exact
def test_not_a_bit_depends_on_the_number_of_threads() -> None:
    """Of scores without gradients. With them, products have the shapes of the data, and a library may share them out among threads."""
    given_ = problem(3, texts=60, videos=200)
    found = []
    for count in (1, 2, 3):
        score = partial(fused, threads=count)
        with threads(count):
            with torch.no_grad():
                scores = score(*given_)
            found.append([scores, *trained(*given_, score=score)])
            assert torch.get_num_threads() == count
    for others in found[1:]:
        assert torch.equal(found[0][0], others[0])
        for one, other in zip(found[0][1:], others[1:], strict=True):
            assert (one - other).norm() < 2e-5 * one.norm()


@pytest.mark.exact
def test_equal_captions_tie() -> None:
    texts, videos, head = problem(4, texts=100, videos=70)
    rows = torch.arange(100)
    rows[::9] = 5
    scores = fused(take(texts, rows), videos, head)
    for row in range(0, 100, 9):
        assert torch.equal(scores[:, row], scores[:, 5])


@pytest.mark.parametrize("compiled", [True, False])
@torch.no_grad()
def test_products_in_lower_precision_move_scores_a_little(compiled: bool) -> None:
    texts, videos, matrices = problem(10, texts=40, videos=30)
    if not compiled:
        videos = VideoBatch(videos.frame_BFD.double(), videos.mask_BF)
        texts = TextBatch(texts.sentence_AD.double(), texts.word_RD.double(), texts.length_A)
    found = []
    for execution in (Execution(), Execution(products=torch.bfloat16)):
        head = make_head("glccl", HeadConfig(16, 12, logit_scale=100.0), execution).to(videos.frame_BFD.dtype)
        for name, value in matrices.items():
            head.get_parameter(name).copy_(value)
        found.append(head.scores(head.encode_texts(texts), head.encode_videos(videos)))
    exact, rough = found
    assert rough.dtype == exact.dtype
    assert 0 < (rough - exact).abs().mean() < 0.01 * exact.abs().mean()


@pytest.mark.parametrize("where", ["sentence", "word", "frame"])
def test_nan_is_not_lost(where: str) -> None:
    """A NaN among the features reaches the scores, where the metrics refuse it."""
    texts, videos, head = problem(5, texts=3, videos=4)
    {"sentence": texts.sentence_AD[1], "word": texts.word_RD[texts.length_A[0]], "frame": videos.frame_BFD[2, 0]}[where][3] = torch.nan
    scores = fused(texts, videos, head).mean(dim=0)
    hit = torch.zeros(3, 4, dtype=torch.bool)
    hit[:, 2] |= where == "frame"
    hit[1] |= where != "frame"
    assert torch.equal(scores.isnan(), hit)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_features(kind: str) -> None:
    sentence, word, frame = degenerate(kind)
    head = random_head(torch.Generator().manual_seed(6), 6)
    texts = text_batch(list(sentence), list(word))
    videos = VideoBatch(frame, torch.ones(frame.shape[:2], dtype=torch.bool))
    scores = fused(texts, videos, head)
    assert scores.isfinite().all()
    torch.testing.assert_close(scores, plain(texts, videos, head), rtol=1e-4, atol=1e-3)
    for gradient in trained(texts, videos, head)[1:]:
        assert gradient.isfinite().all()
        assert gradient.abs().max() < 1e8


def test_numbers_below_the_smallest_normal_are_zero_while_jobs_run_and_not_after() -> None:
    small = np.float32(1e-39)
    with without_subnormals():
        with without_subnormals():
            pass
        # Still within the outer one.
        assert (small * np.float32(1) == 0) == torch.set_flush_denormal(True)
    assert small * np.float32(1) != 0
