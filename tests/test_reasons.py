"""Files that give no frames, and the true reason in one line, in failures.csv and for people."""

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import pytest
from PIL import Image

import extract
from extract import ExtractOptions
from extract.decode.reasons import is_encrypted
from extract.decode.sample import DecodeFailed, sample_frames
from extract.failures import read_failures
from tests.conftest import DEMO_CLIP
from tests.decoding import MakeSampling
from tests.videos import SIDE, convert, frame_number, numbered_video, pattern

KEY = "76a6c65c5ea762046bd749a2e632ccbb"
ENCRYPTION = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": KEY, "encryption_kid": KEY}


def video(path: Path, **settings: Any) -> bytes:
    """The bytes of a file of 2 seconds."""
    # An even side, of several macroblocks.
    source = pattern(size="64x48", rate=10, duration=2)
    convert(source.output(f"file:{path}", **({"pix_fmt": "yuv420p"} | settings)))
    return path.read_bytes()


def scrambled(content: bytes, packet: int) -> bytes:
    """A transport stream whose video packets are scrambled, in packets of 188 or, with a time before each, 192 bytes."""
    noise = np.random.default_rng(0)
    made = bytearray()
    for place in range(0, len(content), 188):
        one = bytearray(content[place : place + 188])
        if (one[1] & 0x1F) << 8 | one[2] == 0x100:
            one[3] |= 0x80
            start = 5 + one[4] if one[3] & 0x20 else 4
            one[start:] = noise.bytes(188 - start)
        made += bytes(packet - 188) + one
    return bytes(made)


def picture(kind: str) -> bytes:
    content = io.BytesIO()
    Image.effect_noise((64, 48), 50).convert("RGB").save(content, kind)
    return content.getvalue()


def archive() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("video.mp4", b"a" * 1000)
    return content.getvalue()


def tar() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as file:
        file.addfile(tarfile.TarInfo("video.mp4"))
    return content.getvalue()


