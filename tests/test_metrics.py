"""Metrics against a naive count over all orders of the ties."""

import random
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.datasets.files import read_csv
from data.metrics import NanScore, RankCounter, Ties, retrieval_metrics


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


def field_entries(scores: np.ndarray) -> list[int]:
    """The field's ranks of a square matrix, as its code finds them: every place of a sorted row that equals the diagonal's score."""
    below = np.sort(-scores, axis=1) - np.diag(-scores)[:, None]
    return [int(rank) + 1 for rank in np.where(below == 0)[1]]


def field_summary(ranks: list[int], middle: float) -> dict[str, float]:
    recall = {f"R@{k}": 100 * mean(rank <= k for rank in ranks) for k in (1, 5, 10)}
    return recall | {"MdR": middle, "MnR": mean(ranks), "entries": len(ranks)}


def naive_reference(scores: list[list[float]], answers: list[int]) -> dict[str, dict[str, float]]:
    """The field's protocol on a gallery whose videos all have texts."""
    described = sorted(set(answers))
    best = np.array([[max(scores[a][v] for a, answer in enumerate(answers) if answer == owner) for v in described] for owner in described])
    video_to_text = field_entries(best.T)
    if len(described) == len(answers):
        text_to_video = field_entries(best)
        middle = float(np.median(text_to_video))
    else:
        # One entry a text: a stable sort, and torch's median, the lower of two.
        orders = [sorted(range(len(row)), key=lambda v, row=row: -row[v]) for row in scores]  # type: ignore[misc]
        text_to_video = [order.index(answer) + 1 for order, answer in zip(orders, answers, strict=True)]
        middle = sorted(text_to_video)[(len(text_to_video) - 1) // 2]
    return {
        "text_to_video": field_summary(text_to_video, middle),
        "video_to_text": field_summary(video_to_text, float(np.median(video_to_text))),
    }


@st.composite
def galleries(draw: st.DrawFn, several: bool) -> tuple[list[list[float]], list[int]]:
    videos = draw(st.integers(1, 9))
    extra = draw(st.lists(st.integers(0, videos - 1), min_size=1, max_size=9)) if several else []
    answers = draw(st.permutations(range(videos))) + extra
    row = st.lists(st.integers(0, 3).map(float), min_size=videos, max_size=videos)
    return draw(st.lists(row, min_size=len(answers), max_size=len(answers))), answers


@pytest.mark.parametrize("several", [False, True])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_reference_mode_equals_the_ranks_of_the_field(several: bool, data: st.DataObject) -> None:
    scores, answers = data.draw(galleries(several))
    metrics = retrieval_metrics(torch.tensor(scores), answers, ties="reference")
    for direction, expected in naive_reference(scores, answers).items():
        assert metrics[direction] == pytest.approx(expected)


def test_the_field_counts_1012_entries_on_1k_a(shared_annotations: Path) -> None:
    """Videos to texts by the genuine sentences: equal sentences tie. By expectation every video counts once."""
    sentences = read_csv(shared_annotations / "msrvtt" / "MSRVTT_JSFUSION_test.csv", ("sentence",))["sentence"]
    distinct = {sentence: number for number, sentence in enumerate(dict.fromkeys(sentences))}
    rng = np.random.default_rng(0)
    scores = torch.from_numpy(rng.random((len(distinct), 1000)))[[distinct[sentence] for sentence in sentences]]
    reference = retrieval_metrics(scores, list(range(1000)), ties="reference")
    assert reference["video_to_text"]["entries"] == 1012
    assert reference["text_to_video"]["entries"] == 1000
    # Perfect scores: the field loses recall to the ties twice over.
    perfect = torch.tensor([[float(a == b) for b in sentences] for a in sentences])
    assert retrieval_metrics(perfect, list(range(1000)))["video_to_text"]["R@1"] == pytest.approx(99.5)
    assert retrieval_metrics(perfect, list(range(1000)), "reference")["video_to_text"]["R@1"] == pytest.approx(100 * 1000 / 1012)


@pytest.mark.parametrize("ties", ["expected", "reference"])
@settings(max_examples=50, deadline=None)
@given(problem=problems(), seed=st.integers(0, 1000), cut=st.integers(1, 6))
def test_blocks_in_any_order_give_the_same(ties: Ties, problem: tuple[list[list[float]], list[int]], seed: int, cut: int) -> None:
    scores, answers = torch.tensor(problem[0]), problem[1]
    counter = RankCounter(answers, scores.shape[1], ties)
    owners = sorted(set(answers))
    text_blocks = [
        torch.tensor([a for a, answer in enumerate(answers) if answer in owners[i : i + cut]]) for i in range(0, len(owners), cut)
    ]
    video_blocks = torch.arange(scores.shape[1]).split(cut)
    blocks = [(texts, videos) for texts in text_blocks for videos in video_blocks]
    random.Random(seed).shuffle(blocks)
    for texts, videos in blocks:
        counter.update(scores[texts][:, videos], texts, videos)
    assert counter.metrics() == retrieval_metrics(scores, answers, ties)


def test_scores_mapped_from_a_file_for_reading_are_taken(tmp_path: Path) -> None:
    np.save(tmp_path / "scores.npy", np.eye(4))
    assert retrieval_metrics(np.load(tmp_path / "scores.npy", mmap_mode="r"), [0, 1, 2, 3])["RSum"] == 600


def test_constant_scores_give_k_of_n() -> None:
    metrics = retrieval_metrics(torch.zeros(20, 20), list(range(20)))
    for direction in ("text_to_video", "video_to_text"):
        assert metrics[direction] == pytest.approx({"R@1": 5, "R@5": 25, "R@10": 50, "MdR": 10.5, "MnR": 10.5})


def test_nan_names_the_pair() -> None:
    scores = torch.eye(4)
    scores[2, 1] = torch.nan
    with pytest.raises(NanScore, match="text 2 and video 1 is NaN") as refusal:
        retrieval_metrics(scores, [0, 1, 2, 3])
    assert (refusal.value.text, refusal.value.video) == (2, 1)


@pytest.mark.parametrize("answers", [[0, 1], [0, 1, 3], [0, -1, 2]])
def test_answers_that_name_no_video_are_refused(answers: list[int]) -> None:
    with pytest.raises(ValueError, match="answers"):
        retrieval_metrics(torch.eye(3), answers)
