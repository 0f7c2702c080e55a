"""Pictures, more like this, words that count against, wordings, filters, pages, moments and near-duplicates, against plain references."""

import io
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import search
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.features import Ragged, VideoFeatures
from search import SearchOptions
from search.answer import Answer
from search.query.filters import Attributes, Condition, Filter, kept, parse_condition
from search.query.parse import parse_like, parse_query
from search.query.pictures import MAX_BYTES, decode_picture, read_picture
from search.query.query import Like, Query, Shown
from search.query.table import read_table
from search.retrieval.moments import Moment, further_moments
from search.retrieval.ranking import Scored, page_of
from search.retrieval.shortlist import IndexedGallery
from search.searcher import Searcher
from tests.caches import rewritten

RINGS, CUBES = "a red ring", "a large blue cube"
ALL = Shown(top=1000)


@pytest.fixture(scope="module")
def options(cache_path: Path) -> SearchOptions:
    return SearchOptions(cache=cache_path, run="zero-shot:glccl", device="cpu", quiet=True)


@pytest.fixture(scope="module")
def searcher(options: SearchOptions) -> Searcher:
    return Searcher(options)


def ask(searcher: Searcher, query: Query) -> Answer:
    return next(searcher.search([query]))


def scores(answer: Answer) -> dict[str, float]:
    return {hit.video_id: hit.score for hit in answer.hits}


def frames(cache: FeatureCache, video_id: str) -> NDArray[np.float64]:
    """The unit frames of a video [F, D]."""
    frame_FD = cache.frames(video_id).astype(np.float64)
    unit_FD: NDArray[np.float64] = frame_FD / np.linalg.norm(frame_FD, axis=1, keepdims=True)
    return unit_FD


def z(values: Sequence[float]) -> NDArray[np.float64]:
    """Standard scores."""
    standard: NDArray[np.float64] = (np.asarray(values) - np.mean(values)) / np.std(values)
    return standard


