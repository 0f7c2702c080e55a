"""Videos as cameras, recorders and calls leave them: sizes that change, clocks that are set, fields, oblong pixels, alpha, cut streams."""

import json
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from data.span import Span
from extract import ExtractOptions
from extract.decode.sample import DecodeFailed, Sampling, sample_frames
from extract.ffmpeg import ending
from extract.ffmpeg.clock import length_of
from extract.ffmpeg.log import LOG_BYTES, Log, PictureInfo
from extract.ffmpeg.run import Processes
from tests.choice import long_but
from tests.conftest import DEMO_CLIP
from tests.decoding import MakeSampling
from tests.videos import convert, frame_number, numbered_video, pattern

Pixels = NDArray[np.int16]


def pixels(image: Image.Image) -> Pixels:
    return np.asarray(image).astype(np.int16)


def encode(path: Path, size: str = "64x48", rate: str | int = 10, duration: float = 4, **options: Any) -> Path:
    # Without frames that are shown in another order, of which a decoder may lose the last where parameters change.
    convert(
        pattern(size=size, rate=rate, duration=duration).output(
            str(path), **({"vcodec": "libx264", "pix_fmt": "yuv420p", "bf": 0} | options)
        )
    )
    return path


def joined(path: Path, *parts: Path) -> Path:
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def length(path: Path) -> float | None:
    return length_of(path, 1.0, 60.0, Processes())


PIECES: dict[str, dict[str, Any]] = {
    "wide": {"size": "64x48"},
    "high": {"size": "48x64"},
    "large": {"size": "128x80"},
    "full colour": {"pix_fmt": "yuv444p"},
    "10 bits": {"pix_fmt": "yuv420p10le"},
    "short": {"size": "80x48", "duration": 0.5},
}


@pytest.mark.parametrize(
    "names",
    long_but(
        ["high wide high", "large short wide", "10 bits,high,full colour"],
        ["wide high", "high wide high", "short large", "large short wide", "wide,full colour,wide", "10 bits,high,full colour"],
    ),
)
def test_each_picture_has_the_shape_that_the_stream_has_there(tmp_path: Path, names: str, sampling: MakeSampling) -> None:
    """A call whose parameters change, against its pieces."""
    pieces = [encode(tmp_path / f"{i}.ts", **PIECES[name]) for i, name in enumerate(names.split("," if "," in names else " "))]
    call = joined(tmp_path / "call.ts", *pieces)
    expected = [picture for piece in pieces for picture in sample_frames(piece, Sampling(2.0), pixels).pictures]
    count = len(expected)
    for options, part, chosen in (
        ({}, (), range(count)),
        ({"max_frames": 5}, (), np.linspace(0, count - 1, num=5).astype(int)),
        ({}, (1.0, count / 2 - 0.5), range(2, count - 1)),
        ({}, (count / 2 - 1.0,), range(count - 2, count)),
    ):
        found = sample_frames(call, sampling(2.0, **options), pixels, Span(*part))
        assert found.seconds == [k / 2 for k in chosen]
        for k, picture in zip(chosen, found.pictures, strict=True):
            np.testing.assert_array_equal(picture, expected[k])
    assert length(call) == pytest.approx(count / 2, abs=0.05)


def test_the_last_frame_before_a_change_stays_on_the_screen(tmp_path: Path, sampling: MakeSampling) -> None:
    pieces = [encode(tmp_path / f"{size}.ts", size, "2/3", 6) for size in ("64x48", "48x64")]
    sampled = sample_frames(joined(tmp_path / "slow.ts", *pieces), sampling(), lambda image: image.size)
    assert set(sampled.pictures[:6]) == {(64, 48)}
    # How long the last frame of a transport stream stays is ffmpeg's guess.
    assert sampled.pictures[6:11] == [(48, 64)] * 5


