"""Search over a cache: exact scores, best moments, and one line for whatever is asked wrongly."""

import gc
import io
import json
import math
import os
import shutil
import unicodedata
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import extract
import search
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import TextFeatures
from extract import ExtractOptions
from search import SearchOptions
from search.answer import Answer
from search.retrieval.moments import find_moments, timestamp
from search.retrieval.queries import MAX_QUERY, clean_query
from search.retrieval.shortlist import WholeGallery
from search.searcher import QUERIES_AT_ONCE, Searcher
from search.serve import ServeOptions
from tests.caches import BUDGET, QUERY, captions_of, jpeg, rewritten
from tests.choice import long_but
from tests.conftest import DEMO_CLIP, ROOT
from tests.features import pad
from train_head.glim import glim_scores
from train_head.heads import HeadConfig, TextBatch, VideoBatch, make_head


@pytest.fixture
def options(cache_path: Path) -> SearchOptions:
    return SearchOptions(cache=cache_path, run="zero-shot:glccl", query=(QUERY,), device="cpu", quiet=True)


@pytest.fixture(scope="module")
def searcher(cache_path: Path) -> Searcher:
    return Searcher(SearchOptions(cache=cache_path, run="zero-shot:glccl", top=100, device="cpu", quiet=True))


def reference(cache: FeatureCache, captions: Sequence[str], head: str) -> tuple[list[str], torch.Tensor]:
    """Scores of cached captions with all videos, by the plain form of each head."""
    ids = sorted(cache.names("videos"))
    frames = [cache.videos([name], BUDGET).frames.gather([0])[0] for name in ids]
    texts = cache.texts(captions, BUDGET)
    sentence_AD = texts.sentences.gather(range(len(captions)))[0]
    scale = min(cache.clip_parts().logit_scale, 100.0)
    if head == "mean":
        unit = torch.nn.functional.normalize
        video_BD = torch.stack([unit(unit(frame, dim=-1).mean(dim=0), dim=-1) for frame in frames])
        return ids, scale * unit(sentence_AD, dim=-1) @ video_BD.T
    word_ALD, mask_AL = pad([texts.words.gather([i])[0] for i in range(len(captions))])
    return ids, glim_scores(sentence_AD, word_ALD, mask_AL, *pad(frames), logit_scale=scale).mean(dim=0)


@pytest.mark.parametrize("head", ["glccl", "mean"])
def test_every_video_is_scored_exactly_and_the_best_come_first(options: SearchOptions, cache: FeatureCache, head: str) -> None:
    captions = captions_of(cache, QUERIES_AT_ONCE + 3)
    ids, score_AB = reference(cache, captions, head)
    answers = list(Searcher(replace(options, run=f"zero-shot:{head}", top=len(ids))).search(captions))
    assert [answer.query for answer in answers] == captions
    for answer, score_B in zip(answers, score_AB, strict=True):
        assert sorted(hit.video_id for hit in answer.hits) == ids
        assert [hit.rank for hit in answer.hits] == list(range(1, len(ids) + 1))
        found = [hit.score for hit in answer.hits]
        assert found == sorted(found, reverse=True)
        # Queries are encoded anew: single numbers of float16 may be rounded to the next.
        torch.testing.assert_close(torch.tensor(found), score_B[[ids.index(hit.video_id) for hit in answer.hits]], atol=0.02, rtol=1e-3)


def test_the_moment_of_a_text_guided_head_is_the_frame_that_the_sentence_weighs_most(searcher: Searcher, cache: FeatureCache) -> None:
    caption = captions_of(cache, 1)[0]
    sentence_D = cache.texts([caption], BUDGET).sentences.gather([0])[0][0].double().numpy()
    answer = next(searcher.search([caption]))
    assert answer.measure == "sentence"
    for hit in answer.hits:
        video = cache.videos([hit.video_id], BUDGET)
        product_F = video.frames.gather([0])[0].double().numpy() @ sentence_D / 5
        weight_F = np.exp(product_F - product_F.max())
        np.testing.assert_allclose(hit.moment.weight_F, weight_F / weight_F.sum(), atol=5e-3)
        assert hit.moment.weight_F[hit.moment.frame] == max(hit.moment.weight_F)
        assert hit.moment.seconds == video.seconds[0][hit.moment.frame]
        assert hit.moment.seconds_F == video.seconds[0].tolist()


