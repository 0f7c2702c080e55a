"""Candidates by words: which words of a text count, how their lists are joined, and the same candidates in search and in evaluation."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import benchmarks.rerank.candidates
import evaluate
import search
from benchmarks.rerank.candidates import CandidatesOptions
from data.base.errors import UserError
from data.cache import FeatureCache, TextEntry, VideoEntry
from evaluate import EvaluateOptions
from extract.encode.models import load_tokenizer
from search.index.candidates import candidate_index, find_candidates
from search.index.words import STOP_WORDS, ContentWords, Word, join_lists, split_words
from search.options import SearchOptions
from search.searcher import Searcher
from tests.caches import BUDGET, QUERY, captions_of

K = 7


def reference_join(lists: list[list[int]], k: int) -> list[int]:
    """Reciprocal rank fusion in exact fractions; the first list counts as much as all others together."""
    score: dict[int, Fraction] = {}
    for which, videos in enumerate(lists):
        weight = max(1, len(lists) - 1) if which == 0 else 1
        for rank, video in enumerate(videos, start=1):
            score[video] = score.get(video, Fraction(0)) + Fraction(weight, 60 + rank)

    def place(video: int) -> tuple[Fraction, float, int]:
        return -score[video], lists[0].index(video) if video in lists[0] else math.inf, video

    return sorted(score, key=place)[:k]


@st.composite
def lists_of_texts(draw: st.DrawFn) -> tuple[int, list[list[list[int]]]]:
    """K, and for each of some texts its lists of at most K videos."""
    k = draw(st.integers(1, 8))
    a_list = st.lists(st.integers(0, 12), max_size=k, unique=True)
    return k, draw(st.lists(st.lists(a_list, min_size=1, max_size=5), min_size=1, max_size=4))


def padded(videos: list[int], k: int) -> list[int]:
    return videos + [-1] * (k - len(videos))


@given(lists_of_texts())
@settings(deadline=None)
def test_lists_are_joined_by_reciprocal_ranks(made: tuple[int, list[list[list[int]]]]) -> None:
    k, texts = made
    rows = np.array([padded(videos, k) for lists in texts for videos in lists])
    joined_AK = join_lists(rows, np.array([len(lists) for lists in texts]))
    assert joined_AK.tolist() == [padded(reference_join(lists, k), k) for lists in texts]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=10, unique=True), st.integers(0, 4))
def test_words_that_agree_with_the_sentence_change_nothing(videos: list[int], words: int) -> None:
    assert join_lists(np.array([videos] * (1 + words)), np.array([1 + words])).tolist() == [videos]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a small RED ring, over a plain background", ["small", "red", "ring", "plain", "background"]),
        ("it's the man's fire; they don't move!", ["man", "fire", "move"]),
        ("over and over again...", []),
        ("?!", []),
        ("2 skateboarders", ["2", "skateboarders"]),
    ],
)
def test_content_words_are_neither_stop_words_nor_punctuation(cache: FeatureCache, text: str, expected: list[str]) -> None:
    tokenizer = load_tokenizer(cache.extraction.model or "", "letters")
    words = ContentWords(tokenizer, 64).find(text, len(tokenizer.spell(text, 64)))
    assert [word.text for word in words] == expected
    # The places are those of the whole text, start token included.
    spelled = tokenizer.spell(text, 64)
    assert ["".join(spelled[word.first : word.last + 1]).strip() for word in words] == expected


def test_a_word_of_several_tokens_counts_once() -> None:
    assert split_words(["skate", "boarder", "s ", "on ", "ramp", "."]) == [Word("skateboarders", 0, 2), Word("ramp", 4, 4)]
    assert not {"man", "fire", "computer", "first", "left", "right"} & STOP_WORDS


def test_a_text_that_a_head_cuts_keeps_the_words_it_reads(cache: FeatureCache) -> None:
    words = ContentWords.of_cache(cache, [])
    whole = words.find("a red ring moves to the left", 9)
    assert [word.text for word in whole] == ["red", "ring", "moves", "left"]
    assert words.find("a red ring moves to the left", 5) == whole[:2]


def best_videos(frames: list[NDArray[np.float64]], query_D: NDArray[np.float32], k: int) -> list[int]:
    """The k videos with the frame nearest to a query, by brute force."""
    near = [(frame_FD @ query_D.astype(np.float64) / np.linalg.norm(frame_FD, axis=1)).max() for frame_FD in frames]
    return [int(i) for i in np.argsort(-np.array(near), kind="stable")[:k]]


def brute_force(cache: FeatureCache, text: str, k: int) -> list[int]:
    """The candidates of a cached text by its words, from nothing but the cached features and the tokens as strings."""
    tokenizer = load_tokenizer(cache.extraction.model or "", "letters")
    spelled, vectors, word = tokenizer.spell(text, 64), [np.asarray(cache.sentence(text))], ""
    for i, token in enumerate(spelled[1:-1], start=1):
        word += token
        if token.endswith(" ") or i == len(spelled) - 2:
            if word.strip().isalnum() and word.strip().lower() not in STOP_WORDS:
                vectors.append(np.asarray(cache.words(text)[i]))
            word = ""
    frames = [np.asarray(cache.frames(video_id), dtype=np.float64) for video_id in sorted(cache.names("videos"))]
    return reference_join([best_videos(frames, vector_D, k) for vector_D in vectors], k)


def test_candidates_are_those_of_brute_force_over_all_frames(cache: FeatureCache) -> None:
    captions = captions_of(cache, 6)
    videos = cache.videos(sorted(cache.names("videos")), BUDGET)
    texts = cache.texts(captions, BUDGET)
    index = candidate_index(cache, videos, "frames")
    found_AK = find_candidates(index, texts, K, words=ContentWords.of_cache(cache, captions))
    assert found_AK.tolist() == [brute_force(cache, caption, K) for caption in captions]
    assert found_AK.tolist() != find_candidates(index, texts, K).tolist()


def searched(cache: FeatureCache, **changed: object) -> SearchOptions:
    options = SearchOptions(cache=cache.path, run="zero-shot:glccl", top=3, candidates=K, candidates_from="words", device="cpu", quiet=True)
    return replace(options, **changed)  # type: ignore[arg-type]


def test_search_and_evaluation_find_the_same_candidates(cache: FeatureCache, tmp_path: Path) -> None:
    captions = captions_of(cache, 3)
    searcher = Searcher(searched(cache, index=tmp_path))
    assert (tmp_path / "frames").is_dir()
    texts = searcher.encoder.encode(captions)
    for a, caption in enumerate(captions):
        assert searcher.shortlist.for_text(texts, a).tolist() == sorted(brute_force(cache, caption, K))


def test_a_query_without_content_words_is_found_by_its_sentence(cache: FeatureCache) -> None:
    by_words, by_frames = (Searcher(searched(cache, candidates_from=way)) for way in ("words", "frames"))
    [[words], [frames]] = (list(searcher.search(["over and under"])) for searcher in (by_words, by_frames))
    assert [(hit.video_id, hit.score) for hit in words.hits] == [(hit.video_id, hit.score) for hit in frames.hits]


def test_the_commands_take_words(cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = SearchOptions(cache=cache_path, run="zero-shot:mean", query=(QUERY,), json=True, device="cpu", quiet=True)
    search.main(replace(options, top=3, candidates=9, candidates_from="words"))
    assert len(json.loads(capsys.readouterr().out)["results"]) == 3
    evaluated = EvaluateOptions(cache_path, "zero-shot:mean", tmp_path / "out", device="cpu", quiet=True, report=False)
    evaluate.main(replace(evaluated, candidates="2,12", candidates_from="words", index=tmp_path / "index"))
    result = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert [(row["vectors"], row["candidates"]) for row in result["candidates"]] == [("words", 2), ("words", 12)]
    assert result["candidates"][1]["text_to_video"] == result["text_to_video"]
    assert [folder.name for folder in (tmp_path / "index").iterdir()] == ["frames"]
    assert "12 by words" in capsys.readouterr().out


@pytest.mark.long
def test_the_benchmark_counts_the_exact_top_10(cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = len(cache.names("videos"))
    assert cache.extraction.model is not None
    options = CandidatesOptions(
        cache=cache.path, model=cache.extraction.model, numbers=(K, videos), texts=8, out=tmp_path / "candidates.json"
    )
    benchmarks.rerank.candidates.main(options)
    figures = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert figures == json.loads((tmp_path / "candidates.json").read_text())["figures"]
    shares = figures["shares"]["top 10 of zero-shot:glccl"]
    assert {"frames", "pooled", "words (last token)", "words (word alone), in turn"} <= shares.keys()
    for row in shares.values():
        few, every = row["all"]
        assert 0 < few <= 100 * K / 10
        assert every == 100


def test_lists_take_turns() -> None:
    lists = np.array([[4, 2, 7], [2, 9, 4], [1, 2, 3]])
    assert benchmarks.rerank.candidates.take_turns(lists, np.array([2, 1])).tolist() == [[4, 2, 9], [1, 2, 3]]


def imported(path: Path) -> FeatureCache:
    """A cache of features from elsewhere: it names no CLIP."""
    cache = FeatureCache.create(path, {"weights": "elsewhere", "dimension": 4, "max_words": 8, "dtype": "float32"})
    eye = np.eye(4, dtype=np.float32)
    cache.write_videos([VideoEntry("video0", eye[:2], np.arange(2.0))])
    cache.write_texts([TextEntry("a ring", eye, eye[0], 4)])
    return FeatureCache(path)


def moved(cache: FeatureCache, path: Path) -> FeatureCache:
    """A cache whose CLIP is no longer where it was."""
    extraction = replace(cache.extraction, model="local-dir:/nowhere/clip")
    return FeatureCache.create(path, cache.settings, cache.clip_parts(), cache.provenance, extraction=extraction)


def split_otherwise(cache: FeatureCache, path: Path) -> FeatureCache:
    """A cache whose texts have other numbers of tokens than its tokenizer finds."""
    made = FeatureCache.create(path, cache.settings, cache.clip_parts(), cache.provenance, extraction=cache.extraction)
    sentence_D = torch.ones(cache.dimension).numpy()
    made.write_texts([TextEntry("a ring", np.tile(sentence_D, (6, 1)), sentence_D, 6)])
    return FeatureCache(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda cache, path: imported(path), "and the cache does not record which CLIP that was: use --candidates-from frames"),
        (moved, r"which is not available \(.*\): put it back, or use --candidates-from frames"),
        (split_otherwise, "splits 'a ring' into 4 tokens, not 6: use --candidates-from frames"),
    ],
)
def test_without_the_tokenizer_of_the_cache_words_are_refused(
    cache: FeatureCache, tmp_path: Path, make: Callable[[FeatureCache, Path], FeatureCache], message: str
) -> None:
    made = make(cache, tmp_path / "cache")
    with pytest.raises(UserError, match=f"--candidates-from words needs the tokenizer of the CLIP that made .*{message}"):
        ContentWords.of_cache(made, made.names("texts"))