def test_frames_sought_in_a_long_video_have_their_own_shape(tmp_path: Path, sampling: MakeSampling) -> None:
    pieces = [encode(tmp_path / f"{size}.ts", size, 1, 300) for size in ("64x48", "48x64")]
    long = joined(tmp_path / "long.ts", *pieces)
    sampled = sample_frames(long, sampling(max_frames=4), lambda image: image.size)
    assert sampled.pictures == [(64, 48)] * 2 + [(48, 64)] * 2
    assert sampled.seconds == [0, 199, 399, 599]


@pytest.mark.parametrize(("suffix", "offset"), [("mkv", 300), ("mkv", 36000), ("flv", 300), ("ts", 300), ("mp4", 300), ("mkv", 0.7)])
def test_a_stream_that_starts_late_is_as_one_that_does_not(tmp_path: Path, suffix: str, offset: float, sampling: MakeSampling) -> None:
    plain = numbered_video(tmp_path / "plain.mp4", 50, 10)
    late = tmp_path / f"late.{suffix}"
    convert(ffmpeg.input(str(plain)).output(str(late), c="copy", output_ts_offset=offset))
    assert length(late) == pytest.approx(5, abs=0.15)
    for options, part in (({}, ()), ({"max_frames": 3}, ()), ({"fps": 2.0}, (1.5, 4.0)), ({"fps": 2.0}, (2.0,))):
        found, expected = (sample_frames(path, sampling(**options), frame_number, Span(*part)) for path in (late, plain))
        # FLV has no edit list, so the frames that come early for the sake of others make it begin 0.2 s late.
        slack = 2 if suffix == "flv" else 0
        assert found.seconds == expected.seconds
        assert np.abs(np.subtract(found.pictures, expected.pictures)).max() <= slack


@pytest.mark.parametrize("suffix", ["ts", "flv"])
def test_a_part_begins_with_its_frame_wherever_key_frames_are(tmp_path: Path, suffix: str, sampling: MakeSampling) -> None:
    plain, path = numbered_video(tmp_path / "plain.mp4", 200, 1), tmp_path / f"one.{suffix}"
    convert(ffmpeg.input(str(plain)).output(str(path), c="copy"))
    for part in ((5.0, 8.0), (100.0, 104.0), (100.0,)):
        found, expected = (sample_frames(path, sampling(), frame_number, Span(*part)) for path in (path, plain))
        assert (found.pictures, found.seconds) == (expected.pictures, expected.seconds), part


def test_a_video_that_begins_long_after_its_sound_has_no_frames_before(tmp_path: Path, sampling: MakeSampling) -> None:
    plain = numbered_video(tmp_path / "plain.mp4", 100, 10)
    late = tmp_path / "late.mkv"
    convert(ffmpeg.output(ffmpeg.input(str(plain), itsoffset=20), ffmpeg.input("sine=d=60", f="lavfi"), str(late), vcodec="copy"))
    assert length(late) == pytest.approx(10, abs=0.05)
    for part in ((), (3.0, 6.0), (4.0,)):
        found, expected = (sample_frames(path, sampling(), frame_number, Span(*part)) for path in (late, plain))
        assert (found.pictures, found.seconds) == (expected.pictures, expected.seconds)


STARTS = [("ts", 0.6), ("ts", 7), ("m2ts", 7), ("mpg", 3), ("vob", 1.5), ("ogv", 7)]