@pytest.mark.parametrize(
    ("head", "measure"), [("mean", "cosine"), ("xclip", "cosine"), ("glim-local", "words"), ("glim-global", "sentence")]
)
def test_heads_say_what_their_moments_are_made_of(
    options: SearchOptions, cache: FeatureCache, capsys: pytest.CaptureFixture[str], head: str, measure: str
) -> None:
    answer = search.main(replace(options, run=f"zero-shot:{head}", json=True, top=3))[0]
    said = json.loads(capsys.readouterr().out)
    for hit, result in zip(answer.hits, said["results"], strict=True):
        assert result["moment"]["by"] == measure
        assert result["video_id"] == hit.video_id
        assert result["file"] == f"{hit.video_id}.mp4"
        assert len(hit.moment.weight_F) == len(cache.videos([hit.video_id], BUDGET).seconds[0])
        assert max(map(abs, hit.moment.weight_F)) <= 1.0001


@pytest.mark.parametrize("name", ["mean", "xclip"])
def test_a_cosine_is_with_the_frames_that_the_head_compares(cache: FeatureCache, name: str) -> None:
    """X-CLIP compares single frames from before its temporal encoder."""
    caption, video = captions_of(cache, 1)[0], cache.names("videos")[0]
    texts, videos = cache.texts([caption], BUDGET), cache.videos([video], BUDGET)
    torch.manual_seed(0)
    head = make_head(name, HeadConfig(cache.dimension, 64, 100.0, max_frames=40, temporal="seq-transf", temporal_positions=40))
    measure, moments = find_moments(head, [TextBatch.gather(texts, [0], torch.device("cpu"))], videos, [0])
    batch = VideoBatch.gather(videos, [0], torch.device("cpu"))
    frame_FD = (batch.frame_BFD if name == "xclip" else head.temporal_frames(batch))[0].detach().double()
    sentence_D = texts.sentences.gather([0])[0][0].double()
    expected_F = torch.nn.functional.cosine_similarity(frame_FD, sentence_D[None], dim=1)
    assert measure == "cosine"
    torch.testing.assert_close(torch.tensor(moments[0].weight_F, dtype=torch.float64), expected_F, rtol=0, atol=1e-5)


@pytest.mark.long
def test_a_query_scores_the_same_alone_in_a_file_with_any_memory_and_from_a_merged_cache(
    options: SearchOptions, cache: FeatureCache, tmp_path: Path
) -> None:
    captions = captions_of(cache, QUERIES_AT_ONCE + 1)
    file = tmp_path / "queries.txt"
    file.write_text("\n\n".join(captions) + "\n")
    together = search.main(replace(options, query=(), queries=str(file)))
    for caption, expected in list(zip(captions, together, strict=True))[::5]:
        assert search.main(replace(options, query=(caption,), memory_budget=0.0)) == [expected]
    cache.merge(tmp_path / "merged.h5")
    assert search.main(replace(options, cache=tmp_path / "merged.h5", query=(captions[0],))) == together[:1]


def open_files(folder: Path) -> set[str]:
    """The files under a folder that this process has open."""
    linked = {os.path.realpath(f"/proc/self/fd/{handle}") for handle in os.listdir("/proc/self/fd")}
    return {path for path in linked if path.startswith(f"{folder.resolve()}/")}


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="only Linux lists the open files of a process")
def test_a_search_that_reads_candidates_from_the_disk_leaves_no_file_open(
    options: SearchOptions, cache: FeatureCache, tmp_path: Path
) -> None:
    asked = replace(options, query=("a ring",), candidates=5, top=3, index=tmp_path)
    search.main(asked)  # builds the index
    before = open_files(Path(cache.path))
    gc.disable()  # what only the collector of cycles closes stays open for a time that nobody knows
    try:
        search.main(asked)
        assert open_files(Path(cache.path)) == before
    finally:
        gc.enable()


