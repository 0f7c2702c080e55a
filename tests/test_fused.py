"""The compiled scoring loop: the scores of the equations, and not a bit that depends on what is scored beside them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.glim_reference import reference_scores
from tests.test_glim import KINDS, degenerate, pad, random_features, random_head
from train_head.batches import TextBatch, VideoBatch
from train_head.fused import LANES, ROWS, fused_score, lane_videos, tile_texts
from train_head.glim import glim_scores, prepare_videos

Problem = tuple[TextBatch, VideoBatch, dict[str, Tensor]]


def fused(texts: TextBatch, videos: VideoBatch, head: dict[str, Tensor]) -> Tensor:
    return 100 * fused_score(tile_texts(texts), lane_videos(prepare_videos(videos.frame_BFD, videos.mask_BF)), head)


def problem(seed: int, texts: int, videos: int, longest: int = 12, most_frames: int = 6) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    word_counts = torch.randint(1, longest + 1, (texts,), generator=generator).tolist()
    frame_counts = torch.randint(1, most_frames + 1, (videos,), generator=generator).tolist()
    sentences, words, frames = random_features(generator, word_counts, frame_counts)
    return TextBatch(torch.stack(sentences), *pad(words)), VideoBatch(*pad(frames)), random_head(generator, longest)


def take(texts: TextBatch, rows: Tensor) -> TextBatch:
    return TextBatch(texts.sentence_AD[rows], texts.word_ALD[rows], texts.mask_AL[rows])


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
    scores = fused(TextBatch(torch.stack(sentences), *pad(words)), VideoBatch(*pad(frames)), head)
    torch.testing.assert_close(scores.double(), reference_scores(sentences, words, frames, head), rtol=1e-4, atol=1e-3)


def test_many_tiles_and_blocks_equal_the_plain_path() -> None:
    texts, videos, head = problem(1, texts=120, videos=3 * LANES + 5)
    expected = glim_scores(texts.sentence_AD, texts.word_ALD, texts.mask_AL, videos.frame_BFD, videos.mask_BF, head)
    torch.testing.assert_close(fused(texts, videos, head), expected, rtol=1e-4, atol=1e-3)


def test_a_text_longer_than_a_tile() -> None:
    texts, videos, head = problem(2, texts=3, videos=2, longest=ROWS + 20, most_frames=3)
    expected = glim_scores(texts.sentence_AD, texts.word_ALD, texts.mask_AL, videos.frame_BFD, videos.mask_BF, head)
    torch.testing.assert_close(fused(texts, videos, head), expected, rtol=1e-4, atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), texts=st.integers(1, 90), videos=st.integers(1, 150))
def test_not_a_bit_depends_on_order_or_neighbours(seed: int, texts: int, videos: int) -> None:
    text_batch, video_batch, head = problem(seed, texts, videos)
    scores = fused(text_batch, video_batch, head)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(texts, generator=generator), torch.randperm(videos, generator=generator)
    rows, columns = rows[: texts // 2 + 1], columns[: videos // 2 + 1]
    some = VideoBatch(video_batch.frame_BFD[columns], video_batch.mask_BF[columns])
    assert torch.equal(fused(take(text_batch, rows), some, head), scores[:, rows][:, :, columns])


def test_not_a_bit_depends_on_the_number_of_threads() -> None:
    texts, videos, head = problem(3, texts=60, videos=200)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(fused(texts, videos, head))
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_equal_captions_tie() -> None:
    texts, videos, head = problem(4, texts=100, videos=70)
    rows = torch.arange(100)
    rows[::9] = 5
    scores = fused(take(texts, rows), videos, head)
    for row in range(0, 100, 9):
        assert torch.equal(scores[:, row], scores[:, 5])


@pytest.mark.parametrize("where", ["sentence", "word", "frame"])
def test_nan_is_not_lost(where: str) -> None:
    """A NaN among the features reaches the scores, where the metrics refuse it."""
    texts, videos, head = problem(5, texts=3, videos=4)
    {"sentence": texts.sentence_AD[1], "word": texts.word_ALD[1, 0], "frame": videos.frame_BFD[2, 0]}[where][3] = torch.nan
    scores = fused(texts, videos, head).mean(dim=0)
    hit = torch.zeros(3, 4, dtype=torch.bool)
    hit[:, 2] |= where == "frame"
    hit[1] |= where != "frame"
    assert torch.equal(scores.isnan(), hit)


@pytest.mark.parametrize("kind", KINDS)
def test_degenerate_features(kind: str) -> None:
    sentence, word, frame = degenerate(kind)
    head = random_head(torch.Generator().manual_seed(6), 6)
    texts = TextBatch(sentence, word, torch.ones(word.shape[:2], dtype=torch.bool))
    videos = VideoBatch(frame, torch.ones(frame.shape[:2], dtype=torch.bool))
    scores = fused(texts, videos, head)
    assert scores.isfinite().all()
    expected = glim_scores(sentence, word, texts.mask_AL, frame, videos.mask_BF, head)
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-3)
