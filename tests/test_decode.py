"""Decoding real files: which frames come out, and what is refused."""

import os
import socket
from fractions import Fraction
from pathlib import Path

import ffmpeg
import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image

from data.span import Span
from extract.decode.sample import DecodeFailed, Sampling, sample_frames
from tests.decoding import MakeSampling, hanging_decoder
from tests.processes import is_alive
from tests.videos import convert, cut_video, frame_number, numbered_video, pattern
from tests.waiting import wait_until


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
def test_frames_are_those_at_whole_seconds(
    tmp_path: Path, frames: int, fps: int, rate: float, expected: list[int], sampling: MakeSampling
) -> None:
    sampled = sample_frames(numbered_video(tmp_path / "v.mp4", frames, fps), sampling(rate), frame_number)
    assert sampled.pictures == expected
    assert sampled.seconds == [i / rate for i in range(len(expected))]


def test_a_segment_is_cut_out(tmp_path: Path, sampling: MakeSampling) -> None:
    sampled = sample_frames(numbered_video(tmp_path / "v.mp4", 60, 10), sampling(), frame_number, Span(2.0, 5.0))
    assert sampled.pictures == [20, 30, 40]
    assert sampled.seconds == [2.0, 3.0, 4.0]


@pytest.mark.parametrize(
    "name", ["plain.mp4", "with space.mp4", "-dash.mp4", "co:lon.mp4", "quote'\".mp4", "per%dcent.mp4", "ünï.mp4", "new\nline.mp4"]
)
def test_any_file_name_is_read(tmp_path: Path, name: str, sampling: MakeSampling) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5, 5)
    assert sample_frames(video.rename(tmp_path / name), sampling(), frame_number).pictures == [0]


def test_a_name_that_is_no_text_is_read(tmp_path: Path, sampling: MakeSampling) -> None:
    video = numbered_video(tmp_path / "v.mp4", 5, 5)
    assert sample_frames(video.rename(tmp_path / "caf\udce9.mp4"), sampling(), frame_number).pictures == [0]


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
def test_real_files(shared_videos: Path, name: str, sampling: MakeSampling) -> None:
    """One frame a second of the best stream, 8 bits, in the video's own size."""
    sampled = sample_frames(shared_videos / name, sampling(), lambda image: (image.size, image.mode, float(np.asarray(image).std())))
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
        convert(ffmpeg.input("sine=d=1", f="lavfi").output(str(path), acodec="aac"))
    elif kind == "cut":
        cut_video(path)
    elif kind == "cover picture":
        picture = folder / "cover.png"
        Image.new("RGB", (64, 64), "red").save(picture)
        tune = ffmpeg.input("sine=d=1", f="lavfi")
        cover = {"disposition:v:0": "attached_pic"}
        convert(ffmpeg.output(tune, ffmpeg.input(str(picture)), str(path), acodec="aac", vcodec="copy", **cover))
    elif kind == "pipe":
        os.mkfifo(path)
    return path


BAD = ["missing", "empty", "text", "folder", "pipe", "playlist", "list of files", "sound alone", "cut", "cover picture"]


@pytest.mark.parametrize("kind", BAD)
def test_what_gives_no_frames_to_trust_fails_in_one_line(tmp_path: Path, kind: str, sampling: MakeSampling) -> None:
    with pytest.raises(DecodeFailed) as failure:
        sample_frames(make_bad(kind, tmp_path), sampling(), frame_number)
    assert str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_cut_file_says_how_much_of_it_is_there(tmp_path: Path, sampling: MakeSampling) -> None:
    path = cut_video(tmp_path / "cut.mp4")
    with pytest.raises(DecodeFailed, match=r"of about 20 frames; --allow-partial") as failure:
        sample_frames(path, sampling(), frame_number)
    assert failure.value.expected == 20
    assert failure.value.decoded is not None
    assert 0 < failure.value.decoded < 20
    assert failure.value.last_words
    sampled = sample_frames(path, sampling(allow_partial=True), frame_number)
    assert sampled.pictures == [5 * i for i in range(failure.value.decoded)]
    assert sampled.expected == 20
    few = sample_frames(path, sampling(allow_partial=True, max_frames=2), frame_number)
    assert few.pictures == [sampled.pictures[0], sampled.pictures[-1]]


