"""Two-stage retrieval: the index, exact re-ranking of candidates, and what a candidate that is missing counts."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import search.index.vectors
from data.base.errors import UserError
from data.cache import FeatureCache
from evaluate import EvaluateOptions, main
from search.index.candidates import candidate_index, find_candidates, unit_vectors
from search.index.engine import nearest
from search.index.saved import INDEX_FILE, load_index, save_index
from search.index.vectors import VideoIndex
from search.options import RetrievalOptions
from search.searcher import Searcher
from tests.all_scores import all_scores
from tests.choice import long_but
from tests.features import PATCHES
from train_head.heads import HEADS, HeadConfig, make_head
from train_head.scoring.rerank import candidate_metrics, rerank
from train_head.scoring.splits import Split, load_split

Vectors = NDArray[np.float32]


def some_vectors(videos: int, seed: int = 0) -> tuple[Vectors, NDArray[np.int64], Vectors]:
    """Vectors of norm 1 of videos of 1 to 9, how many each has, and queries."""
    rng = np.random.default_rng(seed)
    count_N = rng.integers(1, 10, videos)
    vectors_TD = rng.standard_normal((count_N.sum(), 16)).astype(np.float32)
    return vectors_TD / np.linalg.norm(vectors_TD, axis=1, keepdims=True), count_N, rng.standard_normal((20, 16)).astype(np.float32)


def best_frames(vectors_TD: Vectors, count_N: NDArray[np.int64], query_AD: Vectors) -> Vectors:
    """The nearness of every video to every query, plainly."""
    ends = np.cumsum(count_N)
    return np.stack([(query_AD @ vectors_TD[end - count : end].T).max(axis=1) for end, count in zip(ends, count_N, strict=True)], axis=1)


def built(vectors_TD: Vectors, count_N: NDArray[np.int64], part: tuple[int, int] = (0, 1)) -> VideoIndex:
    index = VideoIndex(16, part)
    half = len(count_N) // 2
    index.add(vectors_TD[: count_N[:half].sum()], count_N[:half])
    index.add(vectors_TD[count_N[:half].sum() :], count_N[half:])
    index.close_shard()
    return index


@pytest.mark.parametrize("shard_vectors", [100, 2**17])
@pytest.mark.parametrize("k", [1, 10, 300])
def test_the_index_finds_the_videos_with_the_nearest_frame(monkeypatch: pytest.MonkeyPatch, shard_vectors: int, k: int) -> None:
    monkeypatch.setattr(search.index.vectors, "SHARD_VECTORS", shard_vectors)
    vectors_TD, count_N, query_AD = some_vectors(300)
    video_AK, near_AK = built(vectors_TD, count_N).search(query_AD, k)
    expected_AB = best_frames(vectors_TD, count_N, query_AD)
    order_AK = np.argsort(-expected_AB, axis=1, kind="stable")[:, :k]
    assert (video_AK == order_AK).all()
    assert np.allclose(near_AK, np.take_along_axis(expected_AB, order_AK, axis=1), atol=1e-5)


def test_shards_shared_by_processes_find_what_one_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.index.vectors, "SHARD_VECTORS", 200)
    vectors_TD, count_N, query_AD = some_vectors(300)
    whole = built(vectors_TD, count_N).search(query_AD, 17)
    parts = [built(vectors_TD, count_N, (rank, 3)).search(query_AD, 17) for rank in range(3)]
    merged = nearest(parts, len(query_AD), 17)
    assert np.array_equal(merged[0], whole[0])
    assert np.array_equal(merged[1], whole[1])


def test_inverted_lists_find_most_and_every_video_when_asked_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.index.vectors, "EXACT_VECTORS", 0)
    monkeypatch.setattr(search.index.vectors, "VECTORS_A_LIST", 40)
    monkeypatch.setattr(search.index.vectors, "LIST_SHARE", 0.5)
    vectors_TD, count_N, query_AD = some_vectors(1000)
    index = built(vectors_TD, count_N)
    expected_AK = np.argsort(-best_frames(vectors_TD, count_N, query_AD), axis=1)[:, :10]
    found_AK, _ = index.search(query_AD, 10)
    assert np.mean([len(set(found) & set(expected)) for found, expected in zip(found_AK, expected_AK, strict=True)]) > 7
    every_AK, near_AK = index.search(query_AD, 1000)
    assert (np.sort(every_AK, axis=1) == np.arange(1000)).all()
    assert (np.diff(near_AK, axis=1) <= 0).all()


def test_an_index_is_kept_and_refused_for_another_cache_or_when_damaged(tmp_path: Path) -> None:
    vectors_TD, count_N, query_AD = some_vectors(50)
    index = built(vectors_TD, count_N)
    save_index(index, tmp_path, "these", [f"video {i}" for i in range(50)])
    again = load_index(tmp_path, "these")
    assert again.videos == 50
    assert np.array_equal(again.search(query_AD, 5)[0], index.search(query_AD, 5)[0])
    with pytest.raises(UserError, match="was built from another cache, other videos or other vectors"):
        load_index(tmp_path, "those")
    for name in sorted(file.name for file in tmp_path.iterdir()):
        whole = (tmp_path / name).read_bytes()
        for place in np.linspace(0, len(whole) - 1, 40).astype(int):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << (place % 8)
            # A blank for a blank is the same JSON.
            if name == INDEX_FILE and bytes([whole[place], flipped[place]]).isspace():
                continue
            (tmp_path / name).write_bytes(flipped)
            with pytest.raises(UserError, match=r"the index .*(is damaged .*|: delete it|or delete this one)"):
                load_index(tmp_path, "these")
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError, match=r"the index .* is damaged .*: delete it"):
            load_index(tmp_path, "these")
        (tmp_path / name).write_bytes(whole)
    assert load_index(tmp_path, "these").videos == 50


def test_pooled_vectors_are_the_mean_of_frames_of_norm_1(cache: FeatureCache) -> None:
    frames = cache.videos(cache.names("videos"), 2**30).frames
    chosen = np.array([3, 0, 7])
    pooled_ND, count_N = unit_vectors(frames, chosen, "pooled")
    assert count_N.tolist() == [1, 1, 1]
    for pooled_D, i in zip(pooled_ND, chosen, strict=True):
        frame_FD = frames.gather([i])[0].double()
        mean_D = (frame_FD / frame_FD.norm(dim=1, keepdim=True)).mean(dim=0)
        assert torch.allclose(torch.from_numpy(pooled_D).double(), mean_D / mean_D.norm(), atol=1e-6)


@pytest.fixture
def split(cache: FeatureCache) -> Split:
    return load_split(cache, "train", None, 2**30)


@pytest.mark.exact
@pytest.mark.parametrize(
    ("name", "memory_budget"),
    long_but(
        # Memory for one video at a time concerns no head by itself, but one that scores texts alone.
        [*((name, 2**30) for name in ("glccl", "joint", "tight", "tmass", "xclip")), ("glccl", 0), ("tight", 0)],
        product(sorted(HEADS), (0, 2**30)),
    ),
)
def test_reranked_scores_are_those_of_all_pairs(
    patches_cache: FeatureCache, name: str, memory_budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the temporal encoder: a head that reads frames from before it gets both."""
    monkeypatch.setattr("train_head.scoring.pairs.FRAMES_PER_BLOCK", {"cpu": 60})
    split = load_split(patches_cache, "test", None, 2**30, patches=True)
    assert sum(split.videos.frames.length_N) > 60
    torch.manual_seed(0)
    kind = HEADS[name]
    blocks = {"temporal": "none" if kind.OWN_BLOCKS else "seq-transf", "temporal_positions": kind.block_positions(40)}
    config = HeadConfig(patches_cache.dimension, 64, logit_scale=100.0, max_frames=40, patches=PATCHES, **blocks)  # type: ignore[arg-type]
    head = make_head(name, config)
    score_AB = all_scores(head, split).mean_AB
    generator = torch.Generator().manual_seed(0)
    order_AB = torch.rand(score_AB.shape, generator=generator).argsort(dim=1)
    for k in (1, 7, len(split.videos.ids)):
        candidate_AK = order_AB[:, :k].contiguous()
        score_AK = rerank(head, split.texts, split.videos, candidate_AK, memory_budget)
        assert torch.equal(score_AK, score_AB.gather(1, candidate_AK))


