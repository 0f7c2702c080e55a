"""Margins and variances of answers and hardest negatives, against a plain reading of every pair, in blocks of any size.

Shape suffixes: A texts, B videos, S scores of a pair.
"""

import math
import statistics
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import train_head.scoring.pairs
from data.base.errors import UserError
from data.cache import FeatureCache
from data.metrics import NanScore, RankCounter
from tests.all_scores import all_scores
from tests.choice import long_but
from tests.plain_heads import random_parameters
from train_head.heads import HEADS, Head, HeadConfig, PairwiseHead, make_head
from train_head.heads.mean import MeanHead
from train_head.scoring.answers import Answers
from train_head.scoring.contrast import Contrast, ContrastCollector, contrast_figures
from train_head.scoring.pairs import RankedScores, score_all_pairs
from train_head.scoring.splits import Split, load_split

SEVERAL = ("glccl", "glim-global", "glim-local", "xclip")


@dataclass(frozen=True)
class Pair:
    """The best answer and the hardest negative of a text, read plainly."""

    answer: int
    negative: int | None
    margin: float
    variances: tuple[float, float]


def plain_contrast(score_SAB: Tensor, mean_AB: Tensor, captions: list[str], answers: list[int], scale: float) -> list[Pair]:
    """Every text alone, its videos one after the other. `mean_AB`: the retrieval scores, whose last bits may decide."""
    scores, texts, videos = score_SAB.shape
    found = []
    for a in range(texts):
        retrieval = mean_AB[a].tolist()
        right = {answers[other] for other in range(texts) if captions[other] == captions[a]}
        # Best first, and of equal ones the one listed first.
        order = sorted(range(videos), key=lambda b, scores=retrieval: (-scores[b], b))  # type: ignore[misc]
        answer, negative = next(b for b in order if b in right), next((b for b in order if b not in right), None)
        spread = [
            math.nan if b is None else statistics.pvariance([float(score_SAB[s, a, b]) / scale for s in range(scores)])
            for b in (answer, negative)
        ]
        margin = math.nan if negative is None else (retrieval[answer] - retrieval[negative]) / scale
        found.append(Pair(answer, negative, margin, (spread[0], spread[1])))
    return found


def check(contrast: Contrast, pairs: list[Pair], several: bool) -> None:
    there = [pair.negative is not None for pair in pairs]
    assert contrast.answer_A.tolist() == [pair.answer for pair in pairs]
    assert contrast.negative_A.tolist() == [-1 if pair.negative is None else pair.negative for pair in pairs]
    # Scores up to 100 round at 1e-5 in their mean.
    np.testing.assert_allclose(contrast.margin_A, [pair.margin for pair in pairs], rtol=1e-5, atol=1e-6)
    for found_A, i in ((contrast.answer_variance_A, 0), (contrast.negative_variance_A, 1)):
        if several:
            assert found_A is not None
            expected = [pair.variances[i] if kept else math.nan for pair, kept in zip(pairs, there, strict=True)]
            np.testing.assert_allclose(found_A, expected, rtol=1e-6, atol=1e-12)
        else:
            assert found_A is None


class FourScores(MeanHead):
    """Stands for a head with S scores: only their number and the scale are read."""

    NAMES = ("a", "b", "c", "d")


def head_with(scores: int, scale: float = 1.0) -> Head:
    kind = FourScores if scores == 4 else MeanHead
    return kind(kind.__name__, HeadConfig(4, max_words=4, logit_scale=scale))


