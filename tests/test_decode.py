"""Decoding real files: which frames come out, and what is refused."""

from pathlib import Path

import ffmpeg
import numpy as np
import pytest
from PIL import Image

from data.ffmpeg import encode_video, run_ffmpeg
from extract.decode import DecodeFailed, sample_frames

SIDE = 32


def numbered_video(path: Path, frames: int, fps: int) -> Path:
    """A video whose frame i, of the first 60, is grey with the level 4 i + 8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = b"".join(bytes([4 * (i % 60) + 8]) * (SIDE * SIDE * 3) for i in range(frames))
    encode_video(path, pixels, SIDE, SIDE, fps)
    return path


def frame_number(image: Image.Image) -> int:
    return round((float(np.asarray(image).mean()) - 8) / 4)


@pytest.mark.parametrize(
    ("frames", "fps", "rate", "expected"),
    [
        (55, 25, 1.0, [0, 25, 50]),
        (50, 25, 1.0, [0, 25]),
        (1, 25, 1.0, [0]),
        (30, 10, 2.0, [0, 5, 10, 15, 20, 25]),
        (40, 10, 0.5, [0, 20]),
    ],
)
def test_frames_are_those_at_whole_seconds(tmp_path: Path, frames: int, fps: int, rate: float, expected: list[int]) -> None:
    sampled = sample_frames(numbered_video(tmp_path / "v.mp4", frames, fps), rate, frame_number)
    assert sampled.pictures == expected
    assert sampled.seconds == [i / rate for i in range(len(expected))]


def test_a_segment_is_cut_out(tmp_path: Path) -> None:
    sampled = sample_frames(numbered_video(tmp_path / "v.mp4", 60, 10), 1.0, frame_number, start=2.0, end=5.0)
    assert sampled.pictures == [20, 30, 40]
    assert sampled.seconds == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "name", ["plain.mp4", "with space.mp4", "-dash.mp4", "co:lon.mp4", "quote'\".mp4", "per%dcent.mp4", "ünï.mp4", "new\nline.mp4"]
)
def test_any_file_name_is_read(tmp_path: Path, name: str) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5, 5)
    assert sample_frames(video.rename(tmp_path / name), 1.0, frame_number).pictures == [0]


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5, 5)
    assert sample_frames(video.rename(tmp_path / "caf\udce9.mp4"), 1.0, frame_number).pictures == [0]


REAL = {
    "bikes.mp4": (10, (640, 272)),
    "bigbuckbunny.mp4": (6, (1280, 720)),
    "carphone_pristine.mp4": (5, (176, 144)),
    "nasa_13013.mp4": (14, (480, 270)),
    "h264_10bits.mp4": (1, (200, 200)),
    "h265_10bits.mp4": (1, (200, 200)),
    "h265_video.mp4": (1, (128, 128)),
    "av1_video.mkv": (5, (640, 360)),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(shared_videos: Path, name: str) -> None:
    """One frame a second of the best stream, 8 bits, in the video's own size."""
    sampled = sample_frames(shared_videos / name, 1.0, lambda image: (image.size, image.mode, float(np.asarray(image).std())))
    count, size = REAL[name]
    assert len(sampled.pictures) == count
    assert {picture[:2] for picture in sampled.pictures} == {(size, "RGB")}
    assert all(deviation > 1 for _, _, deviation in sampled.pictures)


def make_bad(kind: str, folder: Path) -> Path:
    path = folder / "bad.mp4"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no video, whatever its name says\n" * 50)
    elif kind == "folder":
        path.mkdir()
    elif kind == "playlist":
        numbered_video(folder / "other.mp4", 10, 5)
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n")
    elif kind == "list of files":
        numbered_video(folder / "other.mp4", 10, 5)
        path.write_text("ffconcat version 1.0\nfile other.mp4\n")
    elif kind == "sound alone":
        sound = ffmpeg.input("sine=d=1", f="lavfi").output(str(path), acodec="aac").overwrite_output()
        run_ffmpeg(sound, read=lambda stdout: stdout.read(), time_limit_s=60)
    elif kind == "cut":
        whole = numbered_video(folder / "whole.mp4", 100, 5)
        moved = ffmpeg.input(str(whole)).output(str(path), c="copy", movflags="faststart").overwrite_output()
        run_ffmpeg(moved, read=lambda stdout: stdout.read(), time_limit_s=60)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    elif kind == "cover picture":
        picture = folder / "cover.png"
        Image.new("RGB", (64, 64), "red").save(picture)
        tune = ffmpeg.input("sine=d=1", f="lavfi")
        song = ffmpeg.output(
            tune, ffmpeg.input(str(picture)), str(path), acodec="aac", vcodec="copy", **{"disposition:v:0": "attached_pic"}
        )
        run_ffmpeg(song.overwrite_output(), read=lambda stdout: stdout.read(), time_limit_s=60)
    return path


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder", "playlist", "list of files", "sound alone", "cut", "cover picture"])
def test_what_gives_no_frames_to_trust_fails_in_one_line(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DecodeFailed) as failure:
        sample_frames(make_bad(kind, tmp_path), 1.0, frame_number)
    assert str(failure.value)
    assert "\n" not in str(failure.value)
