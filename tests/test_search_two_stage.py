"""Search in two stages: the order is that of an evaluation, a query reads the patch tokens of its candidates alone, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray

import evaluate
import search
import search.searcher
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import Ragged, TextFeatures
from data.compute.processes import ProcessGroup
from data.sampling import choose_words
from evaluate import EvaluateOptions
from evaluate.inputs import SCORING_BYTES, SCORING_BYTES_A_DIMENSION, load
from search import SearchOptions
from search.retrieval.chance import RANDOM_QUERIES
from search.searcher import QUERIES_AT_ONCE, Searcher
from search.serve import ServeOptions, serving
from tests.caches import BUDGET, captions_of
from tests.patch_pairs import PatchPairs
from train_head.batches import TextBatch
from train_head.heads import HeadConfig, make_head
from train_head.run import save_run
from train_head.scoring import cost
from train_head.scoring.candidates import CandidateCollector
from train_head.scoring.pairs import score_all_pairs
from train_head.scoring.rerank import rerank
from train_head.scoring.splits import load_split

PATCHES = "zero-shot:tests.patch_pairs:PatchPairs"
CPU = torch.device("cpu")
K = 7


def options(cache: Path, run: str, first: str, **given: Any) -> SearchOptions:
    asked: dict[str, Any] = {"candidates": K, "candidates_run": first, "top": 5, "device": "cpu", "quiet": True}
    return SearchOptions(cache=cache, run=run, **asked | given)


def saved(cache: FeatureCache, path: Path, name: str, max_words: int = 40, max_frames: int | None = None) -> str:
    """A run of an untrained head that reads few words, or few frames."""
    path.mkdir()
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(cache.dimension, max_words, 100.0, max_frames=40))
    save_run(path, head, {"weights": cache.weights, "trained_with": {"version": 1, "options": {"max_frames": max_frames}}})
    return str(path)


def cut(texts: TextFeatures, most: int | None) -> TextFeatures:
    words = [texts.words.gather([i])[0][choose_words(int(length), most)] for i, length in enumerate(texts.words.length_N)]
    offsets = np.cumsum([0, *map(len, words)])
    return replace(texts, words=Ragged.in_memory(torch.cat(words).numpy(), offsets))


def as_evaluated(searcher: Searcher, texts: TextFeatures) -> list[list[tuple[str, float]]]:
    """The re-ranked videos of every text with their scores, as the parts of an evaluation find them."""
    first, second = searcher._first, searcher.head
    assert first is not None
    ids = sorted(searcher.cache.names("videos"))
    collector = CandidateCollector(len(texts.texts), len(ids), K)
    videos = searcher.cache.videos(ids, BUDGET, first.max_frames, first.head.READS_PATCHES)
    score_all_pairs(first.head, cut(texts, first.head.most_words), videos, None, [collector], BUDGET)
    candidates = torch.from_numpy(collector.candidates().video_AK)
    videos = searcher.cache.videos(ids, BUDGET, searcher._max_frames, second.READS_PATCHES)
    score_AK = rerank(second, cut(texts, second.most_words), videos, candidates, BUDGET)
    found = []
    for video_K, score_K in zip(candidates.tolist(), score_AK.tolist(), strict=True):
        order = sorted(zip(video_K, score_K, strict=True), key=lambda pair: (-pair[1], pair[0]))
        found.append([(ids[video], score) for video, score in order])
    return found


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison with random words, which takes most of the time."""
    monkeypatch.setattr(search.searcher, "CHANCE_FLOPS", -1.0)