@pytest.mark.parametrize(("frames", "fps"), [(8, 10), (47, 10), (333, 30)])
@pytest.mark.parametrize("rate", [0.7, 1.0, 3.0])
def test_frames_are_those_on_the_screen(tmp_path: Path, frames: int, fps: int, rate: float, sampling: MakeSampling) -> None:
    """At 29.97 frames a second and others, of a whole file and of parts, against the times of the frames."""
    step = Fraction(1001, 1000) / fps
    path = tmp_path / "v.mkv"
    numbers = numbered_video(tmp_path / "v.mp4", frames, fps)
    convert(
        ffmpeg.input(str(numbers)).filter("setpts", "PTS*1001/1000").output(str(path), enc_time_base="1/1000", fps_mode="passthrough", qp=0)
    )
    for start in (0.0, 0.25):
        sampled = sample_frames(path, sampling(rate), frame_number, Span(start or None))
        # Matroska keeps whole milliseconds.
        times = [round(1000 * i * step) / Fraction(1000) for i in range(frames)]
        there = [i for i in range(frames) if times[i] >= start]
        expected = []
        k = 0
        while start + k / rate < times[-1] + step:
            on_screen = [i for i in there if times[i] <= start + k / rate + 1e-9]
            expected.append((on_screen or there)[-1 if on_screen else 0] % 60)
            k += 1
        # The last one is there or not by how the length of the last frame is rounded.
        assert sampled.pictures[: len(expected) - 1] == expected[:-1]
        assert len(sampled.pictures) in (len(expected) - 1, len(expected), 1)


def test_memory_holds_the_frames_that_may_be_chosen(tmp_path: Path, sampling: MakeSampling) -> None:
    """Whatever the header says of the length, the frames are those of the rule, and few others are made ready."""
    numbered = numbered_video(tmp_path / "v.mp4", 50, 1)
    unknown = tmp_path / "unknown.mkv"
    unknown.write_bytes(convert(ffmpeg.input(str(numbered)).output("pipe:", format="matroska", c="copy")))
    longer = tmp_path / "longer.mp4"
    convert(ffmpeg.output(ffmpeg.input(str(numbered)), ffmpeg.input("sine=d=58", f="lavfi"), str(longer), vcodec="copy", acodec="aac"))
    for path in (numbered, unknown, longer):
        for limit in (1, 4, 12, 60):
            ready: list[int] = []

            def shrink(image: Image.Image, ready: list[int] = ready) -> int:
                ready.append(frame_number(image))
                return ready[-1]

            sampled = sample_frames(path, sampling(max_frames=limit), shrink)
            assert sampled.pictures == np.linspace(0, 49, num=min(limit, 50)).astype(int).tolist(), path
            assert sampled.seconds == sampled.pictures
            assert len(ready) <= 6 * limit + 2


