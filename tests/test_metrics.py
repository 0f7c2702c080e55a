"""Metrics against a naive count over all orders of the ties."""

import random
from statistics import mean, median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.metrics import RankCounter, retrieval_metrics


def places(scores: list[float], answer: int) -> list[int]:
    """All ranks the answer may have, each as likely as another."""
    higher = sum(s > scores[answer] for s in scores)
    tied = sum(s == scores[answer] for s in scores)
    return list(range(higher + 1, higher + tied + 1))


def summary(queries: list[list[int]]) -> dict[str, float]:
    recall = {f"R@{k}": 100 * mean(mean(p <= k for p in ranks) for ranks in queries) for k in (1, 5, 10)}
    expected = [mean(ranks) for ranks in queries]
    return recall | {"MdR": median(expected), "MnR": mean(expected)}


def naive_metrics(scores: list[list[float]], answers: list[int]) -> dict[str, dict[str, float]]:
    described = sorted(set(answers))
    text_to_video = [places(row, answer) for row, answer in zip(scores, answers, strict=True)]
    video_to_text = []
    for video in described:
        best = [max(scores[a][video] for a, answer in enumerate(answers) if answer == owner) for owner in described]
        video_to_text.append(places(best, described.index(video)))
    return {"text_to_video": summary(text_to_video), "video_to_text": summary(video_to_text)}


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[int]]:
    videos = draw(st.integers(1, 14))
    texts = draw(st.integers(1, 20))
    answers = draw(st.lists(st.integers(0, videos - 1), min_size=texts, max_size=texts))
    # Few different values: ties everywhere.
    row = st.lists(st.integers(0, 3).map(float), min_size=videos, max_size=videos)
    return draw(st.lists(row, min_size=texts, max_size=texts)), answers


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_metrics_equal_a_naive_count(problem: tuple[list[list[float]], list[int]]) -> None:
    scores, answers = problem
    metrics = retrieval_metrics(torch.tensor(scores), answers)
    naive = naive_metrics(scores, answers)
    for direction, expected in naive.items():
        assert metrics[direction] == pytest.approx(expected)
    assert metrics["RSum"] == pytest.approx(sum(naive[d][f"R@{k}"] for d in naive for k in (1, 5, 10)))


@settings(max_examples=50, deadline=None)
@given(problem=problems(), seed=st.integers(0, 1000), cut=st.integers(1, 6))
def test_blocks_in_any_order_give_the_same(problem: tuple[list[list[float]], list[int]], seed: int, cut: int) -> None:
    scores, answers = torch.tensor(problem[0]), problem[1]
    counter = RankCounter(answers, scores.shape[1])
    owners = sorted(set(answers))
    text_blocks = [
        torch.tensor([a for a, answer in enumerate(answers) if answer in owners[i : i + cut]]) for i in range(0, len(owners), cut)
    ]
    video_blocks = torch.arange(scores.shape[1]).split(cut)
    blocks = [(texts, videos) for texts in text_blocks for videos in video_blocks]
    random.Random(seed).shuffle(blocks)
    for texts, videos in blocks:
        counter.update(scores[texts][:, videos], texts, videos)
    assert counter.metrics() == retrieval_metrics(scores, answers)


def test_constant_scores_give_k_of_n() -> None:
    metrics = retrieval_metrics(torch.zeros(20, 20), list(range(20)))
    for direction in ("text_to_video", "video_to_text"):
        assert metrics[direction] == pytest.approx({"R@1": 5, "R@5": 25, "R@10": 50, "MdR": 10.5, "MnR": 10.5})


def test_nan_names_the_pair() -> None:
    scores = torch.eye(4)
    scores[2, 1] = torch.nan
    with pytest.raises(ValueError, match="text 2 and video 1 is NaN"):
        retrieval_metrics(scores, [0, 1, 2, 3])


@pytest.mark.parametrize("answers", [[0, 1], [0, 1, 3], [0, -1, 2]])
def test_answers_that_name_no_video_are_refused(answers: list[int]) -> None:
    with pytest.raises(ValueError, match="answers"):
        retrieval_metrics(torch.eye(3), answers)
