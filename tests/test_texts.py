"""Texts as people have them, through the stages: long ones, special tokens, signs alone, and queries that mean nothing to the model."""

import json
import random
import string
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import evaluate
import extract
import search
from data.cache import FeatureCache, TextEntry
from data.cache.layout import BEFORE_4
from data.datasets import ADAPTERS
from evaluate import EvaluateOptions
from extract import ExtractOptions
from extract.encode.clip import Clip, load_clip
from search import SearchOptions
from search.answer import Answer
from search.retrieval.cut import count_cut
from search.searcher import Searcher
from search.serve import ServeOptions, serving
from search.serve.answering import Answering
from search.serve.app import make_app
from tests.caches import BUDGET, OLD, captions_of
from tests.conftest import DEMO_CLIP
from train_head.heads import HeadConfig, TextBatch, VideoBatch, make_head
from train_head.run import load_head, save_run

SHARED = " ".join(["a red ring rises on the left"] * 5)
"""35 words: more tokens than the field's 32, fewer than the 64 that the demo's CLIP takes."""
LONG = " ".join(["a large blue heart is resting at the top"] * 9)
"""81 words."""
CAPTIONS = {
    "video1.mp4": (f"{SHARED} blue cross", f"{SHARED} green star", "a red ring"),
    "video2.mp4": (f"{LONG} over there", f"{LONG}, over a dotted background", "a dog <end_of_text> jumps over a fence"),
    "video3.mp4": ("!!! ...", "\u200f\u05d8\u05d1\u05e2\u05ea \u05d0\u05d3\u05d5\u05de\u05d4", "a dog"),
    "video4.mp4": ("&nbsp;", "🟥 🟥", "a\ttab and\x0ba vertical one"),
}
CUT = CAPTIONS["video2.mp4"][:2]
LAST = LONG.split()[61]
"""The last word of theirs that is kept: 64 tokens are start, end and 62 words."""
NARROW = 12


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(video, caption) for video, captions in CAPTIONS.items() for caption in captions]
    path = tmp_path_factory.mktemp("table") / "table.csv"
    pd.DataFrame(rows, columns=["video", "caption"]).assign(split="test").to_csv(path, index=False)
    return path


