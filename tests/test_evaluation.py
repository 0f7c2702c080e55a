"""The numbers of an evaluation against plain references: intervals, single scores, post-processing, ranks on disk, cost."""

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import evaluate
from data.base.errors import UserError
from data.cache import FeatureCache
from data.metrics import NanScore, RankCounter, Ranks, retrieval_metrics
from evaluate import EvaluateOptions
from evaluate.bootstrap import intervals, limits, resample
from evaluate.cost import measured
from evaluate.post_processing import (
    BETA,
    CorrectedScore,
    FirstVideos,
    SoftmaxTotals,
    dual_softmax,
    dynamic_inverted_softmax,
    load_bank,
)
from evaluate.ranks import RankTables
from tests.all_scores import all_scores
from tests.features import PATCHES, patches_of
from train_head.heads import HEADS, Head, HeadConfig, TextBatch, VideoBatch, make_head
from train_head.heads.glccl import GlcclHead
from train_head.heads.tmass import SAMPLES
from train_head.kernels.plain import prepare_texts, prepare_videos, score
from train_head.run import load_head
from train_head.scoring.cost import flops_a_pair
from train_head.scoring.splits import Split, load_split

BUDGET = 2**30
DIRECTIONS = ("text_to_video", "video_to_text")


@pytest.fixture
def options(cache_path: Path, tmp_path: Path) -> EvaluateOptions:
    return EvaluateOptions(cache=cache_path, run="zero-shot:glccl", out=tmp_path / "out", device="cpu", report=False, quiet=True)


@pytest.fixture
def scored(cache: FeatureCache) -> tuple[Head, Split, Tensor]:
    """The untrained method on the test split, and all of its scores."""
    head, _ = load_head("zero-shot:glccl", cache, torch.device("cpu"))
    split = load_split(cache, "test", None, BUDGET)
    return head, split, all_scores(head, split).score_SAB


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())  # type: ignore[no-any-return]


def random_ranks(queries: int, seed: int) -> Ranks:
    rng = np.random.default_rng(seed)
    best_Q = rng.integers(1, 20, queries)
    return Ranks(np.arange(queries), best_Q, best_Q + rng.integers(0, 3, queries) * rng.integers(0, 2, queries))


def plain_figures(ranks: Ranks, drawn: list[int]) -> dict[str, float]:
    """The figures of a list of queries in which one may stand several times."""
    spans = [(int(ranks.best_Q[q]), int(ranks.worst_Q[q])) for q in drawn]
    recalls = {
        f"R@{k}": 100 * sum(sum(place <= k for place in range(best, worst + 1)) / (worst - best + 1) for best, worst in spans) / len(spans)
        for k in (1, 5, 10)
    }
    middles = [(best + worst) / 2 for best, worst in spans]
    return recalls | {"MdR": float(np.median(middles)), "MnR": float(np.mean(middles))}


@pytest.mark.parametrize(("texts", "videos"), [(17, 17), (40, 12), (1, 1)])
def test_resampled_figures_equal_those_of_the_drawn_queries(texts: int, videos: int) -> None:
    ranks = random_ranks(texts, 1), random_ranks(videos, 2)
    owner_A = np.arange(texts) % videos
    samples = resample(ranks, owner_A, 30, seed=5)
    rng = np.random.default_rng(5)
    drawn_texts, drawn_videos = rng.integers(texts, size=(30, texts)), rng.integers(videos, size=(30, videos))
    for i in range(30):
        for direction, found, drawn in zip(DIRECTIONS, ranks, (drawn_texts[i], drawn_videos[i]), strict=True):
            expected = plain_figures(found, drawn.tolist())
            assert {name: values[i] for name, values in samples[direction].items()} == pytest.approx(expected)
        # RSum: the captions of a drawn video come with it, as often as it was drawn.
        captions = [a for b in drawn_videos[i] for a in range(texts) if owner_A[a] == b]
        both = plain_figures(ranks[0], captions), plain_figures(ranks[1], drawn_videos[i].tolist())
        assert samples["RSum"][i] == pytest.approx(sum(figures[f"R@{k}"] for figures in both for k in (1, 5, 10)))