def frame_file(video: Path, seconds: float, out: Path) -> Path:
    """A frame of a video, as ffmpeg itself writes it."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-ss", str(seconds), "-i", str(video), "-frames:v", "1", str(out)]
    subprocess.run(command, check=True)
    return out


def test_a_frame_finds_its_moment_and_scores_are_cosines_with_the_nearest_frame(
    searcher: Searcher, cache: FeatureCache, demo_set: Path, tmp_path: Path
) -> None:
    seconds = float(cache.seconds("video7")[2])
    picture = read_picture(frame_file(demo_set / "videos" / "video7.mp4", seconds, tmp_path / "frame.png"), "--image")
    answer = ask(searcher, Query(picture=picture, shown=ALL))
    assert answer.measure == "picture"
    assert (answer.hits[0].video_id, answer.hits[0].moment.seconds) == ("video7", seconds)
    assert answer.hits[0].score == pytest.approx(1, abs=1e-3)
    vector_D = searcher.encoder.encode_picture(picture).astype(np.float64)
    for hit in answer.hits:
        cosine_F = frames(cache, hit.video_id) @ vector_D / np.linalg.norm(vector_D)
        assert hit.score == pytest.approx(cosine_F.max(), abs=1e-5)
        np.testing.assert_allclose(hit.moment.weight_F, cosine_F, atol=1e-5)


@pytest.mark.parametrize("seconds", [None, 2.2])
def test_more_like_this_leaves_the_video_out_and_needs_no_clip(options: SearchOptions, cache: FeatureCache, seconds: float | None) -> None:
    searcher = Searcher(options, queries=False)
    answer = ask(searcher, Query(like=Like("video7", seconds), shown=ALL))
    assert searcher._encoder is None
    own_FD = frames(cache, "video7")
    vector_D = own_FD.mean(axis=0) if seconds is None else own_FD[np.abs(cache.seconds("video7") - seconds).argmin()]
    expected = {name: (frames(cache, name) @ vector_D).max() / np.linalg.norm(vector_D) for name in cache.names("videos")}
    del expected["video7"]
    assert scores(answer) == pytest.approx(expected, abs=1e-5)
    assert [hit.score for hit in answer.hits] == sorted(scores(answer).values(), reverse=True)


@pytest.mark.parametrize(
    ("like", "line"),
    [
        (Like("video77"), "has no video 'video77': did you mean"),
        (Like("video7", 99.0), r"like video7@99: the video goes from .* to .*: name"),
    ],
)
def test_a_video_or_time_that_is_not_there(searcher: Searcher, like: Like, line: str) -> None:
    with pytest.raises(UserError, match=line):
        ask(searcher, Query(like=like))


def test_parts_are_added_as_standard_scores_by_their_weights(searcher: Searcher) -> None:
    words, like, unwanted = (ask(searcher, replace(query, shown=ALL)) for query in (Query(RINGS), Query(like=Like("video7")), Query(CUBES)))
    ids = sorted(scores(like))
    of_words, of_like, of_unwanted = ([scores(answer)[name] for name in ids] for answer in (words, like, unwanted))
    mixed = ask(searcher, Query(RINGS, like=Like("video7"), without=CUBES, weight=0.3, shown=ALL))
    expected = 0.7 * z(of_words) + 0.3 * z(of_like) - 0.5 * z(of_unwanted)
    assert scores(mixed) == pytest.approx(dict(zip(ids, expected, strict=True)), abs=1e-3)
    assert mixed.measure == "mixed"
    assert mixed.query == f"{RINGS}, like video7, not {CUBES}"
    for hit in mixed.hits:
        assert hit.moment.weight_F[hit.moment.frame] == max(hit.moment.weight_F)
        assert {0.0, 1.0} <= set(hit.moment.weight_F) or set(hit.moment.weight_F) == {1.0}


def test_wordings_are_averaged_and_a_prefix_comes_before_the_words(options: SearchOptions, searcher: Searcher) -> None:
    wordings = ["a video of a red ring", "a red ring on the left"]
    alone = [scores(answer) for answer in searcher.search([Query(text, shown=ALL) for text in wordings])]
    several = Searcher(replace(options, query_template=("a video of {}", "{} on the left")))
    expected = {name: (alone[0][name] + alone[1][name]) / 2 for name in alone[0]}
    assert scores(ask(several, Query(RINGS, shown=ALL))) == pytest.approx(expected, abs=1e-4)
    before = Searcher(replace(options, query_prefix="a video of"))
    assert scores(ask(before, Query(RINGS, shown=ALL))) == alone[0]
    for wrong in ({"query_template": ("a video",)}, {"query_template": ("{}",), "query_prefix": "a"}):
        with pytest.raises(UserError, match=r"--query-(template|prefix)"):
            Searcher(replace(options, **wrong))


def test_queries_of_all_kinds_score_together_as_alone(searcher: Searcher) -> None:
    queries = [
        Query(RINGS),
        Query(like=Like("video7")),
        Query(RINGS, filter=Filter(path=("video1*",))),
        Query(CUBES, without=RINGS),
        Query(CUBES, filter=Filter(path=("video1*",))),
        Query(RINGS, like=Like("video3", 1.0)),
    ]
    together = list(searcher.search(queries))
    for query, answer in zip(queries, together, strict=True):
        alone = ask(searcher, query)
        assert [hit.video_id for hit in answer.hits] == [hit.video_id for hit in alone.hits]
        assert scores(answer) == pytest.approx(scores(alone), abs=1e-4)


@pytest.mark.parametrize("pattern", ["video1*", "video2?.mp4", "deo3"])
def test_a_filter_ranks_what_it_lets_through_as_without_it(options: SearchOptions, searcher: Searcher, pattern: str) -> None:
    whole = ask(searcher, Query(RINGS, shown=ALL))
    shell = pattern if any(mark in pattern for mark in "*?") else f"*{pattern}*"
    passed = [hit for hit in whole.hits if fnmatchcase(hit.file, shell) or fnmatchcase(hit.video_id, shell)]
    assert 0 < len(passed) < len(whole.hits)
    answer = ask(searcher, Query(RINGS, filter=Filter(path=(pattern,)), shown=ALL))
    assert [hit.video_id for hit in answer.hits] == [hit.video_id for hit in passed]
    assert answer.found == len(passed)
    assert scores(answer) == pytest.approx({hit.video_id: hit.score for hit in passed}, abs=1e-4)
    indexed = Searcher(replace(options, candidates=10))
    assert isinstance(indexed.shortlist, IndexedGallery)
    few = ask(indexed, Query(like=Like("video60"), filter=Filter(path=(pattern,))))
    expected = ask(searcher, Query(like=Like("video60"), filter=Filter(path=(pattern,))))
    assert [hit.video_id for hit in few.hits] == [hit.video_id for hit in expected.hits]


def test_a_filter_that_lets_nothing_through_says_so(searcher: Searcher) -> None:
    with pytest.raises(UserError, match=r"of 62 videos, the filter lets none through: loosen it"):
        ask(searcher, Query(RINGS, filter=Filter(min_length=1e6)))


DAYS = st.dates(date(2023, 12, 30), date(2024, 1, 3))


@given(
    st.lists(st.tuples(st.sampled_from(["a/1.mp4", "b/1.mp4", "b/2.mov"]), st.integers(0, 3), DAYS | st.none()), min_size=1),
    st.lists(st.sampled_from(["a/*", "*.mp4", "b"]), max_size=2),
    st.tuples(*[st.integers(0, 3) | st.none()] * 2),
    st.tuples(*[DAYS | st.none()] * 2),
)
def test_filters_keep_what_passes_all_of_them(
    videos: list[tuple[str, int, date | None]],
    paths: list[str],
    lengths: tuple[int | None, int | None],
    days: tuple[date | None, date | None],
) -> None:
    noons = [0 if day is None else int(datetime(day.year, day.month, day.day, 12).timestamp() * 1e9) for _, _, day in videos]
    names = [name for name, _, _ in videos]
    of = Attributes(names, names, np.array([float(length) for _, length, _ in videos]), np.array(noons, dtype=np.int64))
    expected = []
    for name, length, day in videos:
        fits = not paths or any(fnmatchcase(name, path) if "*" in path else path in name for path in paths)
        fits &= lengths[0] is None or length >= lengths[0]
        fits &= lengths[1] is None or length <= lengths[1]
        fits &= days == (None, None) or (day is not None and (days[0] or day) <= day <= (days[1] or day))
        expected.append(fits)
    assert kept(Filter(tuple(paths), *lengths, *days), of).tolist() == expected


def test_conditions_compare_numbers_as_numbers_and_text_without_case() -> None:
    cells = {"Year": ["2019", "2021", "", "12"], "place": ["Rome", "Paris", "rome", ""], "shot on": ["2024-05-01", "2024-04-30", "", "x"]}
    of = Attributes(list("abcd"), [""] * 4, np.zeros(4), np.zeros(4, dtype=np.int64), cells)
    for text, expected in {
        "year>=2019": "ab",
        "year<100": "d",
        "place = ROME": "ac",
        "place!=rome": "b",
        "place~ar": "b",
        "shot on<=2024-04-30": "b",
        "shot on>=2024-05": "a",
        "shot on!=2024-05-01": "bd",
    }.items():
        condition = parse_condition(text, "--where")
        assert [name for name, passed in zip("abcd", kept(Filter(where=(condition,)), of), strict=True) if passed] == list(expected), text
    with pytest.raises(UserError, match=r"no column 'colour': it has 'Year', 'place', 'shot on'"):
        kept(Filter(where=(Condition("colour", "=", "red"),)), of)
    with pytest.raises(UserError, match="needs a table: name one with --table"):
        kept(Filter(where=(Condition("year", "=", "1"),)), replace(of, table=None))


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("year>=2020", ["2020", "2,021", "2021-01-31T08:00:00"]),
        ("year<2020", ["19.5", "-3e2"]),
        ("year=2020", ["2020"]),
        ("year==2020", ["2020"]),
        ("year!=2020", ["19.5", "-3e2", "2,021", "2021-01-31T08:00:00", "nan", "inf", "unknown", "e", "."]),
        ("year<=9", ["-3e2"]),
        ("year=nan", ["nan"]),
        ("year>=m", ["nan", "unknown"]),
        ("year=2021-01-31", ["2021-01-31T08:00:00"]),
        ("year<=2021-01-31", ["2020", "2021-01-31T08:00:00"]),
        ("year>2021-01", []),
        ("year>=2021-01-31 07:59", ["2021-01-31T08:00:00"]),
        ("year~2", ["-3e2", "2020", "2,021", "2021-01-31T08:00:00"]),
    ],
)
def test_numbers_and_dates_compare_with_their_like_alone(text: str, cells: list[str]) -> None:
    column = ["", "19.5", "-3e2", "2020", "2,021", "2021-01-31T08:00:00", "nan", "inf", "unknown", "e", "."]
    of = Attributes(column, column, np.zeros(len(column)), np.zeros(len(column), dtype=np.int64), {"year": column})
    passed_B = kept(Filter(where=(parse_condition(text, "--where"),)), of)
    assert [cell for cell, passed in zip(column, passed_B, strict=True) if passed] == cells
    with pytest.raises(
        UserError, match=r"'day>2020-01-01' compares numbers or dates, and its column has none \('31.12.2020'\): write them"
    ):
        kept(Filter(where=(Condition("day", ">", "2020-01-01"),)), replace(of, table={"day": ["31.12.2020", *[""] * (len(column) - 1)]}))


def test_a_table_names_videos_by_id_file_or_stem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "table.csv"
    table.write_text("file;place\nv1.mp4;Rome\nclips/v2.mp4;Paris\nv3;Oslo\nother.mp4;Bonn\nv1;Lost\n")
    files = {"id1": "v1.mp4", "id2": "clips/v2.mp4", "id3": "v3.webm", "id4": ""}
    assert read_table(table, list(files), files, quiet=False).columns["place"] == ["Rome", "Paris", "Oslo", ""]
    assert "1 of 5 rows name no video of the gallery" in capsys.readouterr().err
    table.write_text("name,place\nv9,Rome\n")
    with pytest.raises(UserError, match=r"none of its columns 'name', 'place' names the videos: call one of them video"):
        read_table(table, list(files), files, quiet=True)
    table.write_text("video,place\nv9,Rome\n")
    with pytest.raises(UserError, match=r"names no video of the gallery \('v9'\): write ids or file names"):
        read_table(table, list(files), files, quiet=True)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9), st.integers(1, 9), st.integers(0, 9), st.integers(-3, 3) | st.none())
def test_pages_and_a_threshold_are_parts_of_the_whole_ranking(values: list[int], top: int, skip: int, threshold: int | None) -> None:
    score_B = np.array(values, dtype=np.float32)
    nothing = VideoFeatures([], Ragged.in_memory(np.zeros((0, 1)), np.zeros(1, dtype=np.int64)), [])
    placed, found = page_of(Scored(np.arange(len(values)), score_B), Shown(top, skip, threshold), nothing)
    passed = [i for i in sorted(range(len(values)), key=lambda i: (-values[i], i)) if threshold is None or values[i] >= threshold]
    assert found == len(passed)
    assert [(one.rank, one.place) for one in placed] == [(skip + i + 1, place) for i, place in enumerate(passed[skip : skip + top])]


@given(st.lists(st.floats(0, 1, width=16), min_size=1, max_size=12), st.integers(1, 5), st.integers(0, 4))
def test_further_moments_are_the_best_that_are_apart(weights: list[float], count: int, apart: int) -> None:
    seconds = [float(second) for second in range(len(weights))]
    chosen: list[int] = []
    for frame in sorted(seconds, key=lambda second: (-weights[int(second)], second)):
        if len(chosen) < count and all(abs(frame - other) >= apart for other in chosen):
            chosen.append(int(frame))
    moment = Moment(int(np.argmax(weights)), 0.0, seconds, weights)
    found = (moment.frame, *further_moments(moment, count - 1, float(apart)))
    assert list(found) == (list(dict.fromkeys(chosen)) if apart else chosen)


def test_near_duplicates_are_folded_into_the_best_of_them(cache: FeatureCache, options: SearchOptions, tmp_path: Path) -> None:
    made = rewritten(cache, tmp_path / "cache", {"video1": "a", "video2": "b", "video3": "c"})
    copies = rewritten(cache, tmp_path / "copies", {"video1": "copy of a", "video2": "copy of b"})
    for file in Path(copies.path).glob("videos-*.h5"):
        file.rename(Path(made.path) / file.name)
    searcher = Searcher(replace(options, cache=made.path, all=True, model="local-dir:demo/clip"), queries=False)
    plain = ask(searcher, Query(like=Like("c")))
    folded = ask(searcher, Query(like=Like("c"), shown=Shown(fold=0.9999)))
    assert [hit.video_id for hit in plain.hits] in (["a", "copy of a", "b", "copy of b"], ["b", "copy of b", "a", "copy of a"])
    assert [(hit.rank, hit.video_id, hit.folded) for hit in folded.hits] == [
        (rank, name, (f"copy of {name}",)) for rank, name in enumerate([hit.video_id for hit in plain.hits][::2], start=1)
    ]


@pytest.mark.parametrize(("top", "skip", "fold"), [(3, 0, 0.9), (400, 0, 0.95), (5, 20, 0.9), (400, 0, 1.0)])
def test_folding_compares_each_video_with_the_better_results(top: int, skip: int, fold: float) -> None:
    videos, rng = 400, np.random.default_rng(0)
    frame_BD = rng.standard_normal((videos, 4)).astype(np.float32)
    frame_BD[videos // 2 :] = 3 * frame_BD[: videos // 2]
    unit_BD = frame_BD.astype(np.float64) / np.linalg.norm(frame_BD, axis=1, keepdims=True)
    score_B = rng.permutation(videos).astype(np.float32)
    plain: list[tuple[int, list[int]]] = []
    for place in np.argsort(-score_B).tolist():
        likeness = [(float(unit_BD[place] @ unit_BD[better]), folded) for better, folded in plain]
        if likeness and max(near for near, _ in likeness) >= fold - 1e-5:
            max(likeness, key=lambda one: one[0])[1].append(place)
        elif len(plain) == top + skip:
            break
        else:
            plain.append((place, []))
    features = VideoFeatures([], Ragged.in_memory(frame_BD, np.arange(videos + 1)), [])
    placed, found = page_of(Scored(np.arange(videos), score_B), Shown(top, skip, fold=fold), features)
    assert found == videos
    assert [(one.rank, one.place, list(one.folded)) for one in placed] == [
        (rank, place, folded) for rank, (place, folded) in enumerate(plain[skip:], start=skip + 1)
    ]


def picture_bytes(size: tuple[int, int], kind: str = "PNG", mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new(mode, size).save(content, kind)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"", "is no picture"),
        (b"no picture", "is no picture"),
        (picture_bytes((4, 4))[:40], "is no picture"),
        (picture_bytes((20_000, 20_000), mode="1"), "more than 80,000,000 pixels: make it smaller"),
        (bytes(MAX_BYTES + 1), "more than 20 MiB: make it smaller"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is no picture"),
    ],
    ids=["empty", "text", "cut", "bomb", "large", "postscript"],
)
def test_what_is_no_picture_or_too_large_is_one_line(content: bytes, line: str) -> None:
    with pytest.raises(UserError, match=line) as raised:
        decode_picture(content, "a.png", "image")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "the query is empty: describe"),
        ({"not": ["a"]}, "not needs something to look for"),
        ({"q": ["a"], "weight": ["0.5"]}, "weight weighs a picture against words: give both"),
        ({"q": ["a"], "like": ["b"], "weight": ["1.5"]}, "weight '1.5' must be a number from 0 to 1"),
        ({"q": ["a"], "skip": ["1.5"]}, "skip '1.5' must be a whole number from 0 to"),
        ({"q": ["a"], "top": ["0"]}, "top '0' must be a whole number from 1 to 1,000"),
        ({"q": ["a"], "min_length": ["nan"]}, "min_length 'nan' must be a number of at least 0"),
        ({"q": ["a"], "since": ["yesterday"]}, "since 'yesterday' must be a date such as 2024-05-31"),
        ({"q": ["a"], "where": ["year"]}, "where 'year' must be COLUMN=VALUE"),
        ({"q": ["a"], "moments": ["x"]}, "moments 'x' must be a whole number from 1"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, list[str]], line: str) -> None:
    with pytest.raises(UserError, match=line):
        parse_query(fields, str)


@pytest.mark.parametrize(
    ("text", "like"),
    [
        ("a", Like("a")),
        ("a@3", Like("a", 3.0)),
        ("a@1:02.5", Like("a", 62.5)),
        ("a@b", Like("a@b")),
        ("me@home.mp4", Like("me@home.mp4")),
        ("a@1:0:0", Like("a", 3600.0)),
        ("a@-1", Like("a@-1")),
        ("a@nan", Like("a@nan")),
    ],
)
def test_what_follows_the_last_at_sign_is_a_time_if_it_looks_like_one(text: str, like: Like) -> None:
    assert parse_like(text, "--like") == like


@pytest.mark.parametrize("shown", [Shown(threshold=1e9), Shown(skip=1000), Shown(skip=1000, fold=0.9)])
def test_a_page_may_have_no_results(searcher: Searcher, shown: Shown) -> None:
    answer = ask(searcher, Query(RINGS, shown=shown))
    assert (answer.hits, answer.measure) == ([], "sentence")


def test_from_the_command_line(options: SearchOptions, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = frame_file(demo_set / "videos" / "video7.mp4", 1, tmp_path / "frame.png")
    asked = replace(options, query=(RINGS,), image=image, not_=CUBES, weight=0.9, path=("video*",), moments=3, apart=1.0, top=3, skip=1)
    answer = search.main(asked)[0]
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{RINGS}, the picture frame.png, not {CUBES}"
    assert [hit.rank for hit in answer.hits] == [2, 3, 4]
    assert all(len(hit.times) == 3 for hit in answer.hits if len(hit.moment.seconds_F) >= 3)
    assert sum("also at" in line for line in said) == sum(len(hit.times) > 1 for hit in answer.hits)
    with pytest.raises(UserError, match=r"--image .*gone.png cannot be read"):
        search.main(replace(asked, image=tmp_path / "gone.png"))
    with pytest.raises(UserError, match="--video ranks captions: leave out"):
        search.main(replace(asked, query=(), video="video1"))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"video": "video1", "query": (), "not_": "a", "skip": 2}, "--video ranks captions: leave out --not, --skip$"),
        ({"video": "video1", "query": (), "path": ("a",), "where": ("a=1",)}, "leave out --path, --where$"),
        ({"apart": 1.0}, "--apart 1 is for --moments: ask for two or more"),
        ({"query": (), "like": "video1", "query_prefix": "a"}, "are for words: add some, or leave them out"),
        ({"query_prefix": "a {} of"}, "--query-prefix 'a {} of' has a place for the query: give it as --query-template"),
        ({"table": Path("a.csv")}, "--table a.csv is for --where: add a condition"),
        ({"table": Path("gone.csv"), "where": ("a=1",)}, "--table gone.csv is missing: name the file"),
        ({"table": Path("docs"), "where": ("a=1",)}, "--table docs is a folder: name the file"),
        ({"table": Path("a.csv"), "where": ("a=1",), "csv": Path("tests/../a.csv")}, "would replace the file of --table: name another"),
        ({"queries": "README.md", "html": Path("README.md")}, "would replace the file of --queries: name another"),
    ],
)
def test_an_option_that_would_change_nothing_or_overwrite_its_input_is_refused(
    options: SearchOptions, changes: dict[str, Any], line: str
) -> None:
    with pytest.raises(UserError, match=line):
        search.main(replace(options, **{"query": (RINGS,), **changes}))


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"threshold": 2.0}, ["like video1", "  no results: no score reaches --threshold 2", "  found: 0 of 62 videos"]),
        ({"skip": 61}, ["like video1", "  no results: --skip 61 leaves out all results"]),
        (
            {"path": ("video2?",), "skip": 10},
            [*["like video1", "  no results: --skip 10 leaves out all results"], "  found: 10 of 62 videos"],
        ),
    ],
)
def test_an_empty_page_says_why(
    options: SearchOptions, changes: dict[str, Any], lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    search.main(replace(options, query=(), like="video1", **changes))
    assert capsys.readouterr().out.splitlines()[:-1] == lines


def test_a_file_names_its_video_and_one_frame_of_many_does_not_shorten_it(options: SearchOptions, searcher: Searcher) -> None:
    by_file = ask(searcher, Query(like=Like("video1.mp4")))
    assert scores(by_file) == scores(ask(searcher, Query(like=Like("video1"))))
    with Searcher(replace(options, max_frames=1), queries=False) as single:
        assert single.attributes.length_B.tolist() == searcher.attributes.length_B.tolist()


@pytest.mark.parametrize(("changes", "asked"), [({}, {"without": "ring " * 80}), ({"query_template": ("{}", "ring " * 80 + "{}")}, {})])
def test_every_text_that_is_cut_is_noted(
    options: SearchOptions, searcher: Searcher, changes: dict[str, Any], asked: dict[str, str]
) -> None:
    with Searcher(replace(options, **changes), encoder=searcher.encoder) as worded:
        for query in (Query(RINGS, **asked), Query(like=Like("video1"), **asked)):  # type: ignore[arg-type]
            notes = ask(worded, query).notes
            assert (notes.cut is not None) == (bool(asked) or query.text != "")
            assert not notes.no_known_word