class EverySecond(WholeGallery):
    """What an index may do: name only some of the videos."""

    def for_text(self, texts: TextFeatures, number: int, within: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        return super().for_text(texts, number, within)[int(texts.words.length_N[number]) % 2 :: 2]


def test_candidates_are_scored_exactly_and_nothing_else_is(options: SearchOptions, cache: FeatureCache) -> None:
    captions = captions_of(cache, 5)
    whole = Searcher(replace(options, top=100))
    some = Searcher(replace(options, top=100))
    some.shortlist = EverySecond(len(some.gallery.ids))
    for expected, found in zip(whole.search(captions), some.search(captions), strict=True):
        assert len(found.hits) == len(expected.hits) // 2
        rest = [(hit.video_id, hit.score) for hit in expected.hits if hit.number % 2 == found.hits[0].number % 2]
        assert [(hit.video_id, hit.score) for hit in found.hits] == rest


def test_a_video_finds_its_captions(
    options: SearchOptions, cache: FeatureCache, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = sorted(cache.names("texts"))
    ids, score_AB = reference(cache, captions, "glccl")
    score_A = score_AB[:, ids.index("video3")]
    asked = replace(options, query=(), video="video3", top=5, json=True)
    search.main(asked)
    said = json.loads(capsys.readouterr().out)
    assert said["captions"] == len(captions)
    assert [result["caption"] for result in said["results"]] == [captions[i] for i in score_A.argsort(descending=True)[:5]]
    file = tmp_path / "captions.txt"
    file.write_text("\n".join([*captions[:40], captions[0]]))
    search.main(replace(asked, captions=file, top=100))
    said = json.loads(capsys.readouterr().out)
    found = {result["caption"]: result["score"] for result in said["results"]}
    assert found == pytest.approx(dict(zip(captions[:40], score_A.tolist(), strict=False)), abs=0.02)


def test_queries_from_standard_input_are_printed_for_people(
    options: SearchOptions, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a red cross\r\n\r\na blue star\n")))
    answers = search.main(replace(options, query=(), queries="-", top=2))
    lines = capsys.readouterr().out.splitlines()
    assert [answer.query for answer in answers] == ["a red cross", "a blue star"]
    assert [lines[0], lines[3]] == ["a red cross", "a blue star"]
    hit = answers[1].hits[0]
    assert lines[4].split() == ["1", f"{hit.score:.3f}", timestamp(hit.moment.seconds), hit.video_id, f"({hit.file})"]
    assert "62 videos" in lines[-1]
    assert "alpha" in lines[-1]


def asked(cache: Path, *words: str) -> list[str]:
    """The queries of a command line."""
    given = ["--cache", str(cache), "--run", "zero-shot:mean", "--top", "1", "--device", "cpu", *words]
    return [answer.query for answer in search.main(tyro.cli(SearchOptions, args=given, config=(tyro.conf.FlagCreatePairsOff,)))]


def test_words_are_one_query_and_arguments_several_where_that_is_said(
    cache_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("a red ring",), ("a", "red", "ring", "--json"), ("--quiet", "a", " ", "red", "ring", "")):
        assert asked(cache_path, *words) == ["a red ring"]
        assert not capsys.readouterr().err
    # A script that asked two queries so is told.
    assert asked(cache_path, "a red ring", "a star") == ["a red ring a star"]
    assert "2 arguments are joined into one query; to search for each of them, add --each" in capsys.readouterr().err
    assert asked(cache_path, "--each", "a red ring", "a star", "--json") == ["a red ring", "a star"]
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in said] == ["a red ring", "a star"]
    alone = json.loads(asked_json(cache_path, capsys, "a", "star"))
    assert alone == said[1]
    file = tmp_path / "queries.txt"
    file.write_text("a cross\n")
    assert asked(cache_path, "--queries", str(file), "a", "ring") == ["a ring", "a cross"]
    for dashed in (("--", "--fast", "cars"), ("-5", "degrees")):
        assert asked(cache_path, *dashed) == [" ".join(word for word in dashed if word != "--")]


def asked_json(cache: Path, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    asked(cache, "--json", *words)
    return capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", long_but(["\r\n"], ["\n", "\r\n", "\r"]))
def test_a_file_of_queries_may_come_from_any_editor(
    options: SearchOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], encoding: str, end: str
) -> None:
    """Characters that Python takes for the end of a line, and no editor does, stay in a query; control characters become blanks."""
    file = tmp_path / "queries.txt"
    file.write_bytes(end.join(["a röd ring", "", " \t", "a\u2028star\x0b", "\x85", "x"]).encode(encoding))
    asked = replace(options, query=(), queries=str(file), run="zero-shot:mean", quiet=False)
    assert [answer.query for answer in search.main(asked)] == ["a röd ring", "a\u2028star", "x"]
    assert f"--queries {file}: 3 texts; empty lines skipped: 3" in capsys.readouterr().err.splitlines()


def test_standard_input_that_is_closed_is_said(options: SearchOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UserError, match="--queries -: standard input is closed: name a file"):
        search.main(replace(options, query=(), queries="-"))


def test_a_search_of_a_small_gallery_shows_no_progress(options: SearchOptions, capsys: pytest.CaptureFixture[str]) -> None:
    search.main(replace(options, quiet=False))
    assert not capsys.readouterr().err


def test_the_page_of_results_is_one_file_in_which_text_stays_text(options: SearchOptions, cache: FeatureCache, tmp_path: Path) -> None:
    hostile = '<img src=x onerror="alert(1)">.mp4'
    other = rewritten(cache, tmp_path / "cache", {"video1": hostile, "video2": "b"}, thumbnails=True)
    page = tmp_path / "new" / "page.html"
    query = "</style><script>alert(1)</script>{{ 7 * 7 }}"
    search.main(replace(options, cache=other.path, query=(query, QUERY), each=True, html=page))
    content = page.read_text()
    assert "<script" not in content
    assert "<img src=x" not in content
    assert "{{ 7 * 7 }}" in content
    assert "&lt;img src=x onerror=&#34;alert(1)&#34;&gt;.mp4" in content
    assert content.count("data:image/jpeg;base64,") == 2 * sum(
        len(cache.videos([name], BUDGET).seconds[0]) for name in ("video1", "video2")
    )
    assert "http" not in content
    assert content.count("<svg") == content.count("data:image")
    without = tmp_path / "without.html"
    plain = rewritten(cache, tmp_path / "plain", {"video1": "a"})
    search.main(replace(options, cache=plain.path, html=without))
    assert "<img" not in without.read_text()
    assert "<svg" in without.read_text()


def test_thumbnails_are_of_the_frames_that_the_head_sees(options: SearchOptions, cache: FeatureCache, tmp_path: Path) -> None:
    longest = max(cache.names("videos"), key=lambda name: len(cache.videos([name], BUDGET).seconds[0]))
    other = rewritten(cache, tmp_path / "cache", {longest: "long"}, thumbnails=True)
    count = len(cache.videos([longest], BUDGET).seconds[0])
    assert count > 3
    found = Searcher(replace(options, cache=other.path, max_frames=2))
    assert found.thumbnails(0) == [jpeg(0), jpeg(2 * (count - 1))]
    assert next(found.search([QUERY])).hits[0].moment.seconds_F == [0.0, float(cache.videos([longest], BUDGET).seconds[0][-1])]


def test_a_folder_of_videos_without_captions_is_extracted_and_searched(
    demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "videos"
    (folder / "deep er").mkdir(parents=True)
    for name, target in (("video1", "one"), ("video2", "deep er/two"), ("video3", "deep er/drei ü")):
        shutil.copy(demo_set / "videos" / f"{name}.mp4", folder / f"{target}.mp4")
    cache = extract.main(ExtractOptions(videos=folder, cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True))
    asked = SearchOptions(cache=cache, run="zero-shot:glccl", query=(QUERY,), device="cpu", quiet=True)
    hits = search.main(asked)[0].hits
    assert sorted((hit.video_id, hit.file) for hit in hits) == [
        (name, name) for name in ("deep er/drei ü.mp4", "deep er/two.mp4", "one.mp4")
    ]
    with pytest.raises(UserError, match="has no captions: name a file of texts with --captions"):
        search.main(replace(asked, query=(), video="one.mp4"))
    texts = tmp_path / "texts.txt"
    texts.write_text("a cat\na dog\n")
    capsys.readouterr()
    search.main(replace(asked, query=(), video="one.mp4", captions=texts))
    assert capsys.readouterr().out.splitlines()[-1] == "of 2 captions"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"query": ()}, "there is no query"),
        ({"query": ("a cat", " \t"), "each": True}, "the query is empty"),
        ({"query": ("", " \t")}, "the query is empty"),
        ({"query": ("\x00\x1b",)}, "the query is empty"),
        ({"query": ("a" * (MAX_QUERY + 1),)}, "has 10,001 characters: shorten it to 10,000"),
        ({"query": (), "queries": "nowhere.txt"}, "--queries nowhere.txt cannot be read: No such file"),
        ({"query": (), "video": "vdeo3"}, "has no video 'vdeo3': did you mean 'video3' or "),
        ({"query": (), "video": "\x1b[2J"}, r"has no video '\x1b[2J': name another, such as 'video0'"),
        ({"video": "video3"}, "--video ranks captions: leave out the queries"),
        ({"captions": Path("texts.txt")}, "--captions texts.txt is for --video: name a video too"),
        ({"top": 0}, "--top 0 must be at least 1"),
        ({"max_frames": 0}, "--max-frames 0 must be at least 1"),
        ({"memory_budget": -1.0}, "--memory-budget -1.0: a number of GiB, 0 or more"),
        ({"memory_budget": math.nan}, "--memory-budget nan: a number of GiB, 0 or more"),
        ({"memory_budget": math.inf}, "--memory-budget inf: a number of GiB, 0 or more"),
        ({"run": "zero-shot:best"}, "--run zero-shot:best: there is no head 'best': use zero-shot:glccl, "),
        ({"run": "nowhere"}, "--run nowhere: there is no such folder"),
        ({"cache": Path("nowhere")}, "there is no cache at nowhere"),
        ({"pretrained": "random"}, f"{DEMO_CLIP} with random has the weights "),
        ({"model": "local-dir:nowhere"}, "--model local-dir:nowhere: no open_clip_config.json"),
    ],
)
def test_what_is_asked_wrongly_is_said_in_one_line(options: SearchOptions, change: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as raised:
        search.main(replace(options, **change))  # type: ignore[arg-type]
    assert line in str(raised.value)
    assert "\n" not in str(raised.value)


def test_another_clip_than_the_caches_is_refused_by_both_digests(options: SearchOptions, cache: FeatureCache, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"weights [0-9a-f]{{12}}\.\.\., but the cache {cache.path} was made with {cache.weights[:12]}"):
        search.main(replace(options, pretrained="random"))
    shutil.copytree(ROOT / "demo/clip", tmp_path / "clip")
    moved = replace(options, model=f"local-dir:{tmp_path / 'clip'}")
    assert search.main(moved) == search.main(options)
    config = tmp_path / "clip" / "open_clip_config.json"
    config.write_text(config.read_text().replace('"quick_gelu": true', '"quick_gelu": false'))
    with pytest.raises(UserError, match="another configuration"):
        search.main(moved)


def test_a_cache_without_videos_and_lines_that_are_no_text(options: SearchOptions, cache: FeatureCache, tmp_path: Path) -> None:
    empty = rewritten(cache, tmp_path / "cache", {})
    with pytest.raises(UserError, match="holds no videos that a source lists: run extract"):
        search.main(replace(options, cache=empty.path))
    file = tmp_path / "queries.txt"
    for content, line in [
        (b"a cat\n\xff\n", "line 2: byte 0xff is not UTF-8: save it as UTF-8"),
        ("a cat\r\na dög\r\n".encode("cp1252"), "line 2: byte 0xf6 is not UTF-8"),
        ("\ufeffa cat\n\n".encode("utf-16-le") + b"x", "line 3: byte 0x78 is not UTF-16"),
        ("a cat\na dog".encode("utf-16-le"), "line 1: a zero byte is not text: save the file as UTF-8"),
        (b"a cat\n\n" + b"a" * (MAX_QUERY + 1), "line 3: the query has 10,001 characters"),
        (b"\n \n", "holds no text"),
        (b"", "holds no text"),
    ]:
        file.write_bytes(content)
        with pytest.raises(UserError, match=line):
            search.main(replace(options, query=(), queries=str(file)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=st.one_of(st.text(), st.text(st.characters(categories=["Cs", "Cc", "Cf", "So", "P"]), max_size=200)))
def test_every_text_is_answered_or_refused_in_one_line(searcher: Searcher, query: str) -> None:
    try:
        cleaned = clean_query(query)
    except UserError:
        cleaned = ""
    # Refused is only what has nothing to be seen.
    assert bool(cleaned) == any(not character.isspace() and unicodedata.category(character) != "Cc" for character in query)
    if not cleaned:
        return
    answer: Answer = next(searcher.search([cleaned]))
    assert len(answer.hits) == 62
    assert json.dumps(cleaned, ensure_ascii=False).encode()
    assert all(character.isprintable() or ord(character) > 127 for character in cleaned)


def test_a_long_query_is_cut_as_extraction_cuts_a_caption(searcher: Searcher) -> None:
    words = " ".join(["cross"] * 100)
    longer = " ".join(["cross"] * 300)
    first, second = searcher.search([words, longer])
    assert [hit.score for hit in first.hits] == [hit.score for hit in second.hits]
    assert searcher.encoder.encode([words]).words.length_N.tolist() == [searcher.cache.settings["max_words"]]


def test_every_option_of_search_and_serve_is_read() -> None:
    code = "".join(path.read_text() for path in (ROOT / "search").rglob("*.py"))
    for kind in (SearchOptions, ServeOptions):
        assert [field.name for field in fields(kind) if f"options.{field.name}" not in code] == []


def test_times_are_read_as_hours_minutes_and_seconds() -> None:
    assert [timestamp(seconds) for seconds in (0, 59.96, 61.25, 3725.5)] == ["0:00:00.0", "0:01:00.0", "0:01:01.2", "1:02:05.5"]