@pytest.mark.parametrize(("suffix", "seconds"), long_but([("ts", 7), ("mpg", 3), ("ogv", 7)], STARTS))
def test_mpeg_and_ogg_start_with_the_picture(tmp_path: Path, suffix: str, seconds: float, sampling: MakeSampling) -> None:
    """However long after the sound that is: none of the pictures is lost, nor moved in a part."""
    plain = numbered_video(tmp_path / "plain.mp4", 250, 25)
    late = tmp_path / f"late.{suffix}"
    codecs = {"ts": "libx264", "m2ts": "libx264", "ogv": "libtheora"}
    sound = {"acodec": "libvorbis" if suffix == "ogv" else "mp2", "ar": 48000}
    tune = ffmpeg.input("sine=d=20", f="lavfi")
    options = {"vcodec": codecs.get(suffix, "mpeg2video"), "q:v": 8, "bf": 0, "fps_mode": "passthrough"} | sound
    convert(ffmpeg.output(ffmpeg.input(str(plain), itsoffset=seconds), tune, str(late), **options))
    assert length(late) == pytest.approx(10, abs=0.1)
    for part in ((), (3.0, 6.0), (4.0,)):
        found, expected = (sample_frames(path, sampling(), frame_number, Span(*part)) for path in (late, plain))
        # The last frame of MPEG may stay long enough for one more.
        assert found.seconds[: len(expected.seconds)] == expected.seconds
        assert len(found.seconds) <= len(expected.seconds) + 1
        assert np.abs(np.subtract(found.pictures[: len(expected.pictures)], expected.pictures)).max() <= 1


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_a_part_ends_before_its_end(tmp_path: Path, suffix: str, sampling: MakeSampling) -> None:
    """Also where no frame falls on its start or its end, and the same in every container."""
    path = tmp_path / f"v.{suffix}"
    numbers = ffmpeg.input(str(numbered_video(tmp_path / "plain.mp4", 300, 25)), r="30000/1001")
    convert(numbers.output(str(path), vcodec="libx264", bf=0, qp=5))
    times = [i * 1001 / 30000 for i in range(300)]
    for fps, start, end in ((1.0, 3.0, 8.0), (1.0, 3.25, 8.0), (2.0, 2.0, 4.0), (1.0, 0.0, 4.0), (2.0, 1.3, 4.2)):
        sampled = sample_frames(path, sampling(fps), frame_number, Span(start, end))
        moments = [start + k / fps for k in range(100) if start + k / fps < end]
        assert sampled.seconds == moments
        first = min(i for i in range(300) if times[i] >= start - 0.001)
        expected = [max(first, *(i for i in range(300) if times[i] <= moment)) % 60 for moment in moments]
        assert np.abs(np.subtract(sampled.pictures, expected)).max() <= 0.5, (fps, start, end)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_a_part_of_a_still_is_the_still(tmp_path: Path, suffix: str, sampling: MakeSampling) -> None:
    """20 frames in the first 2 s, then nothing until 52 s, as a recorder of the screen writes."""
    path = tmp_path / f"screen.{suffix}"
    numbers = ffmpeg.input(str(numbered_video(tmp_path / "plain.mp4", 59, 10))).filter("setpts", "PTS+gte(N,20)*50/TB")
    convert(numbers.output(str(path), fps_mode="passthrough", vcodec="libx264", pix_fmt="yuv420p", bf=0, qp=5))
    for fps, part, expected in (
        (1.0, (0.0, 4.0), [0, 10, 19, 19]),
        (1.0, (10.0, 20.0), [19] * 10),
        (2.0, (51.0, 53.5), [19, 19, 20, 25, 30]),
        (1.0, (50.0,), [19, 19, 20, 30, 40, 50]),
        (0.1, (1.0, 50.0), [10, 19, 19, 19, 19]),
    ):
        sampled = sample_frames(path, sampling(fps), frame_number, Span(*part))
        assert sampled.pictures == expected, part
        assert sampled.seconds == [part[0] + k / fps for k in range(len(expected))]
    assert sample_frames(path, sampling(max_frames=3), frame_number, Span(20.0, 56.0)).pictures == [19, 19, 50]
    with pytest.raises(DecodeFailed, match="no video frames"):
        sample_frames(path, sampling(), frame_number, Span(70.0, 80.0))


def with_times(plain: Path, path: Path, moved: Callable[[int], int]) -> Path:
    """A copy of an FLV file, its time stamps, in milliseconds, moved."""
    content = bytearray(plain.read_bytes())
    at = 13
    while at + 11 <= len(content):
        size = int.from_bytes(content[at + 1 : at + 4], "big")
        if content[at] in (8, 9):
            time = moved(int.from_bytes(bytes([content[at + 7], *content[at + 4 : at + 7]]), "big")).to_bytes(4, "big")
            content[at + 4 : at + 8] = time[1:] + time[:1]
        at += 15 + size
    path.write_bytes(content)
    return path