@settings(max_examples=60, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 10**6),
    texts=st.integers(1, 12),
    videos=st.integers(1, 9),
    levels=st.integers(1, 20),
    scores=st.sampled_from([1, 4]),
)
def test_any_blocks_in_any_order_give_what_a_loop_over_pairs_gives(
    data: st.DataObject, seed: int, texts: int, videos: int, levels: int, scores: int
) -> None:
    """Scores of few values, which tie; captions that several videos share, up to all of them."""
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, videos, texts)
    captions = [f"caption {i}" for i in rng.integers(0, data.draw(st.integers(1, texts)), texts)]
    score_SAB = torch.from_numpy(rng.integers(-levels, levels, (scores, texts, videos)).astype(np.float32))
    collector = ContrastCollector(Answers(captions, answers, videos), head_with(scores, scale=8.0))
    blocks = [
        (rows, columns)
        for rows in np.array_split(rng.permutation(texts), data.draw(st.integers(1, texts)))
        for columns in np.array_split(np.arange(videos), data.draw(st.integers(1, videos)))
    ]
    for place in rng.permutation(len(blocks)):
        rows, columns = (torch.from_numpy(part) for part in blocks[place])
        collector.update(score_SAB[:, rows][:, :, columns], rows, columns)
    pairs = plain_contrast(score_SAB, score_SAB.mean(dim=0), captions, answers.tolist(), 8.0)
    contrast = collector.contrast()
    check(contrast, pairs, several=scores > 1)
    kinds = tuple(data.draw(st.lists(st.sampled_from(["", "order", "two words"]), min_size=texts, max_size=texts)))
    figures = contrast_figures(contrast, kinds)
    assert list(figures) == ["", *sorted({*kinds} - {""})]
    for kind, found in figures.items():
        some = [pair for pair, own in zip(pairs, kinds, strict=True) if kind in ("", own) and pair.negative is not None]
        assert found.texts == len(some)
        if not some:
            assert (found.margin, found.answer_variance, found.negative_variance, found.variance_ratio) == (None,) * 4
            continue
        assert found.margin == pytest.approx(statistics.fmean(pair.margin for pair in some), rel=1e-5, abs=1e-6)
        if scores > 1:
            of_answers, of_negatives = (statistics.fmean(pair.variances[i] for pair in some) for i in (0, 1))
            assert (found.answer_variance, found.negative_variance) == pytest.approx((of_answers, of_negatives))
            assert found.variance_ratio == (pytest.approx(of_answers / of_negatives) if of_negatives else None)
    assert contrast_figures(contrast, None) == {"": figures[""]}


def with_random_parameters(cache: FeatureCache, name: str, scale: float = 20.0) -> Head:
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(cache.dimension, 64, scale, max_frames=40, patches=4 if HEADS[name].READS_PATCHES else 0))
    random_parameters(head, 3)
    return head.eval()


def collected(head: Head, split: Split, memory_budget: int = 2**30) -> tuple[Contrast, RankCounter]:
    videos = len(split.videos.ids)
    collector, counter = ContrastCollector(Answers(split.texts.texts, split.answers, videos), head), RankCounter(split.answers, videos)
    score_all_pairs(head, split.texts, split.videos, split.answers, [RankedScores(counter), collector], memory_budget)
    return collector.contrast(), counter