def test_an_answer_that_is_no_candidate_is_the_last_of_all() -> None:
    candidates_AK = torch.tensor([[4, 2], [2, 3], [0, 1], [1, 0]])
    scores_AK = torch.tensor([[1.0, 2.0], [5.0, 5.0], [9.0, 8.0], [-1.0, -torch.inf]])
    found = candidate_metrics(candidates_AK, scores_AK, np.array([4, 2, 9, 1]), videos=20)
    # Ranks: second; first or second; not found, so 20th; first.
    assert found["text_to_video"]["R@1"] == pytest.approx(100 * (0 + 0.5 + 0 + 1) / 4)
    assert found["text_to_video"]["R@10"] == pytest.approx(75)
    assert found["text_to_video"]["MnR"] == pytest.approx((2 + 1.5 + 20 + 1) / 4)
    assert found["answers_among_candidates"] == pytest.approx(75)


@pytest.mark.long
def test_evaluate_reports_what_candidates_lose(cache_path: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(
        cache=cache_path,
        run="zero-shot:glccl",
        out=tmp_path / "out",
        candidates="2,12",
        candidates_from="both",
        index=tmp_path / "index",
        device="cpu",
        quiet=True,
    )
    for _ in range(2):  # the index is built, and then read
        main(options)
        result = json.loads((tmp_path / "out" / "metrics.json").read_text())
        rows = {(row["vectors"], row["candidates"]): row for row in result["candidates"]}
        assert rows.keys() == {(vectors, k) for vectors in ("frames", "pooled") for k in (2, 12)}
        for vectors in ("frames", "pooled"):
            assert rows[vectors, 12]["text_to_video"] == result["text_to_video"]
            assert rows[vectors, 12]["lost"] == {"R@1": 0, "R@5": 0, "R@10": 0}
            few = rows[vectors, 2]
            assert few["lost"]["R@10"] == result["text_to_video"]["R@10"] - few["text_to_video"]["R@10"]
            assert few["text_to_video"]["R@10"] <= few["answers_among_candidates"] <= 100
    with pytest.raises(UserError, match=r"was built from another cache, other videos or other vectors .*: bring it up to date with"):
        main(replace(options, split="val", candidates="2"))


@pytest.mark.parametrize("candidates", [None, "2"])
def test_an_index_is_built_and_spoken_of_where_candidates_are_asked_for(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], candidates: str | None
) -> None:
    main(EvaluateOptions(cache_path, "zero-shot:mean", tmp_path / "out", candidates=candidates, device="cpu", report=False))
    said = {line.split(":")[0] for line in capsys.readouterr().err.splitlines()}
    assert said == {"scoring"} | ({"index of frames", "re-ranking"} if candidates else set())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"candidates": "10,13"}, "--candidates 13: the gallery has 12 videos: use 1 to 12"),
        ({"candidates": "0"}, "--candidates 0: the gallery has 12"),
        ({"candidates": "many"}, "--candidates many must be whole numbers"),
        ({"candidates": "3", "ties": "reference"}, "--ties reference does not: leave one of them out"),
        ({"candidates_from": "pooled"}, "are for --candidates"),
    ],
)
def test_candidates_that_cannot_be_had_are_refused(cache_path: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        main(EvaluateOptions(cache=cache_path, run="zero-shot:mean", out=tmp_path / "out", device="cpu", quiet=True, **options))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_candidates_come_nearest_first(cache: FeatureCache, split: Split) -> None:
    index = candidate_index(cache, split.videos, "frames")
    candidate_AK = find_candidates(index, split.texts, 5)
    sentence_AD, _ = split.texts.sentences.gather(range(len(split.answers)))
    frames = [split.videos.frames.gather([i])[0] for i in range(len(split.videos.ids))]
    near_AB = torch.stack([torch.cosine_similarity(sentence_AD[:, None], frame_FD, dim=-1).amax(dim=1) for frame_FD in frames], dim=1)
    found_AK = near_AB.gather(1, candidate_AK)
    assert torch.allclose(found_AK, near_AB.topk(5, dim=1).values, atol=1e-5)


def test_search_scores_the_candidates_of_an_index_alone(cache_path: Path, tmp_path: Path) -> None:
    options = RetrievalOptions(cache=cache_path, run="zero-shot:glccl", top=5, device="cpu", quiet=True)
    query = "a red ring moves to the left"

    def found(options: RetrievalOptions) -> list[tuple[str, float]]:
        [answer] = Searcher(options).search([query])
        return [(hit.video_id, hit.score) for hit in answer.hits]

    best = found(options)
    videos = len(FeatureCache(cache_path).names("videos"))
    assert found(replace(options, candidates=videos, index=tmp_path)) == best
    near = found(replace(options, candidates=20, index=tmp_path))
    assert len(near) == 5
    assert [name for name, _ in near if name in dict(best)]
    for candidates, message in ((videos + 1, f"the gallery has {videos} videos"), (4, "must be at least --top 5")):
        with pytest.raises(UserError, match=message):
            Searcher(replace(options, candidates=candidates))
    with pytest.raises(UserError, match="is for --candidates"):
        Searcher(replace(options, index=tmp_path))