@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize(
    ("case", "memory_budget"),
    [("patch tokens", 0.0), ("patch tokens", None), ("fewer words and frames first", None), ("fewer words and frames second", 0.0)],
)
def test_the_order_and_the_scores_are_those_of_an_evaluation(
    patches_cache: FeatureCache, tmp_path: Path, case: str, memory_budget: float | None
) -> None:
    few = saved(patches_cache, tmp_path / "run", "glccl", max_words=6, max_frames=3)
    run, first = {
        "patch tokens": (PATCHES, "zero-shot:mean"),
        "fewer words and frames first": ("zero-shot:ti", few),
        "fewer words and frames second": (few, "zero-shot:ti"),
    }[case]
    captions = captions_of(patches_cache, QUERIES_AT_ONCE + 1)
    searcher = Searcher(options(patches_cache.path, run, first, memory_budget=memory_budget))
    texts = searcher.encoder.encode(captions)
    assert int(texts.words.length_N.max()) > 6
    for answer, expected in zip(searcher.search(captions), as_evaluated(searcher, texts), strict=True):
        assert [(hit.video_id, hit.score) for hit in answer.hits] == expected[:5]


@pytest.mark.usefixtures("no_chance")
def test_ranks_are_those_that_evaluate_writes(patches_cache: FeatureCache, tmp_path: Path) -> None:
    """All videos of the cache make a split together, which is the gallery of a search."""
    given: dict[str, Any] = {"split": "train+val+test", "allow_missing": True, "report": False, "device": "cpu", "quiet": True}
    given |= {"candidates": str(K), "candidates_run": "zero-shot:mean"}
    out = evaluate.main(EvaluateOptions(cache=patches_cache.path, run=PATCHES, out=tmp_path, **given))
    ranks = pd.read_parquet(out / "ranks-text-to-video.parquet")[:12]
    searcher = Searcher(options(patches_cache.path, PATCHES, "zero-shot:mean", top=K))
    there = 0
    for answer, answered, rank in zip(searcher.search(ranks["caption"].tolist()), ranks["video_id"], ranks["rank"], strict=True):
        place = [hit.rank for hit in answer.hits if hit.video_id == answered]
        # Queries are encoded anew, so single numbers of float16 may be rounded to the next.
        scores = [hit.score for hit in answer.hits]
        assert place == [rank] or (not place and rank > K) or min(-np.diff(scores)) < 0.02
        there += len(place)
    assert there >= 3


class Recording:
    """Patch tokens on disk that note which rows are read."""

    def __init__(self, source: Any, read: list[int]) -> None:
        self._source, self._read, self.shape, self.dtype = source, read, source.shape, source.dtype

    def __getitem__(self, rows: slice) -> NDArray[np.float16]:
        self._read += range(rows.start, rows.stop)
        found: NDArray[np.float16] = self._source[rows]
        return found


@pytest.mark.usefixtures("no_chance")
def test_a_query_reads_the_patch_tokens_of_its_candidates_alone(patches_cache: FeatureCache) -> None:
    searcher = Searcher(options(patches_cache.path, PATCHES, "zero-shot:mean", memory_budget=0.0, top=K))
    first, tokens = searcher.first_gallery, searcher.gallery.videos.patches
    assert first is not None
    assert first.videos.patches is None
    assert first.videos.frames is searcher.gallery.videos.frames
    assert tokens is not None
    assert tokens.bytes_held == 0
    read: list[int] = []
    tokens._sources = [(Recording(source, read), rows) for source, rows in tokens._sources]
    for query in captions_of(patches_cache, 3):
        read.clear()
        [answer] = searcher.search([query])
        rows = [tokens._sources[hit.number][1] for hit in answer.hits]
        assert {*read} == {row for some in rows for row in range(some.start, some.stop)}  # type: ignore[union-attr]
        assert len(answer.hits) == K


def test_features_of_both_stages_share_the_memory(patches_cache: FeatureCache, tmp_path: Path) -> None:
    few = saved(patches_cache, tmp_path / "run", "mean", max_frames=3)
    frames = patches_cache.videos(patches_cache.names("videos"), BUDGET).bytes_held
    for first, budget in (("zero-shot:mean", 2.0 * frames), (few, 2.0 * frames), ("zero-shot:mean", 10.0 * frames)):
        searcher = Searcher(options(patches_cache.path, PATCHES, first, memory_budget=budget / 2**30), queries=False)
        assert searcher.first_gallery is not None
        held = {id(ragged): ragged.bytes_held for one in (searcher.gallery, searcher.first_gallery) for ragged in (one.videos.frames,)}
        patches = searcher.gallery.videos.patches
        assert patches is not None
        assert (patches.bytes_held > 0) == (budget > 9 * frames)
        assert frames <= sum(held.values()) + patches.bytes_held <= budget