FAR_MS = 20_000_000
CLOCKS: dict[str, tuple[Callable[[int], int], int]] = {
    "set forward": (lambda time: time + FAR_MS * (time >= 5000), 10),
    "set twice": (lambda time: time + FAR_MS * (time >= 3000) + FAR_MS * (time >= 7000), 10),
    "set back": (lambda time: time + FAR_MS * (time < 5000), 10),
    "set back by 4 s": (lambda time: time - 4000 * (time >= 5000), 10),
    "there and back": (lambda time: time + FAR_MS * (3000 <= time < 6000), 10),
    # Nothing tells how long the first frame was there: as long as one sampled frame.
    "set after the first frame": (lambda time: time + FAR_MS * (time > 0), 11),
}


@pytest.mark.parametrize("kind", CLOCKS)
def test_where_the_clock_was_set_the_video_goes_on(tmp_path: Path, kind: str, sampling: MakeSampling) -> None:
    """10 s of pictures give 10 frames, and no still is repeated for the seconds that nobody recorded."""
    plain, flv = numbered_video(tmp_path / "plain.mp4", 100, 10), tmp_path / "plain.flv"
    convert(ffmpeg.input(str(plain)).output(str(flv), vcodec="flv1", q=2))
    moved, count = CLOCKS[kind]
    path = with_times(flv, tmp_path / "set.flv", moved)
    seen = []
    sampled = sample_frames(path, sampling(), lambda image: seen.append(frame_number(image)))
    assert len(seen) == len(sampled.seconds) == count
    expected = [10 * k % 60 for k in range(10)]
    if count == 10:
        assert np.abs(np.subtract(seen, expected)).max() <= 1
        few = sample_frames(path, sampling(max_frames=4), frame_number)
        assert few.seconds == [0, 3, 6, 9]
        part = sample_frames(path, sampling(), frame_number, Span(2.0, 8.0))
        assert part.seconds == [2, 3, 4, 5, 6, 7]
        assert np.abs(np.subtract(part.pictures, expected[2:8])).max() <= 1
    if "back" not in kind or "4 s" in kind:
        assert sampled.clock_jumps
    # The first and last frames around a clock that is set back far are without time stamps.
    assert length(path) == pytest.approx(10, abs=0.25)


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "flv"])
def test_a_jump_within_a_container_is_no_still(tmp_path: Path, suffix: str, sampling: MakeSampling) -> None:
    path = tmp_path / f"jump.{suffix}"
    jump = pattern(size="64x48", rate=10, duration=10).filter("setpts", "PTS+gte(T,5)*20000/TB")
    convert(jump.output(str(path), pix_fmt="yuv420p", fps_mode="passthrough"))
    sampled = sample_frames(path, sampling(), lambda _: None)
    assert (sampled.seconds, sampled.clock_jumps) == ([*range(10)], 1)
    assert sample_frames(path, sampling(max_frames=4), lambda _: None).seconds == [0, 3, 6, 9]


