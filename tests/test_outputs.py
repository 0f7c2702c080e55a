"""What a search leaves behind, through the command: a table, a playlist, links on the page, and clips."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

import extract
import search
from data.base.errors import UserError
from data.span import Span
from extract import ExtractOptions
from extract.decode.sample import Sampling, sample_frames
from search import SearchOptions
from search.output.playlist import write_playlist
from search.output.table import COLUMNS, write_table
from tests.caches import QUERY
from tests.conftest import DEMO_CLIP
from tests.moment_rows import row
from tests.videos import numbered_video

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


@pytest.fixture
def options(cache_path: Path) -> SearchOptions:
    return SearchOptions(cache=cache_path, run="zero-shot:glccl", query=(QUERY,), top=3, moments=2, apart=1.0, device="cpu", quiet=True)


def pixels(picture: Image.Image) -> NDArray[np.int16]:
    return np.asarray(picture).astype(np.int16)


def file_of(address: str) -> Path:
    return Path(os.fsdecode(unquote_to_bytes(urlsplit(address).path)))


def test_a_search_leaves_a_table_a_playlist_links_and_clips(
    options: SearchOptions, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, playlist, page, clips = (tmp_path / "new" / name for name in ("a.csv", "a.m3u", "a.html", "clips"))
    answers = search.main(replace(options, csv=table, m3u=playlist, html=page, clips=clips, around=1.5))
    [answer] = answers
    moments = [(hit, seconds) for hit in answer.hits for seconds in hit.times]
    assert len(moments) > len(answer.hits) == 3
    files = [demo_set / "videos" / hit.file for hit, _ in moments]

    found = pd.read_csv(table)
    assert tuple(found.columns) == COLUMNS
    assert found["query"].tolist() == [QUERY] * len(moments)
    for column in ("rank", "video_id", "file", "score"):
        assert found[column].tolist() == [getattr(hit, column) for hit, _ in moments]
    assert found["seconds"].tolist() == [seconds for _, seconds in moments]
    assert found["path"].tolist() == [str(path.resolve()) for path in files]
    for link, path, (_, seconds) in zip(found["link"], files, moments, strict=True):
        assert file_of(link) == path.resolve()
        assert urlsplit(link).fragment == f"t={seconds:g}"

    head, *lines = playlist.read_text().splitlines()
    assert head == "#EXTM3U"
    assert lines[3::4] == [str(path.resolve()) for path in files]
    assert lines[1::4] == [f"#EXTVLCOPT:start-time={max(0, seconds - 1.5):.3f}" for _, seconds in moments]
    assert lines[2::4] == [f"#EXTVLCOPT:stop-time={seconds + 1.5:.3f}" for _, seconds in moments]

    players = BeautifulSoup(page.read_text(), "html.parser").select("video")
    assert [(page.parent / file_of(str(player["src"]))).resolve() for player in players] == [
        (demo_set / "videos" / hit.file).resolve() for hit in answer.hits
    ]

    cut = sorted(clips.iterdir())
    assert len(cut) == len(moments)
    assert {int(path.name[:2]) for path in cut} == {1, 2, 3}
    said = capsys.readouterr().err
    assert f"{len(cut)} clips in {clips}: " in said
    assert f"a table of {len(cut)} moments: {table}\n" in said
    seconds = answer.hits[0].moment.seconds
    [first] = [path for path in cut if path.name.startswith("01-") and path.stem.endswith(f"-0m{seconds:04.1f}s")]

    [shown] = sample_frames(files[0], Sampling(4.0), pixels, Span(seconds, seconds + 0.25)).pictures
    assert min(np.abs(picture - shown).mean() for picture in sample_frames(first, Sampling(4.0), pixels).pictures) < 2


def test_what_has_changed_is_left_out_and_counted(
    options: SearchOptions, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "a.csv"
    asked = replace(options, moments=1, apart=5.0, videos=tmp_path / "videos", csv=table, m3u=tmp_path / "a.m3u", clips=tmp_path / "clips")
    shutil.copytree(demo_set / "videos", tmp_path / "videos")
    [answer] = search.main(replace(asked, clips=None))
    changed, gone, _ = (tmp_path / "videos" / hit.file for hit in answer.hits)
    changed.write_bytes(changed.read_bytes() + b"more")
    gone.unlink()
    capsys.readouterr()
    search.main(asked)
    said = capsys.readouterr().err
    assert "a playlist of 1 moment:" in said
    assert "gone or have changed: 2\n" in said
    assert f"; 2 left out (its file is unknown, gone or has changed, as of {answer.hits[0].video_id})" in said
    assert pd.read_csv(table)["path"].isna().tolist() == [True, True, False]
    assert [path.name[:2] for path in (tmp_path / "clips").iterdir()] == ["03"]


@pytest.mark.long
def test_files_of_all_sources_and_segments_of_a_file_are_found(tmp_path: Path) -> None:
    numbered_video(tmp_path / "one" / "long.mp4", 60, 5)
    numbered_video(tmp_path / "two" / "sub" / "other.mp4", 20, 5)
    made = ExtractOptions(videos=tmp_path / "one", cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True)
    extract.main(replace(made, segment=4.0))
    extract.main(replace(made, videos=tmp_path / "two"))
    table = tmp_path / "found.csv"
    asked = SearchOptions(cache=made.cache, run="zero-shot:mean", like="long.mp4@9", csv=table, device="cpu", quiet=True)
    search.main(asked)
    found = pd.read_csv(table)
    assert sorted(found["video_id"]) == ["long.mp4#t=0,4", "long.mp4#t=4,8", "sub/other.mp4"]
    assert sorted(found["path"]) == [str(tmp_path / name) for name in ("one/long.mp4", "one/long.mp4", "two/sub/other.mp4")]
    with pytest.raises(UserError, match=r"has no video 'long.mp4': did you mean 'long.mp4#t="):
        search.main(replace(asked, like="long.mp4"))
    with pytest.raises(UserError, match=r"the gallery has no video besides 'sub/other.mp4': leave --like out"):
        search.main(replace(asked, like="sub/other.mp4", name="two"))


def test_what_cannot_be_written_or_does_not_go_together_is_one_line(options: SearchOptions, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused: list[tuple[dict[str, Any], str]] = [
        ({"clips": tmp_path / "file"}, "--clips .*file is a file: name a folder"),
        ({"csv": tmp_path}, "--csv .* is a folder: name a file"),
        ({"m3u": tmp_path}, "--m3u .* is a folder: name a file"),
        ({"m3u": tmp_path / "a", "csv": tmp_path / "x" / ".." / "a"}, "--csv and --m3u are one file, .*: name another for one of them"),
        ({"around": 2.0}, "--around 2 is for --clips and --m3u: add one of them"),
        *(({"around": around, "m3u": tmp_path / "a"}, "--around .* must be more than 0") for around in (0.0, -1.0, 301.0, float("nan"))),
        ({"videos": tmp_path}, "--videos .* is for --html, --csv, --m3u and --clips"),
        ({"videos": tmp_path / "no", "csv": tmp_path / "a"}, "--videos .*no is not a folder"),
        ({"query": (), "video": "video0.mp4", "csv": tmp_path / "a"}, "--video ranks captions: leave out"),
    ]
    for change, line in refused:
        with pytest.raises(UserError, match=line):
            # Before anything is read.
            search.main(replace(options, cache=tmp_path / "gone", **change))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@example("=HYPERLINK(1)", "'quoted")
@example('a "ring"\r\nand, more', "-8y1Q0rA3n8_117_122")
@given(NAMES, NAMES)
@settings(max_examples=40, deadline=None)
def test_a_table_gives_texts_back_and_none_is_a_formula(tmp_path_factory: pytest.TempPathFactory, query: str, video_id: str) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    changed = write_table(path, [row(Path("/videos/a #1;b.mp4"), query=query, video_id=video_id)])
    assert path.read_bytes().startswith("\ufeffquery".encode())
    with path.open(newline="", encoding="utf-8-sig") as file:
        [found] = csv.DictReader(file)
    assert not any(found[column].startswith(("=", "+", "-", "@", "\t", "\r")) for column in ("query", "video_id", "file", "path", "link"))
    assert [found["query"].removeprefix("'"), found["video_id"].removeprefix("'")] == [query, video_id]
    assert changed == sum(found[column].startswith("'") for column in ("query", "video_id"))
    assert found["link"] == "file:///videos/a%20%231%3Bb.mp4#t=4"


@example("a\n#EXTINF:1,b", b"/videos/a\n#EXTM3U")
@example("a", b"/videos/\xff#.mp4")
@example("a", b"/videos/a b%20.mp4 ")
@settings(max_examples=40, deadline=None)
@given(NAMES, st.binary(min_size=1, max_size=20).filter(lambda name: not {0, ord("/")} & {*name}).map(lambda name: b"/videos/" + name))
def test_no_name_breaks_a_playlist(tmp_path_factory: pytest.TempPathFactory, video_id: str, name: bytes) -> None:
    path, file = tmp_path_factory.getbasetemp() / "list.m3u", Path(os.fsdecode(name))
    assert write_playlist(path, [row(file, video_id=video_id), row(None), row(Path("/videos/b.mp4"))], 3.0) == 1
    lines = path.read_bytes().decode().split("\n")
    assert lines[0] == "#EXTM3U"
    assert [line.partition(":")[0] for line in lines[1:4]] == ["#EXTINF", "#EXTVLCOPT", "#EXTVLCOPT"]
    assert lines[5:] == [
        "#EXTINF:6,1 v 0:00:04.0: a ring",
        "#EXTVLCOPT:start-time=1.000",
        "#EXTVLCOPT:stop-time=7.000",
        "/videos/b.mp4",
        "",
    ]
    # VLC reads what begins with a scheme as an address, and anything else as a path.
    entry = lines[4]
    assert entry == entry.strip()
    assert "\r" not in entry
    assert os.fsencode(file if not entry.startswith("file://") else file_of(entry)) == (
        os.fsencode(entry) if entry[0] == "/" else os.path.normpath(name)
    )