def unfinished(path: Path) -> bytes:
    whole = video(path)
    return whole[: len(whole) // 2]


def tune(path: Path, suffix: str) -> bytes:
    file = path.with_suffix(suffix)
    convert(ffmpeg.input("sine=d=1", f="lavfi").output(f"file:{file}"))
    return file.read_bytes()


Make = Callable[[Path], bytes]

KINDS: dict[str, tuple[Make, str]] = {
    "encrypted H.264": (lambda path: video(path, **ENCRYPTION), "encrypted (DRM)"),
    "encrypted HEVC": (lambda path: video(path, vcodec="libx265", **ENCRYPTION), "encrypted (DRM)"),
    "encrypted MPEG-4": (lambda path: video(path, vcodec="mpeg4", **ENCRYPTION), "encrypted (DRM)"),
    "encrypted VP9 with its index first": (
        lambda path: video(path, vcodec="libvpx-vp9", movflags="faststart", **ENCRYPTION),
        "encrypted (DRM)",
    ),
    "encrypted in fragments": (lambda path: video(path, movflags="frag_keyframe+empty_moov", **ENCRYPTION), "encrypted (DRM)"),
    "scrambled television": (lambda path: scrambled(video(path.with_suffix(".ts")), 188), "encrypted (scrambled"),
    "scrambled on a disc": (lambda path: scrambled(video(path.with_suffix(".ts")), 192), "encrypted (scrambled"),
    "YUV4MPEG": (lambda path: video(path.with_suffix(".y4m"), format="yuv4mpegpipe"), "the container YUV4MPEG is not supported"),
    "NUT": (lambda path: video(path.with_suffix(".nut")), "the container NUT is not supported"),
    "IVF": (lambda path: video(path.with_suffix(".ivf"), vcodec="libvpx"), "the container IVF is not supported"),
    "raw H.264": (lambda path: video(path.with_suffix(".h264")), "the container raw H.264 or HEVC is not supported"),
    "raw HEVC": (lambda path: video(path.with_suffix(".hevc")), "the container raw H.264 or HEVC is not supported"),
    "Flash": (lambda path: video(path.with_suffix(".swf"), vcodec="flv"), "the container Flash (SWF) is not supported"),
    "a container without a name here": (
        lambda path: video(path.with_suffix(".gxf"), vcodec="mpeg2video", s="720x576", r=25),
        "its container is",
    ),
    "an unknown codec": (lambda path: video(path).replace(b"avc1", b"zzz1"), "no decoder for the codec zzz1"),
    "a codec of a camera maker": (lambda path: video(path).replace(b"avc1", b"brxq"), "no decoder for the codec brxq"),
    "sound alone": (lambda path: tune(path, ".m4a"), "no video, only sound"),
    "MP3": (lambda path: tune(path, ".mp3"), "no video, but an MP3 sound file"),
    "WAV": (lambda path: tune(path, ".wav"), "no video, but a WAV sound file"),
    "FLAC": (lambda path: tune(path, ".flac"), "no video, but a FLAC sound file"),
    "JPEG": (lambda _: picture("jpeg"), "no video, but a JPEG picture"),
    "PNG": (lambda _: picture("png"), "no video, but a PNG picture"),
    "WebP": (lambda _: picture("webp"), "no video, but a WebP picture"),
    "BMP": (lambda _: picture("bmp"), "no video, but a BMP picture"),
    "TIFF": (lambda _: picture("tiff"), "no video, but a TIFF picture"),
    "PDF": (lambda _: picture("pdf"), "no video, but a PDF document"),
    "ZIP": (lambda _: archive(), "no video, but a ZIP archive"),
    "tar": (lambda _: tar(), "no video, but a gzip archive"),
    "HTML": (lambda _: b"\r\n<!DOCTYPE html>\n<html><body>404</body></html>", "no video, but an HTML page"),
    "an XML error": (lambda _: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "no video, but an XML file"),
    "a JSON error": (lambda _: b'{"error": "gone"}', "no video, but a JSON file"),
    "a playlist": (lambda _: b"#EXTM3U\n#EXTINF:2,\nother.mp4\n#EXT-X-ENDLIST\n", "no video, but a playlist"),
    "a pointer": (lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n", "no video, but a pointer of Git LFS"),
    "words": (lambda _: "kein Vidéo\n".encode() * 9000, "no video, but text"),
    "zeros": (lambda _: bytes(100_000), "no video, but only zeros"),
    "noise": (lambda _: np.random.default_rng(0).bytes(50_000), "no video in a supported container"),
    "a download that goes on": (unfinished, "incomplete: the index (moov) is missing"),
    "a download with its place reserved": (lambda path: unfinished(path) + bytes(2000), "incomplete: the index (moov) is missing"),
    "nothing": (lambda _: b"", "the file is empty"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_reason_is_the_true_one(tmp_path: Path, kind: str, sampling: MakeSampling) -> None:
    make, expected = KINDS[kind]
    path = tmp_path / "v.mp4"
    path.write_bytes(make(path))
    with pytest.raises(DecodeFailed) as failure:
        sample_frames(path, sampling(), frame_number)
    assert failure.value.reason.startswith(expected)
    said = str(failure.value)
    assert "\n" not in said
    assert "Invalid argument" not in said
    assert "error code" not in said


def test_the_sound_alone_may_be_encrypted(tmp_path: Path, sampling: MakeSampling) -> None:
    """A video track that is not encrypted is decoded, whatever another track is."""
    numbered, both = numbered_video(tmp_path / "plain.mp4", 10, 5), tmp_path / "both.mp4"
    convert(
        ffmpeg.output(
            ffmpeg.input(str(numbered)), ffmpeg.input("sine=d=2", f="lavfi"), str(both), vcodec="copy", acodec="aac", **ENCRYPTION
        )
    )
    content = both.read_bytes()
    assert is_encrypted(both)
    assert content.count(b"encv") == content.count(b"enca") == 1
    both.write_bytes(content.replace(b"encv", b"avc1"))
    assert not is_encrypted(both)
    assert sample_frames(numbered, sampling(), lambda image: image.size).pictures == [(SIDE, SIDE)] * 2


def test_any_bytes_are_looked_through(tmp_path: Path) -> None:
    """Lengths of boxes that make no sense end the search."""
    path = tmp_path / "v.mp4"
    whole = video(path, **ENCRYPTION)
    noise = np.random.default_rng(0)
    for _ in range(300):
        content = bytearray(whole)
        for place in noise.integers(0, len(whole), 20):
            content[place] = noise.integers(256)
        path.write_bytes(content[: noise.integers(1, len(whole))])
        is_encrypted(path)
    path.write_bytes(b"\0\0\0\x01moov" + (2**63).to_bytes(8) + b"\0\0\0\0trak")
    assert not is_encrypted(path)


@pytest.mark.parametrize("changes", [{}, {"segment": 8.0}, {"max_frames": "all"}])
def test_every_run_lists_it(tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "videos").mkdir()
    expected = {}
    for kind in ("encrypted H.264", "YUV4MPEG", "HTML", "a codec of a camera maker"):
        make, reason = KINDS[kind]
        path = tmp_path / "videos" / f"{kind}.mp4"
        path.write_bytes(make(path))
        expected[path.name] = reason
    for path in (tmp_path / "videos").glob("*.y4m"):
        path.unlink()
    options = ExtractOptions(
        videos=tmp_path / "videos", cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True, json=True, **changes
    )
    extract.main(options)
    said = capsys.readouterr()
    assert json.loads(said.out)["videos_failed"] == 4
    failures = read_failures(options.cache)
    assert failures.keys() == expected.keys()
    for name, reason in expected.items():
        assert failures[name].reason.startswith(reason)
        assert f"failed: {tmp_path / 'videos' / name}: {reason}" in said.err
    extract.main(replace(options, dry_run=True, cache=tmp_path / "other"))
    said = capsys.readouterr()
    for name, reason in expected.items():
        assert f"failed: {tmp_path / 'videos' / name}: {reason}" in said.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    path = numbered_video(tmp_path / "videos" / "v.mp4", 5, 5)
    path.chmod(0)
    extract.main(ExtractOptions(videos=path.parent, cache=tmp_path / "cache", model=DEMO_CLIP, device="cpu", quiet=True))
    assert read_failures(tmp_path / "cache")["v.mp4"].reason == "the file cannot be read: Permission denied"
