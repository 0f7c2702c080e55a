"""Long videos cut into entries, and entries cut out by a table."""

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import ffmpeg
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.cache.layout import FAILURES_FILE
from data.span import Span
from extract import ExtractOptions
from extract.failures import read_failures
from extract.ffmpeg.clock import length_of
from extract.ffmpeg.run import Processes
from extract.plan.segments import segments_of
from tests.choice import long_but
from tests.conftest import DEMO_CLIP
from tests.videos import convert, cut_video, numbered_video

BUDGET = 10**9


@pytest.fixture
def options(tmp_path: Path) -> ExtractOptions:
    """A folder of a video of 23 s and one of 11 s."""
    numbered_video(tmp_path / "videos" / "long.mp4", 115, 5)
    numbered_video(tmp_path / "videos" / "short.mp4", 55, 5)
    return ExtractOptions(
        videos=tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, max_frames="all", device="cpu", quiet=True, json=True
    )


def run(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> tuple[int, FeatureCache]:
    """Videos extracted, and the cache."""
    capsys.readouterr()
    path = extract.main(options)
    return json.loads(capsys.readouterr().out)["videos_extracted"], FeatureCache(path)


@given(length=st.floats(0.01, 1e4), seconds=st.floats(50, 1e4))
@settings(deadline=None)
def test_segments_cover_the_video_and_none_is_short(length: float, seconds: float) -> None:
    parts = segments_of("v", length, seconds)
    assert len({part.video_id for part in parts}) == len(parts)
    if len(parts) == 1:
        assert parts[0].video_id == "v"
        assert parts[0].span.start is None
        assert length < 1.5 * seconds * (1 + 1e-9)
    else:
        assert parts[0].span.start == 0
        assert [part.span.end for part in parts[:-1]] == [part.span.start for part in parts[1:]]
        assert np.allclose(np.diff([part.span.begin for part in parts]), seconds)
        assert length - parts[-1].span.begin >= 0.5 * seconds * (1 - 1e-9)
    assert parts[-1].span.end is None


def test_ids_are_media_fragments() -> None:
    assert [part.video_id for part in segments_of("talk.mp4", 89.0, 30.0)] == ["talk.mp4#t=0,30", "talk.mp4#t=30,60", "talk.mp4#t=60"]
    assert [part.video_id for part in segments_of("talk.mp4", 74.9, 30.0)] == ["talk.mp4#t=0,30", "talk.mp4#t=30"]
    assert [part.video_id for part in segments_of("talk.mp4", 2e6, 1e6 + 0.1)] == ["talk.mp4#t=0,1000000.1", "talk.mp4#t=1000000.1"]
    assert segments_of("talk.mp4", None, 30.0)[0].video_id == "talk.mp4"


@pytest.mark.exact
def test_segments_are_the_parts_that_a_table_would_cut_out(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    done, cache = run(replace(options, segment=8.0), capsys)
    ids = ["long.mp4#t=0,8", "long.mp4#t=8,16", "long.mp4#t=16", "short.mp4"]
    assert (done, sorted(cache.names("videos"))) == (4, sorted(ids))
    listed = cache.listings.videos("videos").set_index("video_id")
    assert listed["file"].to_dict() == {name: name.split("#")[0] for name in ids}
    assert listed["start"].dropna().to_dict() == {ids[0]: 0.0, ids[1]: 8.0, ids[2]: 16.0}
    assert listed["end"].dropna().to_dict() == {ids[0]: 8.0, ids[1]: 16.0}
    found = cache.videos(ids, BUDGET)
    # Times are those of the file, so that together they are the frames of the whole.
    assert [seconds.tolist() for seconds in found.seconds] == [[*range(8)], [*range(8, 16)], [*range(16, 23)], [*range(11)]]
    assert run(replace(options, segment=8.0), capsys)[0] == 0
    whole = run(options, capsys)[1].videos(["long.mp4"], BUDGET)
    np.testing.assert_array_equal(np.concatenate([found.frames.gather([i])[0] for i in range(3)]), whole.frames.gather([0])[0])
    table = options.cache.with_name("table.csv")
    rows = [f"long.mp4,a ring,test,{name},{start},{end}" for name, start, end in zip("abc", (0, 8, 16), ("8", "16", ""), strict=True)]
    table.write_text("\n".join(["video,caption,split,video_id,start,end", *rows]) + "\n")
    by_table = run(replace(options, annotations=table, cache=options.cache.with_name("other")), capsys)[1].videos([*"abc"], BUDGET)
    for i in range(3):
        np.testing.assert_array_equal(by_table.frames.gather([i])[0], found.frames.gather([i])[0])
        assert by_table.seconds[i].tolist() == found.seconds[i].tolist()


def test_a_changed_start_or_end_is_extracted_again(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    table = options.cache.with_name("table.csv")

    def extract_with(start: object, end: object) -> tuple[int, list[list[float]]]:
        table.write_text(f"video,caption,split,video_id,start,end\nlong.mp4,a ring,test,a,{start},{end}\nshort.mp4,a ring,test,b,,\n")
        done, cache = run(replace(options, annotations=table), capsys)
        return done, [seconds.tolist() for seconds in cache.videos(["a", "b"], BUDGET).seconds]

    assert extract_with("", 4) == (2, [[0, 1, 2, 3], [*range(11)]])
    assert extract_with(0, 4) == (0, [[0, 1, 2, 3], [*range(11)]])
    assert extract_with(0, 3) == (1, [[0, 1, 2], [*range(11)]])
    assert extract_with(20, "") == (1, [[20, 21, 22], [*range(11)]])
    # Nor is a failure remembered of a part that is no longer asked for.
    assert extract_with(60, "") == (0, [[20, 21, 22], [*range(11)]])
    assert read_failures(options.cache)["a"].span == Span(60)
    assert extract_with(21, "") == (1, [[21, 22], [*range(11)]])
    assert not (options.cache / FAILURES_FILE).exists()


def test_captions_of_whole_videos_are_not_cut(options: ExtractOptions) -> None:
    table = options.cache.with_name("table.csv")
    table.write_text("video,caption,split\nlong.mp4,a ring,test\n")
    with pytest.raises(UserError, match="--segment is for a folder of videos without captions"):
        extract.main(replace(options, annotations=table, segment=8.0))
    for seconds in (0.5, -1.0, math.inf, math.nan):
        with pytest.raises(UserError, match=f"--segment {seconds}: .*at least 1"):
            extract.main(replace(options, segment=seconds))


def test_files_without_a_length_and_files_that_are_none(
    options: ExtractOptions, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A length comes from the packets where the header has none; what is no video is listed once, and forgotten when it is replaced."""
    live = options.videos / "live.webm"
    convert(ffmpeg.input(str(options.videos / "long.mp4")).output(str(live), vcodec="libvpx", live=1, f="webm"))
    assert length_of(live, 12.0, 60.0, Processes()) == pytest.approx(23, abs=0.5)
    assert length_of(options.videos / "long.mp4", 12.0, 60.0, Processes()) == pytest.approx(23, abs=0.05)
    broken = options.videos / "broken.mp4"
    broken.write_text("no video")
    (options.videos / "empty.mp4").touch()
    outside = numbered_video(tmp_path / "outside.mp4", 115, 5)
    (options.videos / "out.mp4").symlink_to(outside)
    done, cache = run(replace(options, segment=8.0), capsys)
    assert done == 7
    assert {f"live.webm#t={part}" for part in ("0,8", "8,16", "16")} <= set(cache.names("videos"))
    assert set(read_failures(options.cache)) == {"broken.mp4", "empty.mp4", "out.mp4"}
    numbered_video(broken, 115, 5)
    done, cache = run(replace(options, segment=8.0, follow_links=True), capsys)
    assert done == 6
    assert {"broken.mp4#t=16", "out.mp4#t=16"} <= set(cache.names("videos"))
    assert set(read_failures(options.cache)) == {"empty.mp4"}


def test_a_length_is_read_of_no_other_file(options: ExtractOptions, tmp_path: Path) -> None:
    """Whatever the name says, a list of files is no video."""
    other = options.videos / "long.mp4"
    for suffix in ("mp4", "m3u8", "ffconcat"):
        for content in (f"ffconcat version 1.0\nfile {other.name}\n", f"#EXTM3U\n#EXTINF:23,\n{other.name}\n#EXT-X-ENDLIST\n"):
            playlist = options.videos / f"list.{suffix}"
            playlist.write_text(content)
            assert length_of(playlist, 12.0, 60.0, Processes()) is None
    os.mkfifo(tmp_path / "pipe.mp4")
    assert length_of(tmp_path / "pipe.mp4", 12.0, 60.0, Processes()) is None


def test_what_a_cut_file_lacks_is_listed_segment_by_segment(options: ExtractOptions, capsys: pytest.CaptureFixture[str]) -> None:
    cut_video(options.videos / "cut.mp4", frames=200)
    run(replace(options, segment=10.0), capsys)
    cache, failures = FeatureCache(options.cache), read_failures(options.cache)
    assert ("videos", "cut.mp4#t=0,10") in cache
    assert failures
    assert {failure.file for failure in failures.values()} == {str(options.videos / "cut.mp4")}
    listed = pd.read_csv(options.cache / FAILURES_FILE)
    assert listed["start"].tolist() == sorted(failure.span.begin for failure in failures.values())


def as_recorded(folder: Path) -> dict[str, int]:
    """Videos of 23 s in ways that mislead about their length, and one of 4 s with 40 s of sound; how many segments of 8 s each is."""
    plain = str(numbered_video(folder.parent / "plain.mp4", 115, 5))
    folder.mkdir(exist_ok=True)
    copy = {"vcodec": "copy"}
    for suffix, offset in (("mkv", 300), ("webm", 36000), ("flv", 300), ("ts", 300)):
        options = {"vcodec": "libvpx", "cpu-used": 8} if suffix == "webm" else copy
        convert(ffmpeg.input(plain).output(str(folder / f"late.{suffix}"), output_ts_offset=offset, **options))
    tune = ffmpeg.input("sine=d=40", f="lavfi")
    short = ffmpeg.input(plain, t=4)
    for suffix in ("mp4", "mkv"):
        convert(ffmpeg.output(short, tune, str(folder / f"tune.{suffix}"), acodec="aac", **copy))
        convert(ffmpeg.output(ffmpeg.input(plain, itsoffset=15), tune, str(folder / f"after.{suffix}"), acodec="aac", **copy))
    for suffix in ("mkv", "flv"):
        jump = ffmpeg.input(plain).filter("setpts", "PTS+gte(T,12)*20000/TB")
        convert(jump.output(str(folder / f"jump.{suffix}"), fps_mode="passthrough", vcodec="libx264", pix_fmt="yuv420p"))
    halves = [folder.parent / f"{size}.ts" for size in ("32x32", "48x32")]
    for half in halves:
        convert(ffmpeg.input(plain, t=11.6).filter("scale", *half.stem.split("x")).output(str(half), vcodec="libx264", pix_fmt="yuv420p"))
    (folder / "call.ts").write_bytes(b"".join(half.read_bytes() for half in halves))
    return {path.name: 1 if path.stem == "tune" else 3 for path in folder.iterdir()}


@pytest.mark.parametrize("decoder", long_but(["ffmpeg"], ["ffmpeg", "pyav"]))
def test_a_length_is_that_of_the_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str], decoder: Literal["ffmpeg", "pyav"]) -> None:
    """No segment without frames, none missing, and together they are the frames of the whole."""
    if decoder == "pyav":
        pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    expected = as_recorded(tmp_path / "videos")
    options = ExtractOptions(
        videos=tmp_path / "videos",
        cache=tmp_path / "cache",
        model=DEMO_CLIP,
        max_frames="all",
        device="cpu",
        quiet=True,
        json=True,
        segment=8.0,
        decoder=decoder,
        thumbnails=False,
    )
    _, cache = run(options, capsys)
    assert not (options.cache / FAILURES_FILE).exists()
    names = sorted(cache.names("videos"))
    assert {file: sum(name.split("#")[0] == file for name in names) for file in expected} == expected
    for file in expected:
        parts = [name for name in names if name.split("#")[0] == file]
        seconds = sorted(second for times in cache.videos(parts, BUDGET).seconds for second in times.tolist())
        assert seconds[:23] == [*range(min(23, len(seconds)))], file
        assert len(seconds) in ((4, 5) if "tune" in file else (23, 24)), file