@pytest.mark.long
def test_frames_of_a_long_video_are_sought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three hours, and parts of them: the same frames as decoding all of it gives."""
    path = numbered_video(tmp_path / "long.mp4", 3 * 3600, 1)
    asked = [(None, None), (3600.0, None), (1800.5, 7200.0)]
    sought = [sample_frames(path, Sampling(max_frames=12), frame_number, Span(*part)) for part in asked]
    monkeypatch.setattr("extract.decode.by_ffmpeg.SEEK_APART_S", float("inf"))
    assert sought == [sample_frames(path, Sampling(max_frames=12), frame_number, Span(*part)) for part in asked]
    assert sought[0].pictures == (np.linspace(0, 3 * 3600 - 1, num=12).astype(int) % 60).tolist()


def test_a_long_cut_file_is_counted(tmp_path: Path, sampling: MakeSampling) -> None:
    with pytest.raises(DecodeFailed, match="of about 2000 frames"):
        sample_frames(cut_video(tmp_path / "cut.mp4", frames=2000, fps=1), sampling(max_frames=4), frame_number)


def test_uncommon_files_give_the_right_frames(tmp_path: Path, sampling: MakeSampling) -> None:
    """Variable frame rate, an edit list, a stream that starts late."""
    plain = numbered_video(tmp_path / "plain.mp4", 50, 10)
    varying = tmp_path / "varying.mkv"
    convert(
        ffmpeg.input(str(plain)).filter("setpts", "(N*N/500)/TB").output(str(varying), enc_time_base="1/1000", fps_mode="passthrough", qp=0)
    )
    on_screen = [max(i for i in range(50) if i * i / 500 <= k) for k in range(5)]
    assert sample_frames(varying, sampling(), frame_number).pictures == on_screen
    edited = tmp_path / "edited.mp4"
    convert(ffmpeg.input(str(plain), ss=1.5).output(str(edited), c="copy"))
    assert sample_frames(edited, sampling(), frame_number).pictures == [15, 25, 35, 45]
    late = tmp_path / "late.mkv"
    convert(ffmpeg.output(ffmpeg.input(str(plain), itsoffset=0.5), ffmpeg.input("sine=d=5", f="lavfi"), str(late), vcodec="copy"))
    assert sample_frames(late, sampling(), frame_number).pictures[:5] == [0, 5, 15, 25, 35]


def test_uncommon_pictures_come_as_they_are_meant(tmp_path: Path, sampling: MakeSampling) -> None:
    """Rotation, high dynamic range, odd sizes, several streams, 8K."""
    source = numbered_video(tmp_path / "plain.mp4", 5, 5)
    wide = tmp_path / "wide.mp4"
    convert(pattern(size="64x32", rate=5, duration=1).output(str(wide), pix_fmt="yuv420p"))
    turned = tmp_path / "turned.mp4"
    convert(ffmpeg.input(str(wide), display_rotation=90).output(str(turned), c="copy"))

    def size(path: Path) -> list[tuple[int, int]]:
        return sample_frames(path, sampling(), lambda image: image.size).pictures

    assert (size(wide), size(turned)) == ([(64, 32)], [(32, 64)])
    hdr = tmp_path / "hdr.mp4"
    tags = {"color_trc": "smpte2084", "color_primaries": "bt2020", "colorspace": "bt2020nc"}
    tagged = pattern(size="64x32", rate=5, duration=1).filter("setparams", **tags)
    convert(tagged.output(str(hdr), pix_fmt="yuv420p10le", vcodec="libx264", **tags))
    assert sample_frames(hdr, sampling(), frame_number).hdr == "smpte2084"
    assert sample_frames(source, sampling(), frame_number).hdr == ""
    odd = tmp_path / "odd.mp4"
    convert(pattern(size="65x33", rate=5, duration=1).output(str(odd), pix_fmt="yuv444p"))
    assert size(odd) == [(65, 33)]
    several = tmp_path / "several.mkv"
    convert(ffmpeg.output(ffmpeg.input(str(source)).video, ffmpeg.input(str(wide)).video, str(several), c="copy"))
    assert size(several) == [(64, 32)]
    large = tmp_path / "large.mp4"
    convert(pattern(size="7680x4320", rate=1, duration=1).output(str(large), pix_fmt="yuv420p", preset="ultrafast"))
    assert size(large) == [(7680, 4320)]


HOSTILE = {
    "playlist of a file": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nfile://{other}\n#EXT-X-ENDLIST\n",
    "playlist of the network": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\n{url}/a.ts\n#EXT-X-ENDLIST\n",
    "playlist of playlists": "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{url}/a.m3u8\n",
    "playlist with a key": '#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-KEY:METHOD=AES-128,URI="{url}/key"\n#EXTINF:2,\n{other}\n',
    "concat protocol": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nconcat:{other}|{canary}\n#EXT-X-ENDLIST\n",
    "data URI": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\ndata:video/mp4;base64,AAAA\n#EXT-X-ENDLIST\n",
    "canary": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2,\nfile://{canary}\n#EXT-X-ENDLIST\n",
    "list of files": "ffconcat version 1.0\nfile '{other}'\n",
    "list of addresses": "ffconcat version 1.0\nfile '{url}/a.mp4'\n",
    "DASH": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT2S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}/a.mp4</BaseURL></Representation>'
    "</AdaptationSet></Period></MPD>",
    "session": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "metadata": ";FFMETADATA1\ntitle={other}\n",
    "RTSP description": "[Reference]\nRef1={url}/a.asf\n",
}


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".mkv"])
def test_nothing_but_the_file_given_is_read(tmp_path: Path, suffix: str, sampling: MakeSampling) -> None:
    """Files that point elsewhere, a listener that must not be called, and names that are patterns or protocols elsewhere."""
    other = numbered_video(tmp_path / "other.mp4", 5, 5)
    canary = tmp_path / "canary.txt"
    canary.write_text("secret words")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        for name, text in HOSTILE.items():
            path = tmp_path / f"hostile{suffix}"
            path.write_text(text.format(other=other, canary=canary, port=port, url=f"http://127.0.0.1:{port}"))
            with pytest.raises(DecodeFailed) as failure:
                sample_frames(path, sampling(time_limit_s=20), frame_number)
            assert "secret" not in str(failure.value), name
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize("name", ["pattern%03d.png", "concat:other.mp4", "http:", "*.mp4", "pipe:0"])
def test_names_that_mean_more_elsewhere_are_names(tmp_path: Path, name: str, sampling: MakeSampling) -> None:
    numbered_video(tmp_path / "other.mp4", 5, 5)
    for i in range(3):
        Image.new("RGB", (64, 64), "red").save(tmp_path / f"pattern{i:03}.png")
    with pytest.raises(DecodeFailed, match="not a regular file"):
        sample_frames(tmp_path / name, sampling(), frame_number)
    (tmp_path / name).write_text("no video")
    with pytest.raises(DecodeFailed, match="no video, but text"):
        sample_frames(tmp_path / name, sampling(), frame_number)


def test_a_decoder_that_hangs_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered_video(tmp_path / "v.mp4", 5, 5)
    program, child = hanging_decoder(tmp_path)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(program))
    with pytest.raises(DecodeFailed, match=r"not done after 0.5 s \(--time-limit\)"):
        sample_frames(path, Sampling(time_limit_s=0.5), frame_number)
    wait_until(lambda: not is_alive(int(child.read_text())), "the end of its child", 10)