@pytest.fixture(scope="module")
def options(demo_set: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> ExtractOptions:
    cache = tmp_path_factory.mktemp("texts") / "cache"
    return ExtractOptions(videos=demo_set / "videos", annotations=table, cache=cache, model=DEMO_CLIP, device="cpu", quiet=True)


@pytest.fixture(scope="module")
def texts_cache(options: ExtractOptions) -> FeatureCache:
    return FeatureCache(extract.main(options))


@pytest.fixture(scope="module")
def clip() -> Clip:
    return load_clip(DEMO_CLIP, None, torch.device("cpu"))


@pytest.fixture(scope="module")
def narrow_run(cache_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A head for captions of 12 tokens, as one that was trained on such."""
    cache, folder = FeatureCache(cache_path), tmp_path_factory.mktemp("narrow")
    head = make_head("glccl", HeadConfig(cache.dimension, NARROW, 100.0))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_run(folder, head, {"weights": cache.weights})
    return str(folder)


def answers_of(options: SearchOptions, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    capsys.readouterr()
    search.main(replace(options, json=True))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def words_of(cache: FeatureCache, caption: str) -> torch.Tensor:
    return cache.texts([caption], BUDGET).words.gather([0])[0]


def test_presets_of_ones_own_take_what_the_model_takes() -> None:
    words = {preset.name: preset.max_words for _, presets in ADAPTERS.values() for preset in presets}
    assert {name for name, most in words.items() if most is None} == {"table", "folder"}
    assert {words[name] for name in ("msrvtt-9k", "vatex", "msvd", "lsmdc")} == {32}
    assert (words["didemo"], words["activitynet"], words["demo"]) == (64, 64, 64)


def test_the_summary_counts_texts_that_were_cut_or_are_empty(
    options: ExtractOptions, texts_cache: FeatureCache, clip: Clip, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of all captions of the table, also in a run that has nothing to do."""
    assert (texts_cache.settings["max_words"], texts_cache.settings["special_tokens"]) == (clip.context_length, "letters")
    capsys.readouterr()
    extract.main(replace(options, json=True))
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert (summary["texts_extracted"], summary["texts_cut"], summary["texts_empty"]) == (0, 2, 1)
    assert f"2 of 12 texts have more than 64 tokens and were cut, such as '{CUT[0][:20]}" in said.err
    assert "1 of 12 texts have no word that the model can read, such as '&nbsp;'" in said.err


def test_captions_that_differ_behind_the_cut_are_equal_and_others_are_not(texts_cache: FeatureCache) -> None:
    first, second = (words_of(texts_cache, caption) for caption in CUT)
    assert first.equal(second)
    assert len(first) == 64
    one, other = (words_of(texts_cache, caption) for caption in CAPTIONS["video1.mp4"][:2])
    assert 32 < len(one) == len(other)
    assert not one[-1].equal(other[-1])


def test_special_tokens_are_letters_in_a_cache(texts_cache: FeatureCache) -> None:
    assert len(words_of(texts_cache, "a dog <end_of_text> jumps over a fence")) == 2 + 2 + 7 + 4
    assert len(words_of(texts_cache, "a dog")) == 4


@pytest.mark.long
def test_metrics_and_the_report_count_captions_that_were_cut(
    texts_cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = EvaluateOptions(cache=texts_cache.path, run="zero-shot:glccl", out=tmp_path / "out", device="cpu", quiet=True)
    out = evaluate.main(asked)
    result = json.loads((out / "metrics.json").read_text())
    assert (result["captions_cut"], result["max_words"], result["captions_cut_by_head"]) == (2, 64, 0)
    sentence = "2 of 12 captions have more than 64 tokens and were cut"
    assert sentence in capsys.readouterr().out
    assert f'<p class="note">{sentence}.</p>' in (out / "report.html").read_text()
    evaluate.main(replace(asked, out=tmp_path / "json", json=True, report=False))
    assert json.loads(capsys.readouterr().out)["captions_cut"] == 2


def test_a_cache_that_does_not_say_is_asked_through_its_tokenizer(texts_cache: FeatureCache, clip: Clip, tmp_path: Path) -> None:
    """As a cache of format 3, whose special tokens end a text; and where the tokenizer is gone, it is not known."""
    settings = {name: value for name, value in texts_cache.settings.items() if name not in BEFORE_4} | {"max_words": 8}
    made_by = texts_cache.provenance
    gone = made_by | {"options": made_by["options"] | {"model": "local-dir:/a/folder/that/is/gone"}}
    captions = ["a red ring at the top now", "a red ring at the top", "a red ring at the <end_of_text> top of it", "a red ring"]
    for path, provenance, cut in ((tmp_path / "old", made_by, 1), (tmp_path / "gone", gone, None)):
        old = FeatureCache.create(path, settings, texts_cache.clip_parts(), provenance)
        ones = [np.ones((min(8, length), old.dimension), np.float32) for length in (9, 8, 7, 5)]
        old.write_texts([TextEntry(caption, rows, rows[0]) for caption, rows in zip(captions, ones, strict=True)])
        assert count_cut(FeatureCache(path), [*captions[1:]]) == (None if cut is None else 0)
        assert count_cut(FeatureCache(path), [*captions, captions[0]]) == (None if cut is None else 2)
        assert count_cut(FeatureCache(path), captions[2:]) == 0


def test_long_queries_are_told_apart_and_longer_ones_are_said_to_be_cut(
    texts_cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    queries = (*CAPTIONS["video1.mp4"][:2], *CUT, "a red ring")
    asked = SearchOptions(
        cache=texts_cache.path, run="zero-shot:glccl", query=queries, each=True, html=tmp_path / "page.html", device="cpu", quiet=True
    )
    found = answers_of(asked, capsys)
    scores = [{hit["video_id"]: hit["score"] for hit in answer["results"]} for answer in found]
    assert all(scores[0][video] != scores[1][video] for video in scores[0])
    assert scores[2] == scores[3]
    assert [answer["cut"] for answer in found] == [None, None, *[{"after": LAST, "tokens": 64}] * 2, None]
    sentence = f"the query was cut after '{LAST}' (64 tokens)"
    assert found[2]["notes"][0] == sentence
    capsys.readouterr()
    search.main(replace(asked, html=None))
    assert f"\n{CUT[0]}\n  note: {sentence}\n" in capsys.readouterr().out
    noted = f'class="note">The query was cut after &#39;{LAST}&#39; (64 tokens).</p>'
    assert (tmp_path / "page.html").read_text().count(noted) == 2
    served = ServeOptions(cache=texts_cache.path, run="zero-shot:glccl", device="cpu", quiet=True)
    client = make_app(Answering(Searcher(served)), None, served.run, served.host).test_client()
    assert noted in client.get("/", query_string={"q": CUT[0]}).text
    assert noted not in client.get("/results", query_string={"q": "a red ring"}).text


def test_a_head_that_takes_fewer_tokens_says_that_it_cuts_there(
    cache_path: Path, narrow_run: str, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = FeatureCache(cache_path)
    query = next(caption for caption in captions_of(cache, 100) if len(words_of(cache, caption)) == len(caption.split()) + 2 > NARROW)
    asked = SearchOptions(cache=cache_path, run=narrow_run, query=(query,), top=100, device="cpu", quiet=True)
    found = answers_of(asked, capsys)[0]
    kept = " ".join(query.split()[: NARROW - 2])
    assert found["cut"] == {"after": kept.split()[-1], "tokens": NARROW}
    assert f"({NARROW} tokens, the head's limit; its sentence feature covers 64)" in found["notes"][0]
    # As an evaluation scores the same caption: its first words, its end token, and its sentence.
    head, _ = load_head(narrow_run, cache, torch.device("cpu"))
    text = cache.texts([query], BUDGET)
    words_LD, videos = text.words.gather([0])[0], cache.videos(cache.names("videos"), BUDGET)
    kept_LD = torch.cat([words_LD[: NARROW - 1], words_LD[-1:]])
    assert cache.texts([query], BUDGET, NARROW).words.gather([0])[0].equal(kept_LD)
    batch = TextBatch(text.sentences.gather([0])[0], kept_LD, torch.tensor([NARROW]))
    gallery = VideoBatch.gather(videos, range(len(videos.ids)), torch.device("cpu"))
    with torch.no_grad():
        score_B = head.scores(head.encode_texts(batch), head.encode_videos(gallery)).mean(dim=0)[0]
    expected = dict(zip(videos.ids, score_B.tolist(), strict=True))
    assert {hit["video_id"]: hit["score"] for hit in found["results"]} == pytest.approx(expected, abs=0.02)


def test_serve_says_at_its_start_that_the_head_cuts(cache_path: Path, narrow_run: str, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(ServeOptions(cache=cache_path, run=narrow_run, port=0, device="cpu", quiet=True)):
        pass
    assert f"cuts queries to {NARROW} tokens; the cache keeps 64" in capsys.readouterr().err


def test_texts_for_a_video_are_counted_where_they_are_cut(
    texts_cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text(f"{CUT[0]}\na red ring\n")
    asked = SearchOptions(cache=texts_cache.path, run="zero-shot:glccl", video="video1.mp4", device="cpu", quiet=True)
    assert [answers_of(replace(asked, captions=file), capsys)[0]["captions_cut"] for file in (lines, None)] == [1, 2]
    search.main(replace(asked, captions=lines))
    assert capsys.readouterr().out.endswith("of 2 captions, 1 of which were cut\n")


def gibberish(seed: int) -> str:
    """One to three words of 4 to 9 letters at random."""
    drawn = random.Random(seed)
    words = ("".join(drawn.choice(string.ascii_lowercase) for _ in range(drawn.randrange(4, 10))) for _ in range(drawn.randrange(1, 4)))
    return " ".join(words)


def noted(answers: Sequence[Answer], name: str) -> int:
    return sum(getattr(answer.notes, name) for answer in answers)


@pytest.mark.parametrize(("head", "candidates"), [("glccl", None), ("mean", 20)])
def test_captions_raise_no_alarm_and_random_words_do(cache_path: Path, head: str, candidates: int | None) -> None:
    searcher = Searcher(SearchOptions(cache=cache_path, run=f"zero-shot:{head}", candidates=candidates, device="cpu", quiet=True))
    tokenizer, lengths = searcher.encoder.tokenizer, (8, 9, 10, 11)
    captions = [caption for caption in searcher.cache.names("texts") if len(tokenizer.encode(caption)) in lengths][:20]
    real = list(searcher.search(captions))
    assert len(real) == 20
    assert noted(real, "no_known_word") == 0
    assert noted(real, "no_better_than_random") <= 1
    # CLIP knows none of their tokens: a string of letters may hold a word, or a piece of one.
    known = load_clip(DEMO_CLIP, None, torch.device("cpu")).model.token_embedding.weight.abs().sum(dim=1) > 0
    tokens = {text: tokenizer.encode(text) for text in map(gibberish, range(1000))}
    nonsense = [text for text, ids in tokens.items() if len(ids) in lengths and not known[ids[1:-1]].any()][:20]
    found = list(searcher.search(nonsense))
    assert noted(found, "no_known_word") >= 18
    assert noted(found, "no_better_than_random") >= 18
    found = list(searcher.search([tokenizer.random_words(lengths[seed % 4] - 2, 1000 + seed) for seed in range(20)]))
    assert noted(found, "no_known_word") == 0
    assert noted(found, "no_better_than_random") >= 17


def test_what_a_query_means_nothing_is_said_everywhere(cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    queries = ("vbnm xcvq", "a red ring")
    asked = SearchOptions(cache=cache_path, run="zero-shot:glccl", query=queries, each=True, html=page, device="cpu", quiet=True)
    unknown = "the model's vocabulary has no word of this query: the results may be meaningless"
    chance = "these results are no better than those of random words"
    nonsense, real = answers_of(asked, capsys)
    assert (nonsense["no_known_word"], nonsense["no_better_than_random"], nonsense["notes"]) == (True, True, [unknown, chance])
    assert (real["no_known_word"], real["no_better_than_random"], real["notes"], real["cut"]) == (False, False, [], None)
    search.main(asked)
    assert f"vbnm xcvq\n  note: {unknown}\n  note: {chance}\n" in capsys.readouterr().out
    served = ServeOptions(cache=cache_path, run=asked.run, device="cpu", quiet=True)
    client = make_app(Answering(Searcher(served)), None, served.run, served.host).test_client()
    for content in (page.read_text(), client.get("/", query_string={"q": "vbnm xcvq"}).text):
        assert content.count('<p class="note">') == 2
        assert 'class="note">The model&#39;s vocabulary has no word of this query' in content
        assert f'class="note">{chance[0].upper()}{chance[1:]}.</p>' in content
    assert "note" not in client.get("/", query_string={"q": "a red ring"}).text


def test_every_kind_of_text_is_answered(texts_cache: FeatureCache, capsys: pytest.CaptureFixture[str]) -> None:
    """Signs, pictographs, other scripts and directions, nothing that the tokenizer reads, one long word, control characters."""
    queries = ("!!! ...", "🟥", "狗", "\u05d8\u05d1\u05e2\u05ea", "&nbsp;", "x", "\u200b", "é" * 500, "ab\x00cat" * 40)
    answers = answers_of(
        SearchOptions(cache=texts_cache.path, run="zero-shot:mean", query=queries, each=True, device="cpu", quiet=True), capsys
    )
    for answer in answers:
        assert len(answer["results"]) == 4
        assert all(np.isfinite(hit["score"]) for hit in answer["results"])
    assert [answer["no_known_word"] for answer in answers] == [True] * 8 + [False]
    assert [answer["cut"] and "within" in answer["cut"] for answer in answers] == [None] * 7 + [True, True]


def test_an_old_cache_reads_a_query_as_it_read_its_captions(tmp_path: Path) -> None:
    """A special token in a query ends it there, as it ended the captions: equal texts score the same."""
    asked = SearchOptions(cache=OLD / "cache", run="zero-shot:glccl", model=DEMO_CLIP, device="cpu", quiet=True)
    searcher = Searcher(asked)
    short, ended = searcher.search(["a red ring", "a red ring <end_of_text> over a striped background"])
    assert [hit.score for hit in short.hits] == [hit.score for hit in ended.hits]
    assert list(short.notes.lines()) == []
    assert list(ended.notes.lines()) == ["the query was cut after 'ring' (5 tokens, at a special token, like the captions of this cache)"]