def test_intervals_are_those_of_scipy() -> None:
    ranks = random_ranks(400, 3), random_ranks(400, 4)
    found = intervals(ranks, np.arange(400), seed=0)
    for direction, one in zip(DIRECTIONS, ranks, strict=True):
        for name, values in (("R@1", 100 * one.recall(1)), ("R@10", 100 * one.recall(10)), ("MnR", one.expected)):
            theirs = bootstrap((values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(1)).confidence_interval
            assert found[direction][name] == pytest.approx([theirs.low, theirs.high], abs=0.1 * (theirs.high - theirs.low))
    assert found == intervals(ranks, np.arange(400), seed=0)
    assert found != intervals(ranks, np.arange(400), seed=1)


def test_limits_leave_out_a_fortieth_on_either_side() -> None:
    assert limits(np.arange(1001.0)) == pytest.approx([25, 975])


def test_intervals_hold_the_figures_of_an_evaluation(options: EvaluateOptions) -> None:
    result = read(evaluate.main(options))
    for direction in DIRECTIONS:
        for name, (low, high) in result["intervals"][direction].items():
            assert low <= result[direction][name] <= high
    low, high = result["intervals"]["RSum"]
    assert low < result["RSum"] < high
    assert (result["intervals"]["level"], result["intervals"]["resamples"], result["intervals"]["seed"]) == (0.95, 2000, 0)


def test_every_score_alone_and_left_out(options: EvaluateOptions, scored: tuple[Head, Split, Tensor]) -> None:
    _, split, score_SAB = scored
    rows = {row["name"]: row for row in read(evaluate.main(options))["scores"]}
    names = ["video-sentence", "video-word", "sentence-frame", "word-frame"]
    assert list(rows) == [*names, *(f"without {name}" for name in names)]
    for i, name in enumerate(names):
        others = [j for j in range(4) if j != i]
        for row, places in ((name, [i]), (f"without {name}", others)):
            expected = retrieval_metrics(score_SAB[places].mean(dim=0), split.answers)
            assert {key: rows[row][key] for key in expected} == expected
            assert rows[row]["scores"] == [names[j] for j in places]


def test_heads_with_one_or_two_scores(options: EvaluateOptions) -> None:
    assert read(evaluate.main(replace(options, run="zero-shot:mean")))["scores"] == []
    names = [row["name"] for row in read(evaluate.main(replace(options, run="zero-shot:glim-local")))["scores"]]
    assert names == ["sentence-frame", "word-frame"]


def plain_dual_softmax(score_AB: np.ndarray[Any, Any], axis: int) -> np.ndarray[Any, Any]:
    prior_AB = np.exp(score_AB - score_AB.max(axis=axis, keepdims=True))
    return score_AB * prior_AB / prior_AB.sum(axis=axis, keepdims=True)  # type: ignore[no-any-return]


def plain_query_bank(score_AB: np.ndarray[Any, Any], bank_TB: np.ndarray[Any, Any], scale: float) -> np.ndarray[Any, Any]:
    """The paper's dynamic inverted softmax, a query at a time."""
    hubs = set(bank_TB.argmax(axis=1).tolist())
    total_B = np.exp(BETA * bank_TB / scale).sum(axis=0)
    return np.array([np.exp(BETA * row / scale) / total_B if int(row.argmax()) in hubs else row for row in score_AB])


def test_post_processing_equals_that_of_the_whole_matrix(
    options: EvaluateOptions, scored: tuple[Head, Split, Tensor], cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In small blocks, and with videos encoded anew for each."""
    head, split, score_SAB = scored
    monkeypatch.setattr("train_head.heads.glccl.GlcclHead.WORDS_PER_STRIP", 100)
    monkeypatch.setattr("train_head.scoring.pairs.FRAMES_PER_BLOCK", {"cpu": 40})
    result = read(evaluate.main(replace(options, dual_softmax=True, query_bank=50, memory_budget=0)))
    rows = {row["name"]: row for row in result["post_processing"]}
    assert list(rows) == ["dual softmax", "QB-Norm, 50 captions"]
    score_AB = score_SAB.double().mean(dim=0).numpy()
    expected = [retrieval_metrics(torch.from_numpy(plain_dual_softmax(score_AB, axis)), split.answers)[DIRECTIONS[axis]] for axis in (0, 1)]
    assert [rows["dual softmax"][direction] for direction in DIRECTIONS] == [pytest.approx(one) for one in expected]
    assert "whole test matrix" in rows["dual softmax"]["reads"]
    bank = load_bank(cache, split.preset, 50, 0, head.config.max_words, BUDGET)
    bank_TB = all_scores(head, split, bank).score_SAB.double().mean(dim=0).numpy()
    corrected = plain_query_bank(score_AB, bank_TB, head.scale().item())
    assert rows["QB-Norm, 50 captions"]["text_to_video"] == pytest.approx(
        retrieval_metrics(torch.from_numpy(corrected), split.answers)["text_to_video"]
    )
    assert "video_to_text" not in rows["QB-Norm, 50 captions"]
    assert "50 training captions" in rows["QB-Norm, 50 captions"]["reads"]
    headline = read(evaluate.main(options))
    assert headline["post_processing"] == []
    assert [headline[name] for name in (*DIRECTIONS, "RSum")] == [result[name] for name in (*DIRECTIONS, "RSum")]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), videos=st.integers(1, 9), several=st.booleans(), cut=st.integers(1, 4))
def test_corrections_do_not_depend_on_the_blocks(seed: int, videos: int, several: bool, cut: int) -> None:
    rng = np.random.default_rng(seed)
    answers = np.concatenate([np.arange(videos), rng.integers(0, videos, 5 * several)])
    # Thirds, so that scores tie, and up to 60 apart, so that a float32 of their exponentials would vanish.
    score_SAB = torch.from_numpy(rng.integers(-60, 60, (2, len(answers), videos)) / 3)
    bank_STB = torch.from_numpy(rng.integers(-60, 60, (2, 6, videos)) / 3)

    def blocks(texts: list[list[int]]) -> list[tuple[Tensor, Tensor]]:
        cuts = [(torch.tensor(some), part) for some in texts for part in torch.arange(videos).split(cut)]
        random.Random(seed).shuffle(cuts)
        return cuts

    of_videos = [[a for a, answer in enumerate(answers) if answer == b] for b in range(videos)]
    totals, firsts = SoftmaxTotals(len(answers), videos), FirstVideos(len(answers))
    bank, bank_firsts = SoftmaxTotals(6, videos, BETA / 100), FirstVideos(6)
    for texts, places in blocks(of_videos):
        for accumulator in (totals, firsts):
            accumulator.update(score_SAB[:, texts][:, :, places], texts, places)
    for texts, places in blocks([[0, 3], [1, 2, 5], [4]]):
        for accumulator in (bank, bank_firsts):
            accumulator.update(bank_STB[:, texts][:, :, places], texts, places)
    score_AB, bank_TB = score_SAB.mean(dim=0).numpy(), bank_STB.mean(dim=0).numpy()
    assert firsts.video_A.tolist() == score_AB.argmax(axis=1).tolist()
    texts, places = torch.arange(len(answers)), torch.arange(videos)
    for axis in (0, 1):
        correct = dual_softmax(totals, "text_to_video" if axis == 0 else "video_to_text")
        np.testing.assert_allclose(
            correct(torch.from_numpy(score_AB), texts, places), plain_dual_softmax(score_AB, axis), rtol=1e-4, atol=1e-30
        )
    correct, share = dynamic_inverted_softmax(bank, bank_firsts, firsts, 100.0)
    expected = plain_query_bank(score_AB, bank_TB, 100.0)
    counter = RankCounter(answers, videos)
    ranked = CorrectedScore(counter, correct)
    for some, part in blocks(of_videos):
        ranked.update(score_SAB[:, some][:, :, part], some, part)
    active_A = np.isin(score_AB.argmax(axis=1), bank_TB.argmax(axis=1))
    assert share == active_A.mean()
    corrected = correct(torch.from_numpy(score_AB), texts, places).numpy()
    np.testing.assert_allclose(np.exp(corrected[active_A]), expected[active_A], rtol=1e-4)
    np.testing.assert_array_equal(corrected[~active_A], expected[~active_A])
    assert counter.metrics() == retrieval_metrics(corrected, answers)


def test_a_bank_that_is_not_there_is_refused(options: EvaluateOptions, cache: FeatureCache) -> None:
    table = cache.table()
    count = int((table["split"] == "train").sum())
    for asked in (0, count + 1):
        with pytest.raises(UserError, match=f"--query-bank {asked}: .* has {count} training captions"):
            evaluate.main(replace(options, query_bank=asked))
    with pytest.raises(UserError, match="the bank would contain the queries"):
        evaluate.main(replace(options, query_bank=5, split="train"))
    train = set(table.loc[table["split"] == "train", "caption"])
    some, other = (load_bank(cache, cache.listings.select().preset, 20, seed, 32, BUDGET).texts for seed in (0, 1))
    assert set(some) <= train
    assert some != other
    assert some == load_bank(cache, cache.listings.select().preset, 20, 0, 32, BUDGET).texts


def test_a_bank_score_that_is_no_number_is_named() -> None:
    for accumulator in (SoftmaxTotals(3, 4), FirstVideos(3)):
        scores_SAB = torch.zeros(2, 2, 3)
        scores_SAB[1, 0, 2] = torch.nan
        with pytest.raises(NanScore, match="text 2 and video 3"):
            accumulator.update(scores_SAB, torch.tensor([2, 0]), torch.tensor([1, 2, 3]))


def test_ranks_on_disk_are_those_of_the_scores(options: EvaluateOptions, scored: tuple[Head, Split, Tensor]) -> None:
    _, split, score_SAB = scored
    out = evaluate.main(options)
    score_AB = score_SAB.mean(dim=0)
    of_texts = pd.read_parquet(out / "ranks-text-to-video.parquet")
    assert of_texts["caption"].tolist() == split.texts.texts
    for a, row in enumerate(of_texts.itertuples()):
        assert (row.query, row.video_id) == (a, split.videos.ids[split.answers[a]])
        own = score_AB[a, split.answers[a]]
        best, tied = 1 + int((score_AB[a] > own).sum()), int((score_AB[a] == own).sum())
        assert (row.best_rank, row.worst_rank, row.rank) == (best, best + tied - 1, best + (tied - 1) / 2)
    of_videos = pd.read_parquet(out / "ranks-video-to-text.parquet")
    assert of_videos["video_id"].tolist() == split.videos.ids
    best_BB = torch.stack([score_AB[torch.tensor(split.answers) == b].amax(dim=0) for b in range(len(split.videos.ids))])
    for b, row in enumerate(of_videos.itertuples()):
        assert row.best_rank == 1 + int((best_BB[:, b] > best_BB[b, b]).sum())
    tables = RankTables.read(out)
    assert tables.owners().tolist() == split.answers.tolist()
    metrics = read(out)
    assert 100 * tables.ranks()[0].recall(5).mean() == pytest.approx(metrics["text_to_video"]["R@5"])
    assert tables.ranks()[1].expected.mean() == pytest.approx(metrics["video_to_text"]["MnR"])


def test_damaged_ranks_are_refused(options: EvaluateOptions) -> None:
    out = evaluate.main(options)
    path = out / "ranks-video-to-text.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"ranks-video-to-text\.parquet is missing or damaged"):
        RankTables.read(out)
    path.unlink()
    with pytest.raises(UserError, match="evaluate again"):
        RankTables.read(out)


def test_the_same_inputs_give_the_same_bytes(options: EvaluateOptions) -> None:
    """But for dates and measured times; on two threads, which finish blocks in any order."""
    asked = replace(options, dual_softmax=True, query_bank=30)
    threads, found = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in range(2):
            out = evaluate.main(asked)
            result = read(out)
            result["provenance"].pop("date")
            result.pop("seconds")
            result["cost"].pop("measured")
            found.append({path.name: path.read_bytes() for path in out.iterdir()} | {"metrics.json": json.dumps(result).encode()})
    finally:
        torch.set_num_threads(threads)
    assert found[0] == found[1]
    assert found[0].keys() == {"metrics.json", "options.yaml", "ranks-text-to-video.parquet", "ranks-video-to-text.parquet"}


def test_results_replace_their_own_files_and_nothing_else(options: EvaluateOptions) -> None:
    out = evaluate.main(options)
    (out / "notes.txt").write_text("mine")
    before = (out / "ranks-text-to-video.parquet").read_bytes()
    evaluate.main(replace(options, run="zero-shot:mean"))
    assert read(out)["run"] == "zero-shot:mean"
    assert (out / "ranks-text-to-video.parquet").read_bytes() != before
    assert (out / "notes.txt").read_text() == "mine"
    # Stopped before metrics.json was written, it may be done again.
    (out / "metrics.json").unlink()
    (out / "notes.txt").unlink()
    evaluate.main(options)


def test_a_folder_of_other_files_is_left_alone(options: EvaluateOptions, tmp_path: Path) -> None:
    options.out.mkdir()
    (options.out / "run.json").write_text("{}")
    with pytest.raises(UserError, match=r"--out .* holds other files, such as run\.json"):
        evaluate.main(options)
    assert [path.name for path in options.out.iterdir()] == ["run.json"]
    with pytest.raises(UserError, match="is a file"):
        evaluate.main(replace(options, out=options.out / "run.json"))


def test_what_stands_in_place_of_results_is_found_before_them(options: EvaluateOptions) -> None:
    options.out.mkdir()
    (options.out / "plots").touch()
    for line in (
        r"plots is not a folder, but a result folder",
        r"report\.html is a folder, but a result file",
    ):
        with pytest.raises(UserError, match=line):
            evaluate.main(replace(options, cache=options.out / "none"))
        (options.out / "plots").unlink(missing_ok=True)
        (options.out / "report.html").mkdir(exist_ok=True)


def test_the_table_of_an_evaluation(options: EvaluateOptions, capsys: pytest.CaptureFixture[str]) -> None:
    result = read(evaluate.main(replace(options, dual_softmax=True)))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("demo test: scored 12 of 12 videos")
    rows = {line.split("  ")[0].strip() or line.strip().split("  ")[0]: line.split() for line in lines[2:]}
    assert rows["zero-shot:glccl"][-1] == f"{result['RSum']:.1f}"
    low, high = result["intervals"]["RSum"]
    assert rows["95% interval, half-width"][-1] == f"±{(high - low) / 2:.1f}"
    assert rows["without word-frame"][-1] == f"{result['scores'][-1]['RSum']:.1f}"
    assert rows["dual softmax"][-1] == f"{result['post_processing'][0]['RSum']:.1f}"
    assert "dual softmax: reads the whole test matrix" in "\n".join(lines)
    begins = [next(i for i, line in enumerate(lines) if line.startswith(start)) for start in ("run", "scoring: ", "kind of caption")]
    assert begins == sorted(begins)
    evaluate.main(replace(options, json=True))
    line = json.loads(capsys.readouterr().out)
    assert line.keys() >= {"run", "queries", "gallery", "text_to_video", "video_to_text", "RSum"}


def counted_by_torch(head: Head, texts: TextBatch, videos: VideoBatch) -> float:
    """What torch counts of the products of `scores` where nothing is padded; of the compiled loops, their plain form."""
    counter = FlopCounterMode(display=False)
    if isinstance(head, GlcclHead):
        word_ALD = texts.word_RD.unflatten(0, (-1, int(texts.length_A[0])))
        guides = prepare_texts(texts.sentence_AD, word_ALD, torch.ones(word_ALD.shape[:2], dtype=torch.bool), head.matrices())
        frames = prepare_videos(videos.frame_BFD, videos.mask_BF)
        with counter:
            score(guides, frames, head.matrices())
    else:
        encoded = head.encode_texts(texts), head.encode_videos(videos)
        # Torch counts attention in its plain form alone.
        with counter, sdpa_kernel(SDPBackend.MATH):
            head.scores(*encoded)
    return float(counter.get_total_flops())


@pytest.mark.parametrize("name", sorted(HEADS))
def test_flops_a_pair_are_those_that_torch_counts(name: str) -> None:
    """All but dot products that are written element by element, and the sentence that the plain form multiplies once more."""
    length, frames, dimension, texts, videos = 11, 9, 96, 4, 5
    head = make_head(name, HeadConfig(dimension, max_words=20, logit_scale=100.0, max_frames=12, patches=PATCHES))
    generator = torch.Generator().manual_seed(0)
    batch = TextBatch(
        torch.randn(texts, dimension, generator=generator),
        torch.randn(texts * length, dimension, generator=generator),
        torch.full((texts,), length),
    )
    frame_BFD = torch.randn(videos, frames, dimension, generator=generator).double()
    gallery = VideoBatch(frame_BFD, torch.ones(videos, frames, dtype=torch.bool), patches_of(frame_BFD))
    # In double precision no compiled loop hides what it does.
    head, batch = head.double(), TextBatch(batch.sentence_AD.double(), batch.word_RD.double(), batch.length_A)
    pair = float(head.pair_flops(np.array(length, dtype=np.float64), np.array(frames, dtype=np.float64)))
    if name == "tmass":
        # Sums over D, element by element: |t|^2, |z|^2 and t z, and of each sample R e, and its products with z, with t and with itself.
        pair -= (6 + 7 * SAMPLES) * dimension
    assert pair * texts * videos == pytest.approx(counted_by_torch(head, batch, gallery), rel=0.06)


def test_flops_are_the_mean_over_all_pairs(scored: tuple[Head, Split, Tensor]) -> None:
    head, split, _ = scored
    each = [
        float(head.pair_flops(np.array(float(words)), np.array(float(frames))))
        for words in split.texts.words.length_N
        for frames in split.videos.frames.length_N
    ]
    assert flops_a_pair(head, split) == pytest.approx(np.mean(each))


def test_peak_memory_counts_what_is_taken_and_given_back() -> None:
    with measured(torch.device("cpu")) as cost:
        torch.ones(64 * 2**18)
    if cost.peak_extra_mib is None:
        pytest.skip("this system does not tell the peak memory of a process")
    assert 60 < cost.peak_extra_mib < 80
    assert cost.seconds > 0