@pytest.mark.parametrize(("still", "suffix"), [(60, "mkv"), (60, "mp4"), (590, "mkv")])
def test_a_slide_show_keeps_its_stills(tmp_path: Path, still: int, suffix: str, sampling: MakeSampling) -> None:
    path = tmp_path / f"slides.{suffix}"
    slides = ffmpeg.input(str(numbered_video(tmp_path / "plain.mp4", 3, 1))).filter("setpts", f"N*{still}/TB")
    convert(slides.output(str(path), fps_mode="passthrough", qp=0))
    sampled = sample_frames(path, sampling(), frame_number)
    assert sampled.pictures[: 2 * still + 1] == [k // still for k in range(2 * still + 1)]
    assert sampled.clock_jumps == 0
    few = sample_frames(path, sampling(max_frames=7), frame_number)
    assert few.pictures == [sampled.pictures[int(k)] for k in few.seconds]


def moving(path: Path, *filters: tuple[str, dict[str, Any]], **options: Any) -> Path:
    """A bar that moves across; 25 frames a second after these filters, of 2 s."""
    graph = ffmpeg.input("color=white:s=8x48:r=50:d=2", f="lavfi")
    ground = ffmpeg.input("color=black:s=64x48:r=50:d=2", f="lavfi")
    graph = ffmpeg.overlay(ground, graph, x="mod(2*n,56)")
    for name, arguments in filters:
        graph = graph.filter(name, **arguments)
    convert(graph.output(str(path), **({"pix_fmt": "yuv420p", "qp": 0} | options)))
    return path


def combing(image: Image.Image) -> float:
    """How much more a line differs from its neighbours than these from each other."""
    line_HWC = pixels(image)
    return float(np.abs(line_HWC[1:-1] - (line_HWC[:-2] + line_HWC[2:]) / 2).mean())


INTERLACED: dict[str, dict[str, Any]] = {
    "a.mp4": {"vcodec": "libx264", "flags": "+ildct+ilme"},
    "a.mkv": {"vcodec": "libx264", "x264-params": "bff=1"},
    "a.ts": {"vcodec": "mpeg2video", "flags": "+ildct+ilme", "q": 2},
    "a.avi": {"vcodec": "mpeg4", "flags": "+ildct+ilme", "q": 2},
}


@pytest.mark.parametrize("name", INTERLACED)
def test_fields_are_taken_apart_for_display(tmp_path: Path, name: str, sampling: MakeSampling) -> None:
    options = INTERLACED[name]
    order = "interleave_bottom" if "bff" in str(options) else "interleave_top"
    path = moving(tmp_path / name, ("tinterlace", {"mode": order}), **options)
    stored, shown = (sample_frames(path, sampling(5.0, pictures=rule), combing) for rule in ("stored", "display"))
    assert stored.seconds == shown.seconds
    assert min(stored.pictures) > 5
    assert max(shown.pictures) < 2
    whole = moving(tmp_path / "progressive.mp4", ("framestep", {"step": 2}))
    one, other = (sample_frames(whole, sampling(5.0, pictures=rule), pixels).pictures for rule in ("stored", "display"))
    np.testing.assert_array_equal(one, other)


def test_fields_that_come_later_are_taken_apart_and_handed_over_once(tmp_path: Path, sampling: MakeSampling) -> None:
    """A recording whose film is progressive and whose other part is not, of another size."""
    film = moving(tmp_path / "film.ts", ("framestep", {"step": 2}), vcodec="mpeg2video", q=2)
    fields = {"vcodec": "mpeg2video", "flags": "+ildct+ilme", "q": 2}
    rest = moving(tmp_path / "rest.ts", ("tinterlace", {"mode": "interleave_top"}), ("pad", {"w": 80}), **fields)
    path = joined(tmp_path / "both.ts", film, rest)
    seen: list[tuple[tuple[int, int], float]] = []
    sampled = sample_frames(path, sampling(2.0, pictures="display"), lambda image: seen.append((image.size, combing(image))))
    assert [size for size, _ in seen] == [(64, 48)] * 4 + [(80, 48)] * 4
    assert len(sampled.pictures) == len(seen)
    assert max(value for _, value in seen) < 2


@pytest.mark.parametrize(("suffix", "sar", "width"), [("mp4", "16/11", 93), ("mkv", "2/1", 128), ("ts", "8/9", 57), ("mp4", "1/1", 64)])
def test_pixels_are_square_for_display(tmp_path: Path, suffix: str, sar: str, width: int, sampling: MakeSampling) -> None:
    path = tmp_path / f"oblong.{suffix}"
    convert(pattern(size="64x48", rate=5, duration=1).filter("setsar", sar).output(str(path), vcodec="libx264", pix_fmt="yuv420p"))
    stored, shown = (
        sample_frames(path, sampling(pictures=rule, max_frames=2), lambda image: image.size).pictures for rule in ("stored", "display")
    )
    assert (stored, shown) == ([(64, 48)], [(width, 48)])


def test_a_shape_that_nobody_could_hold_is_left_as_it_is(tmp_path: Path, sampling: MakeSampling) -> None:
    path = tmp_path / "ribbon.mp4"
    convert(pattern(size="1024x1024", rate=5, duration=0.2).filter("setsar", "65535/1").output(str(path), pix_fmt="yuv420p"))
    assert sample_frames(path, sampling(pictures="display"), lambda image: image.size).pictures == [(1024, 1024)]


ALPHA: dict[str, dict[str, Any]] = {
    "a.gif": {},
    "vp8.webm": {"vcodec": "libvpx", "pix_fmt": "yuva420p", "auto-alt-ref": 0},
    "vp9.webm": {"vcodec": "libvpx-vp9", "pix_fmt": "yuva420p", "cpu-used": 8},
    "prores.mov": {"vcodec": "prores_ks", "pix_fmt": "yuva444p10le", "profile:v": 4},
    "animation.mov": {"vcodec": "qtrle", "pix_fmt": "argb"},
    "png.mov": {"vcodec": "png", "pix_fmt": "rgba"},
    "ffv1.mkv": {"vcodec": "ffv1", "pix_fmt": "bgra"},
}


@pytest.mark.parametrize("name", ALPHA)
def test_alpha_is_over_black_for_display(tmp_path: Path, name: str, sampling: MakeSampling) -> None:
    """White all over, and seen on the left only, against the colours that are stored."""
    path = tmp_path / name
    white = ffmpeg.input("color=white:s=64x48:r=5:d=2,format=rgba,geq=r=255:g=255:b=255:a='255*lt(X,32)'", f="lavfi")
    if name == "a.gif":
        twice = white.filter_multi_output("split")
        white = ffmpeg.filter([twice[0], twice[1].filter("palettegen")], "paletteuse")
    convert(white.output(str(path), **ALPHA[name]))
    stored, shown = (sample_frames(path, sampling(pictures=rule), pixels).pictures for rule in ("stored", "display"))
    assert len(stored) == len(shown) == 2
    for picture in shown:
        assert picture[:, 4:28].min() > 220
        assert picture[:, 36:60].max() < 30
    if name != "a.gif":  # A GIF keeps no colour where nothing is seen.
        assert min(picture.min() for picture in stored) > 220


CUT: dict[str, dict[str, Any]] = {
    "a.ts": {"vcodec": "libx264", "acodec": "aac"},
    "silent.ts": {"vcodec": "libx264"},
    "a.m2ts": {"vcodec": "libx264", "acodec": "ac3", "mpegts_m2ts_mode": 1},
    "a.mpg": {"vcodec": "mpeg2video", "acodec": "mp2"},
    "a.vob": {"vcodec": "mpeg2video", "acodec": "ac3"},
    "a.flv": {"vcodec": "libx264", "acodec": "aac"},
    "a.avi": {"vcodec": "mpeg4", "acodec": "mp3"},
    "live.mkv": {"vcodec": "libx264", "live": 1},
    "a.mp4": {"vcodec": "libx264", "acodec": "aac", "movflags": "faststart"},
}


def test_a_length_is_that_of_the_stream_that_is_decoded_without_what_a_clock_was_set_by(tmp_path: Path) -> None:
    whole = tmp_path / "whole.mp4"
    convert(pattern(size="64x48", rate=10, duration=12).output(str(whole), vcodec="libx264", bf=2))
    for name, expression in {
        "jump.mp4": "PTS+gte(T,5)*20000/TB",
        "several.mp4": "PTS+(gte(T,3)+gte(T,6)+gte(T,9))*1000/TB",
        "end.mkv": "PTS+gte(T,11.5)*5000/TB",
        "still.mp4": "PTS+gte(T,2)*50/TB",
    }.items():
        graph = ffmpeg.input(str(whole)).filter("setpts", expression)
        convert(graph.output(str(tmp_path / name), fps_mode="passthrough", enc_time_base="1/1000", vcodec="libx264", bf=2))
    smaller = pattern(size="32x32", rate=10, duration=30)
    convert(ffmpeg.output(smaller, ffmpeg.input(str(whole)), str(tmp_path / "two.mp4"), vcodec="libx264"))
    found = {path.name: length(path) for path in tmp_path.iterdir()}
    expected = {"whole.mp4": 12, "jump.mp4": 12, "several.mp4": 12, "end.mkv": 12, "still.mp4": 62, "two.mp4": 12}
    assert found == pytest.approx(expected, abs=0.11)


def test_whole_files_of_other_programs_do_not_count_as_cut(tmp_path: Path) -> None:
    made = {name: tmp_path / name for name in ("a.flv", "a.avi", "a.ts")}
    for path in made.values():
        sound = ffmpeg.input("sine=duration=4", f="lavfi")
        codec = "mpeg4" if path.suffix == ".avi" else "libx264"
        convert(ffmpeg.output(pattern(size="64x48", rate=10, duration=4), sound, str(path), vcodec=codec))
    zeros, unknown, stopped = (made[name].read_bytes() for name in ("a.flv", "a.avi", "a.ts"))
    assert [ending.breaks_off(path, path.suffix[1:].replace("ts", "mpegts")) for path in made.values()] == [False] * 3
    made["a.flv"].write_bytes(zeros + bytes(100))
    made["a.avi"].write_bytes(unknown[:4] + b"\xff" * 4 + unknown[8:])
    made["a.ts"].write_bytes(stopped[: 188 * (len(stopped) // 188 - 3)])
    assert [ending.breaks_off(path, path.suffix[1:].replace("ts", "mpegts")) for path in made.values()] == [False] * 3


@pytest.mark.parametrize("name", long_but(["a.ts", "a.mpg", "a.flv", "live.mkv", "a.mp4"], CUT))
def test_a_stream_that_is_cut_is_noticed(tmp_path: Path, name: str, sampling: MakeSampling) -> None:
    """Whole it is taken, also where it begins in the middle of a packet; cut it fails, and is taken as partial."""
    whole, path = tmp_path / f"whole {name}", tmp_path / name
    video, options = pattern(size="128x96", rate=10, duration=4), {"pix_fmt": "yuv420p", "ar": 44100} | CUT[name]
    inputs = [video, ffmpeg.input("sine=d=4", f="lavfi")] if "acodec" in options else [video]
    convert(ffmpeg.output(*inputs, str(whole), **options))
    content = whole.read_bytes()
    count = len(sample_frames(whole, sampling(), frame_number).pictures)
    assert count in (4, 5)
    for share in (0.55, 0.7):
        path.write_bytes(content[: int(len(content) * share) | 1])
        with pytest.raises(DecodeFailed, match=r"cut short: .* --allow-partial accepts such files") as failure:
            sample_frames(path, sampling(), frame_number)
        assert failure.value.decoded is not None
        assert failure.value.expected is not None
        partial = sample_frames(path, sampling(allow_partial=True), frame_number)
        assert len(partial.pictures) == failure.value.decoded < failure.value.expected == partial.expected


def test_the_log_tells_pictures_from_words(tmp_path: Path) -> None:
    """Also where words of another thread get between a picture and the end of its line, and whatever its length."""
    picture = "n:{0:4} pts:{0:7} pts_time:{0} duration: 1 fmt:yuv420p cl:left sar:8/9 s:64x48 i:{1} iskey:1 type:I "
    said = tmp_path / "log"
    with said.open("w+b", buffering=0) as file:
        log = Log(file, "showinfo@token")
        title = f"[info]   title : [error] [Eval @ 0x1] {picture.format(7, 'B').strip()}\n"
        file.write(f"[info] Input #0, avi\n{title}[showinfo@other @ 0x1] [info] {picture.format(7, 'P')}\n".encode())
        assert log.next_picture() is None
        heard = log.text()
        assert log.last_error() == 0
        file.write(f"[showinfo@token @ 0x1] [info] config in\n[showinfo@token @ 0x1] [info] {picture.format(0, 'P')}\n".encode())
        first = log.next_picture()
        file.write(f"[info]   Stream #0:0{picture.format(1, 'T')}\n: Video\n{picture.format(2, 'B')}damaged\n[info] more".encode())
        assert first == PictureInfo(0, "yuv420p", Fraction(8, 9), 64, 48, interlaced=False)
        others = [log.next_picture(), log.next_picture()]
        assert [(one.pts, one.interlaced) for one in others if one] == [(1, True), (2, True)]
        assert log.next_picture() is None
        assert log.text() == heard + "[info]   Stream #0:0: Video\n[error] damaged\n[info] more"
        assert log.clock_jumps == 0
        assert log.last_error() == 3
        file.write(b"x\n" * LOG_BYTES + b"the end\n")
        assert log.text().startswith("[info] Input #0")
        assert log.text().endswith("the end\n")
        assert len(log.text()) <= 3 * LOG_BYTES


WORDS = [
    "n: 0 pts: 0 fmt:yuv420p sar:1/1 s:80x30 i:P type:I ",
    "[showinfo@0 @ 0x1] [info] n: 0 pts: 900000000 fmt:yuv420p sar:1/1 s:80x60 i:T type:I ",
    "The [Eval @ 0x1] story\n[Eval @ 0x1] [info] 700",
    "my [error] film",
    "timestamp discontinuity; previous: 100000000, current: 0",
]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("suffix", long_but(["mkv"], ["mp4", "mkv", "ts"]))
def test_words_of_a_file_are_no_words_of_ffmpeg(tmp_path: Path, suffix: str, words: str, sampling: MakeSampling) -> None:
    plain, path = numbered_video(tmp_path / "plain.mp4", 50, 10), tmp_path / f"titled.{suffix}"
    titles = {"metadata:g:0": f"title={words}", "metadata:g:1": f"service_name={words}", "metadata:s:v:0": f"title={words}"}
    # The sound is longer than the picture, as a header would have it of a file that is cut.
    tune = ffmpeg.input("sine=d=8", f="lavfi")
    convert(ffmpeg.output(ffmpeg.input(str(plain)), tune, str(path), vcodec="copy", acodec="aac", **titles))
    for rule in ("stored", "display"):
        sampled = sample_frames(path, sampling(pictures=rule), frame_number)
        assert (sampled.pictures, sampled.clock_jumps) == ([0, 10, 20, 30, 40], 0)
    assert length(path) == pytest.approx(5, abs=0.05)


def test_the_stage_follows_the_rule_and_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pictures of a folder are those of a player; a clock that was set is told of; another rule needs another cache."""
    videos = tmp_path / "videos"
    videos.mkdir()
    convert(pattern(size="64x48", rate=5, duration=2).filter("setsar", "2/1").output(str(videos / "oblong.mp4"), pix_fmt="yuv420p"))
    jump = pattern(size="64x48", rate=10, duration=4).filter("setpts", "PTS+gte(T,2)*20000/TB")
    convert(jump.output(str(videos / "jump.mkv"), pix_fmt="yuv420p", fps_mode="passthrough"))
    options = ExtractOptions(videos=videos, cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", json=True)
    sizes = {}
    for rule in ("display", "stored"):
        extract.main(replace(options, cache=tmp_path / rule, pictures=None if rule == "display" else "stored"))
        out, err = capsys.readouterr()
        assert json.loads(out)["videos_with_clock_jumps"] == 1
        assert "videos whose clock jumps: 1, such as jump.mkv" in err
        cache = FeatureCache(tmp_path / rule)
        assert cache.settings["pictures"] == rule
        sizes[rule] = Image.open(BytesIO(cache.images("thumbnails", "oblong.mp4")[0])).size
        assert len(cache.images("thumbnails", "jump.mkv")) == 4
    assert (sizes["stored"], sizes["display"]) == ((64, 48), (112, 42))
    with pytest.raises(UserError, match="pictures"):
        extract.main(replace(options, cache=tmp_path / "display", pictures="stored"))
