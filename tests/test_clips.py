"""Clips: what they show, against the frames of the file; which are copied; names of files; and what no clip can be cut of."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.base.errors import UserError
from extract.decode.sample import Sampling, sample_frames
from extract.ffmpeg.packets import read_packets
from search.output import cut
from search.output.clips import GONE, IN_THE_WAY, clip_names, write_clips
from search.output.cut import CannotCut, Clip, Cutter
from tests.choice import long_but
from tests.conftest import ROOT
from tests.decoding import hanging_decoder
from tests.moment_rows import row
from tests.videos import SIDE, convert, cut_video, frame_number, numbered_video
from tests.waiting import wait_until

FPS, FRAMES = 10, 60
PLAIN = {"c:v": "libx264", "g": 10, "sc_threshold": 0, "pix_fmt": "yuv420p"}
NOT_UTF_8 = os.fsdecode(b"- %d #\xff\n.mp4")
BEEP_S = 3.0
"""When the sound of a video begins."""


def source(path: Path, **options: Any) -> Path:
    """Frame i of ten a second is grey with the level of i; a key frame every second."""
    plain = numbered_video(path.with_name("plain.mp4"), FRAMES, FPS)
    convert(ffmpeg.input(str(plain)).output(f"file:{path}", **PLAIN | options))
    plain.unlink()
    return path


def with_sound(path: Path, **options: Any) -> Path:
    """Silent up to BEEP_S, then a tone."""
    silent = source(path.with_name("silent.mp4"))
    tone = ffmpeg.input(f"aevalsrc=gte(t\\,{BEEP_S})*sin(2000*PI*t):s=44100:d={FRAMES / FPS}", f="lavfi")
    convert(ffmpeg.output(ffmpeg.input(str(silent)), tone, str(path), **PLAIN | options))
    silent.unlink()
    return path


def numbers(path: Path) -> list[int]:
    """The frame on the screen at each tenth of a second."""
    return sample_frames(path, Sampling(float(FPS), allow_partial=True), frame_number).pictures


def beep(clip: Path) -> float:
    """When the sound of a clip begins."""
    sound = np.frombuffer(
        convert(ffmpeg.input(str(clip)).output("pipe:", format="f32le", ac=1, ar=8000, af="aresample=async=1:first_pts=0")), np.float32
    )
    return int((np.abs(sound) > 0.1).argmax()) / 8000


COPIED: dict[str, dict[str, Any]] = {
    "a.mp4": {},
    "a.mov": {},
    "a.mkv": {},
    "a.webm": {"c:v": "libvpx-vp9", "deadline": "realtime", "cpu-used": 8},
}
ENCODED: dict[str, tuple[dict[str, Any], str]] = {
    "one key frame.mp4": ({"g": 600}, cut.NO_KEY),
    "open groups.mp4": ({"g": 11, "x264-params": "open-gop=1:bframes=2:b-adapt=0"}, cut.NO_KEY),
    "a.gif": ({"c:v": "gif", "pix_fmt": "pal8"}, cut.OTHER_CONTAINER),
    "a.ts": ({}, cut.OTHER_CONTAINER),
    "a.avi": ({"c:v": "mpeg4"}, cut.OTHER_CONTAINER),
    "mpeg4.mkv": ({"c:v": "mpeg4"}, cut.OTHER_CODEC),
}


@pytest.mark.parametrize("name", long_but(["a.mp4", "a.webm"], COPIED))
def test_a_copy_starts_at_the_key_frame_and_lasts_as_long_as_wanted(tmp_path: Path, name: str) -> None:
    clip = Cutter().cut(source(tmp_path / name, **COPIED[name]), 2.3, 4.0, tmp_path / "clip")
    suffix = "webm" if name == "a.webm" else "mp4"
    assert clip == Clip(tmp_path / f"clip.{suffix}", "")
    found = numbers(clip.path)
    # Of pictures that are stored in another order, one or two more may come along.
    assert 20 <= len(found) <= 22
    assert found == list(range(20, 20 + len(found)))


@pytest.mark.parametrize("name", long_but(["one key frame.mp4", "a.gif"], ENCODED))
def test_what_cannot_be_copied_is_encoded_from_the_picture_on(tmp_path: Path, name: str) -> None:
    options, why = ENCODED[name]
    path = source(tmp_path / name, **options)
    clip = Cutter().cut(path, 2.3, 4.0, tmp_path / "clip")
    assert clip == Clip(tmp_path / "clip.mp4", why)
    # Of a GIF, the greys fall between those of the palette.
    np.testing.assert_allclose(numbers(clip.path), numbers(path)[23:40], atol=1 if name == "a.gif" else 0)
    assert read_packets(clip.path, 0.0, 10.0, 60.0).codec == "h264"


@pytest.mark.long
@pytest.mark.parametrize("begin", long_but([2.3], [2.3, 2.7]))
def test_the_sound_comes_along_in_time(tmp_path: Path, begin: float) -> None:
    """A copy from the key frame at 2.0, and an encoded clip."""
    clip = Cutter().cut(with_sound(tmp_path / "a.mp4"), begin, 5.0, tmp_path / "clip")
    assert clip.again == ("" if begin == 2.3 else cut.NO_KEY)
    assert read_packets(clip.path, 0.0, 10.0, 60.0).sound == "aac"
    # A frame of sound has 1,024 samples.
    assert beep(clip.path) == pytest.approx(BEEP_S - (2.0 if begin == 2.3 else begin), abs=1024 / 44100 + 0.01)


@pytest.mark.long
def test_sound_that_players_do_not_expect_in_mp4_is_encoded(tmp_path: Path) -> None:
    clip = Cutter().cut(with_sound(tmp_path / "a.mkv", **{"c:a": "pcm_s16le"}), 2.0, 5.0, tmp_path / "clip")
    assert clip.again == cut.OTHER_CODEC
    assert read_packets(clip.path, 0.0, 10.0, 60.0).sound == "aac"
    assert beep(clip.path) == pytest.approx(1.0, abs=0.05)


@pytest.mark.long
@pytest.mark.parametrize("begin", [2.0, 2.7])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_time_0_is_the_first_picture_of_a_video_that_starts_after_its_sound(tmp_path: Path, suffix: str, begin: float) -> None:
    """As the times of moments are."""
    silent, path = source(tmp_path / "silent.mp4"), tmp_path / f"a.{suffix}"
    tone = ffmpeg.input("sine=d=9", f="lavfi")
    convert(ffmpeg.output(ffmpeg.input(str(silent), itsoffset=3), tone, str(path), **PLAIN | {"c:a": "aac"}))
    assert numbers(path)[:3] == [0, 1, 2]
    clip = Cutter().cut(path, begin, 4.0, tmp_path / "clip")
    assert clip.again == ("" if begin == 2.0 else cut.NO_KEY)
    expected = range(round(begin * FPS), 40)
    assert numbers(clip.path)[: len(expected)] == list(expected)


@pytest.mark.long
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_first_picture_that_comes_soon_after_the_sound_can_be_copied(tmp_path: Path, suffix: str) -> None:
    silent, path = source(tmp_path / "silent.mp4"), tmp_path / f"a.{suffix}"
    tone = ffmpeg.input("sine=d=6", f="lavfi")
    convert(ffmpeg.output(ffmpeg.input(str(silent), itsoffset=0.15), tone, str(path), **PLAIN | {"c:a": "aac"}))
    clip = Cutter().cut(path, 0.0, 2.0, tmp_path / "clip")
    assert clip.again == ""
    assert numbers(clip.path)[:15] == list(range(15))


@pytest.mark.long
def test_pictures_at_uneven_times_stay_where_they_were(tmp_path: Path) -> None:
    """Of a picture that began long before, the clip shows what was on the screen."""
    path = source(tmp_path / "a.mp4", vf="select=not(mod(n\\,15))", fps_mode="vfr", g=600)
    assert numbers(path)[:31] == [0] * 15 + [15] * 15 + [30]
    clip = Cutter().cut(path, 1.0, 4.0, tmp_path / "clip")
    assert clip.again == cut.NO_KEY
    assert numbers(clip.path) == [0] * 5 + [15] * 15 + [30] * 10


@pytest.mark.parametrize(("begin", "end", "expected"), [(0.0, 1.0, range(10)), (5.0, 9.0, range(50, 60))])
def test_a_clip_ends_where_the_file_does(tmp_path: Path, begin: float, end: float, expected: range) -> None:
    clip = Cutter().cut(source(tmp_path / "a.mp4", bf=0), begin, end, tmp_path / "clip")
    assert clip.again == ""
    assert numbers(clip.path) == list(expected)


@pytest.mark.long
@pytest.mark.parametrize("begin", long_but([2.7], [2.0, 2.7]))
def test_a_turned_video_stays_turned(tmp_path: Path, begin: float) -> None:
    wide = source(tmp_path / "wide.mp4", vf=f"scale={SIDE * 2}:{SIDE + 1},pad={SIDE * 2}:{SIDE + 2}")
    turned = tmp_path / "turned.mp4"
    convert(ffmpeg.input(str(wide), display_rotation=90).output(str(turned), c="copy"))
    clip = Cutter().cut(turned, begin, 4.0, tmp_path / "clip")
    assert clip.again == ("" if begin == 2.0 else cut.NO_KEY)
    sizes = {size for path in (turned, clip.path) for size in sample_frames(path, Sampling(1.0), lambda picture: picture.size).pictures}
    assert sizes == {(SIDE + 2, SIDE * 2)}


@pytest.mark.long
def test_of_a_file_that_breaks_off_there_is_what_is_left(tmp_path: Path) -> None:
    path = cut_video(tmp_path / "cut.mp4", FRAMES, FPS, 0.7)
    left = numbers(path)
    assert 20 < len(left) < 50
    clip = Cutter().cut(path, 1.3, 6.0, tmp_path / "clip")
    found = numbers(clip.path)
    # Of the last pictures, which need ones that are lost, decoders show more or fewer.
    assert found[: len(left) - 16] == left[13:-3]
    with pytest.raises(CannotCut, match="no pictures there"):
        Cutter().cut(path, 5.5, 6.0, tmp_path / "gone")
    assert {one.name for one in tmp_path.iterdir()} == {"cut.mp4", "clip.mp4"}


@pytest.mark.parametrize("name", long_but([NOT_UTF_8], ["-y 100%d #1.mp4", "file:a|b.mp4", NOT_UTF_8]))
def test_names_are_never_read_as_something_else(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files, of videos and of the folder, also where it is relative."""
    path = source(tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    folder = Path(f"{name} clips")
    said = write_clips(folder, [row(path, 3.0, video_id="../../" + "é%-" * 100), row(path, 5.0)], 1.0, quiet=True)
    assert said == f"2 clips in {folder}: 2 copied"
    assert {one.name for one in tmp_path.iterdir()} == {name, folder.name}
    short, long = sorted(folder.iterdir(), key=lambda one: len(one.name))
    assert short.name == "01-v-0m05.0s.mp4"
    assert len(os.fsencode(long.name)) < 128
    assert numbers(short)[:20] == list(range(40, 60))


def test_clips_replace_their_like_and_nothing_else(tmp_path: Path) -> None:
    path, folder = source(tmp_path / "a.mp4"), tmp_path / "clips"
    folder.mkdir()
    (folder / "01-v-0m03.0s.mp4").write_text("an older clip")
    (folder / "other.mp4").write_text("kept")
    # A clip of earlier was itself searched, as the second result.
    mine = source(folder / "02-w-0m03.0s.mp4")
    content = mine.read_bytes()
    rows = [row(path, 3.0), row(mine, 3.0, rank=2, video_id="w"), row(None, rank=3, video_id="x\ny"), row(path, 100.0, rank=4)]
    said = write_clips(folder, rows, 1.0, quiet=True)
    assert said.startswith(f"1 clip in {folder}: 1 copied; 1 left out (")
    for why, example in ((IN_THE_WAY, "w"), (GONE, "x\\ny"), (cut.NO_PICTURES, "v")):
        assert f"1 left out ({why}, as of {example})" in said
    assert (folder / "other.mp4").read_text() == "kept"
    assert mine.read_bytes() == content
    assert len(list(folder.iterdir())) == 3
    with pytest.raises(UserError, match=r"no clip could be cut: 1 left out .*; name the folder"):
        write_clips(folder, rows[2:3], 1.0, quiet=True)
    assert write_clips(folder, [], 1.0, quiet=True) == f"no clips in {folder}: nothing was found"


def test_a_file_that_is_no_video_is_named_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_text("<html>not found")
    with pytest.raises(CannotCut, match="no video, but an HTML page"):
        Cutter().cut(path, 0.0, 1.0, tmp_path / "clip")
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.long
def test_an_interrupt_leaves_no_half_clip(tmp_path: Path) -> None:
    """While ffmpeg writes, which here it never ends to do."""
    path, (program, child) = source(tmp_path / "a.mp4"), hanging_decoder(tmp_path, "tmp -y")
    clips = tmp_path / "clips"
    clips.mkdir()
    code = (
        "import sys; from pathlib import Path; from search.output.cut import Cutter; "
        "Cutter().cut(Path(sys.argv[1]), 1, 2, Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, path, clips / "clip"],
        cwd=ROOT,
        env=os.environ | {"IMAGEIO_FFMPEG_EXE": str(program)},
        stderr=subprocess.PIPE,
    )
    try:
        wait_until(child.exists, "ffmpeg writes")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert b"KeyboardInterrupt" in said
    assert list(clips.iterdir()) == []


@given(
    st.lists(
        st.tuples(
            st.integers(1, 3), st.integers(1, 120), st.text(max_size=200) | st.sampled_from(["A.mp4", "a", "..", "/"]), st.floats(0, 9e4)
        ),
        min_size=1,
        max_size=20,
    )
)
def test_names_of_clips_stay_in_the_folder_differ_and_sort(found: list[tuple[int, int, str, float]]) -> None:
    rows = [row(None, seconds, number=number, rank=rank, video_id=name) for number, rank, name, seconds in sorted(found)]
    names = clip_names(rows)
    assert len({name.casefold() for name in names}) == len(rows)
    for name in names:
        assert name[0] not in ".-"
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert len(name.encode()) < 160
    starts = [name.split("-")[: 2 if name.startswith("q") else 1] for name in names]
    assert starts == sorted(starts)


@pytest.mark.long
@pytest.mark.parametrize("begin", long_but([3.0], [0.0, 0.2, 1.4, 3.0, 4.4]))
@pytest.mark.parametrize(
    "name", long_but(["bikes.mp4"], ["bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4", "nasa_13013.mp4", "av1_video.mkv"])
)
def test_clips_of_real_files_show_what_the_files_show(shared_videos: Path, tmp_path: Path, name: str, begin: float) -> None:
    def pixels(picture: Any) -> Any:
        return np.asarray(picture.convert("L").resize((32, 32)), dtype=float)

    path = shared_videos / name
    whole = sample_frames(path, Sampling(5.0), pixels).pictures
    if begin > len(whole) / 5 - 0.5:
        return
    clip = Cutter().cut(path, begin, begin + 2.0, tmp_path / "clip")
    # A copy begins early, at a key frame: found by its first picture.
    found = sample_frames(clip.path, Sampling(5.0), pixels).pictures
    if clip.again:
        expected = whole[round(begin * 5) :][: len(found)]
        assert len(found) in (10, 11, len(whole) - round(begin * 5))
        assert max(float(np.abs(one - other).mean()) for one, other in zip(found, expected, strict=False)) < 6
    else:
        every = sample_frames(path, Sampling(25.0), pixels).pictures
        first = min(range(len(every)), key=lambda i: float(np.abs(every[i] - found[0]).mean()))
        assert begin - cut.KEY_NEAR_S - 0.04 <= first / 25 <= begin + 0.04
        assert float(np.abs(every[first] - found[0]).mean()) < 1