@pytest.fixture
def split(patches_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> Split:
    """The demo's test split, scored in blocks of one or two videos; two videos share a caption."""
    monkeypatch.setattr(train_head.scoring.pairs, "FRAMES_PER_BLOCK", {"cpu": 24})
    split = load_split(patches_cache, "test", preset=None, memory_budget=2**30, patches=True)
    captions = list(split.texts.texts)
    first, other = 0, int(np.flatnonzero(split.answers != split.answers[0])[0])
    captions[other] = captions[first]
    return replace(split, texts=replace(split.texts, texts=captions))


@pytest.mark.parametrize("name", long_but({"glccl", "glim-local", "xclip", "mean", "tight"}, sorted(HEADS)))
def test_every_head_has_the_contrast_of_its_scores(name: str, patches_cache: FeatureCache, split: Split) -> None:
    head = with_random_parameters(patches_cache, name)
    contrast, counter = collected(head, split, memory_budget=1)
    assert (contrast.answer_variance_A is not None) == (name in SEVERAL)
    # The heads that work in the pairs have no scale.
    scale = 1.0 if issubclass(HEADS[name], PairwiseHead) else 20.0
    kept = all_scores(head, split)
    pairs = plain_contrast(kept.score_SAB, kept.mean_AB, list(split.texts.texts), split.answers.tolist(), scale)
    check(contrast, pairs, several=name in SEVERAL)
    # A caption of one video ranks first just where its margin is positive.
    alone_A = np.array([split.texts.texts.count(caption) == 1 for caption in split.texts.texts])
    assert alone_A.sum() == len(alone_A) - 2
    assert ((contrast.margin_A > 0) == (counter.ranks()[0].worst_Q == 1))[alone_A].all()


@pytest.mark.parametrize("name", long_but({"glccl", "xclip", "mean"}, sorted(set(HEADS) - {"tight", "joint"})))
def test_the_logit_scale_changes_no_margin(name: str, patches_cache: FeatureCache, split: Split) -> None:
    found = [collected(with_random_parameters(patches_cache, name, scale), split)[0] for scale in (1.0, 64.0)]
    assert (found[0].negative_A == found[1].negative_A).mean() > 0.9
    np.testing.assert_allclose(found[0].margin_A, found[1].margin_A, atol=1e-5)
    if name in SEVERAL:
        means = [(np.mean(one.answer_variance_A), np.mean(one.negative_variance_A)) for one in found]  # type: ignore[arg-type]
        assert means[0] == pytest.approx(means[1], rel=1e-3)


def test_a_score_that_is_no_number_is_named(cache: FeatureCache) -> None:
    """As in a head whose weights are no numbers any more. One of the scores is enough."""
    score_SAB = torch.zeros(4, 2, 3)
    score_SAB[2, 1, 2] = math.nan
    collector = ContrastCollector(Answers(["a", "b"], np.array([0, 1]), 3), head_with(4))
    with pytest.raises(NanScore) as raised:
        collector.update(score_SAB, torch.tensor([7, 5]) - 5, torch.tensor([0, 1, 2]))
    assert (raised.value.text, raised.value.video) == (0, 2)
    split, head = load_split(cache, "test", preset=None, memory_budget=2**30), with_random_parameters(cache, "glccl")
    head.get_parameter("M_g").data.fill_(math.nan)
    answers = Answers(split.texts.texts, split.answers, len(split.videos.ids))
    with pytest.raises(UserError, match=r"is NaN: train the head again with a lower --lr"):
        score_all_pairs(head, split.texts, split.videos, split.answers, [ContrastCollector(answers, head)], 2**30)


def test_memory_grows_with_the_texts_and_not_with_the_pairs() -> None:
    """4 scores of 200 texts and 20,000 videos are 64 MB; a block of 500 videos is 1.6 MB."""
    texts, videos, block = 200, 20_000, 500
    generator = torch.Generator().manual_seed(0)
    collector = ContrastCollector(Answers([str(a) for a in range(texts)], np.arange(texts), videos), head_with(4))
    before = _held(collector)
    for first in range(0, videos, block):
        collector.update(torch.randn(4, texts, block, generator=generator), torch.arange(texts), torch.arange(first, first + block))
    assert _held(collector) == before < 200 * texts
    assert collector.contrast().margin_A.shape == (texts,)


def _held(value: Any) -> int:
    """Bytes of the tensors that an object holds."""
    if isinstance(value, Tensor):
        return value.nbytes
    parts = vars(value).values() if hasattr(value, "__dict__") else value if isinstance(value, list | tuple) else ()
    return sum(map(_held, parts))


def test_of_equal_ones_the_first_counts() -> None:
    """An answer that ties with a negative has the margin 0; ties among negatives take the variance of the first."""
    score_SAB = torch.tensor([[[1.0, 3.0, 2.0, 2.0]], [[3.0, 1.0, 2.0, 2.0]], [[2.0, 2.0, 2.0, 2.0]], [[2.0, 2.0, 2.0, 2.0]]])
    for columns in ([3, 2, 1, 0], [0, 1, 2, 3], [2, 0, 3, 1]):
        collector = ContrastCollector(Answers(["a"], np.array([3]), 4), head_with(4))
        for b in columns:
            collector.update(score_SAB[:, :, [b]], torch.tensor([0]), torch.tensor([b]))
        found = collector.contrast()
        assert (found.answer_A.tolist(), found.negative_A.tolist(), found.margin_A.tolist()) == ([3], [0], [0.0])
        assert found.answer_variance_A is not None
        assert found.negative_variance_A is not None
        assert (found.answer_variance_A.tolist(), found.negative_variance_A.tolist()) == ([0.0], [0.5])
        assert contrast_figures(found, None)[""].variance_ratio == 0.0