@pytest.mark.parametrize("most", [None, 1, 2, 5, 40])
def test_a_text_is_cut_as_the_cache_cuts_it(cache: FeatureCache, most: int | None) -> None:
    captions = captions_of(cache, 6)
    whole, expected = (TextBatch.gather(cache.texts(captions, BUDGET, words), range(6), CPU) for words in (None, most))
    found = whole.cut_to(most)
    assert torch.equal(found.word_RD, expected.word_RD)
    assert torch.equal(found.length_A, expected.length_A)
    assert torch.equal(found.sentence_AD, expected.sentence_AD)


def test_random_words_are_compared_in_the_first_stage(patches_cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stage sees the whole gallery, and its scores of random words serve all queries of a length."""
    captions = captions_of(patches_cache, 2)
    asked = options(patches_cache.path, "zero-shot:mean", "", candidates=None, candidates_run=None)
    whole = [answer.notes for answer in Searcher(asked).search(captions)]
    searcher = Searcher(options(patches_cache.path, PATCHES, "zero-shot:mean"))
    score_block, scored = PatchPairs.score_block, 0

    def counted(*given: Any) -> torch.Tensor:
        nonlocal scored
        scored += 1
        return score_block(*given)

    monkeypatch.setattr(PatchPairs, "score_block", counted)
    assert [answer.notes for answer in searcher.search(captions)] == whole
    # A few blocks for each query, none for random words.
    assert scored < RANDOM_QUERIES


@pytest.mark.usefixtures("no_chance")
def test_what_was_done_is_said(patches_cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = options(patches_cache.path, PATCHES, "zero-shot:mean", query=("a red ring",), json=True, html=tmp_path / "page.html")
    search.main(asked)
    said = json.loads(capsys.readouterr().out)
    assert (said["run"], said["candidates"], said["candidates_run"], len(said["results"])) == (PATCHES, K, "zero-shot:mean", 5)
    assert f"which re-ranks the {K} best of zero-shot:mean for every query" in (tmp_path / "page.html").read_text()
    search.main(replace(asked, json=False, html=None))
    assert f"62 videos, of which the {K} best of zero-shot:mean are scored with {PATCHES}; each moment" in capsys.readouterr().out


@pytest.mark.usefixtures("no_chance")
def test_the_page_is_served_in_two_stages(patches_cache: FeatureCache, capsys: pytest.CaptureFixture[str]) -> None:
    from urllib.request import urlopen

    given = {name: getattr(options(patches_cache.path, PATCHES, "zero-shot:mean"), name) for name in ("cache", "run", "candidates")}
    asked = ServeOptions(**given, candidates_run="zero-shot:mean", top=3, device="cpu", quiet=True, port=0)
    with serving(asked) as address:
        page = urlopen(f"{address}?q=a+red+ring").read().decode()
    assert f"re-ranks the {K} best of zero-shot:mean" in page


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"candidates": None}, "--candidates-run needs a number of candidates: add one, such as --candidates 50"),
        ({"index": Path("index")}, "--index and --candidates-from find candidates with an index, --candidates-run with a run: leave one"),
        ({"candidates_from": "pooled"}, "--index and --candidates-from find candidates with an index, --candidates-run with a run: leave"),
        ({"max_frames": 0}, "--max-frames 0 must be at least 1"),
        ({"candidates": 4}, "--candidates 4 must be at least --top 5"),
        ({"candidates": 63}, "--candidates 63: the gallery has 62 videos: use 1 to 62"),
        ({"candidates_run": "nowhere"}, "--candidates-run: --run nowhere: there is no such folder: name the folder of a run"),
        ({"candidates_run": "zero-shot:tight"}, "--candidates-run: --run zero-shot:tight: head tight scores nothing before training"),
        ({"run": "zero-shot:tight"}, "--run zero-shot:tight: head tight scores nothing before training"),
        ({"query": (), "video": "video0"}, "--candidates-run finds videos for a query, and --video ranks captions: leave one of them out"),
    ],
)
def test_what_does_not_go_with_another_run_is_refused(cache_path: Path, change: dict[str, Any], line: str) -> None:
    """And before CLIP loads: this one does not exist."""
    with pytest.raises(UserError) as refusal:
        search.main(replace(options(cache_path, "zero-shot:ti", "zero-shot:mean", query=("a red ring",), model="local-dir:no"), **change))
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


def test_runs_of_another_cache_and_caches_without_tokens_are_refused(cache: FeatureCache, tmp_path: Path) -> None:
    other = saved(cache, tmp_path / "other", "mean")
    record = json.loads((tmp_path / "other" / "run.json").read_text())
    (tmp_path / "other" / "run.json").write_text(json.dumps(record | {"weights": "0" * 64}))
    with pytest.raises(UserError, match=r"^--candidates-run: --run .* was trained on features of other CLIP weights .*: use the cache of"):
        Searcher(options(cache.path, "zero-shot:ti", other), queries=False)
    with pytest.raises(UserError, match=r"reads patch tokens, and the cache .* has none: run extract again with --tokens"):
        Searcher(options(cache.path, PATCHES, "zero-shot:mean"), queries=False)


def test_an_evaluation_reads_patch_tokens_for_the_head_that_wants_them(patches_cache: FeatureCache, tmp_path: Path) -> None:
    """Both runs share the frames and texts they read alike. Patch tokens that do not fit displace nothing else."""
    few = saved(patches_cache, tmp_path / "run", "mean", max_frames=3)
    test = load_split(patches_cache, "test", None, BUDGET)
    plain = test.videos.bytes_held + test.texts.words.bytes_held + test.texts.sentences.bytes_held
    reserved = SCORING_BYTES + SCORING_BYTES_A_DIMENSION * patches_cache.dimension
    shared, alone = "zero-shot:mean", few
    for first, room, fits in ((shared, plain, False), (shared, 9 * plain, True), (alone, 2 * plain, False), (alone, 9 * plain, True)):
        budget = (reserved + room) / 2**30
        given: dict[str, Any] = {"candidates": str(K), "candidates_run": first, "memory_budget": budget, "device": "cpu"}
        found = load(EvaluateOptions(cache=patches_cache.path, run=PATCHES, out=tmp_path / "out", **given), ProcessGroup())
        assert found.first is not None
        ours, theirs = found.evaluated.split, found.first.split
        assert theirs.videos.patches is None
        assert (theirs.videos.frames is ours.videos.frames) == (theirs.texts is ours.texts) == (first == shared)
        assert ours.videos.patches is not None
        assert (ours.videos.patches.bytes_held > 0) == fits
        parts = [part for split in (ours, theirs) for part in (split.videos.frames, split.texts.words, split.texts.sentences)]
        held = {id(part): part.bytes_held for part in parts}
        assert all(held.values())
        assert found.memory_left == room - sum(held.values()) - ours.videos.patches.bytes_held


def test_a_stage_that_takes_a_day_is_refused_before_the_work(cache_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "REFUSED_FROM_S", 0.0)
    slow, fast = "zero-shot:tests.pair_by_pair:PairByPair", "zero-shot:mean"
    with pytest.raises(UserError, match=r"^scoring 62 videos for the query in the first stage with head .*: name a faster run with --cand"):
        search.main(options(cache_path, fast, slow, query=("a red ring",)))
    with pytest.raises(UserError, match=r"^scoring 7 videos for the query with head .*: use fewer --candidates$"):
        search.main(options(cache_path, slow, fast, query=("a red ring",)))
