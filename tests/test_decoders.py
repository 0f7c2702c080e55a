"""The other ways to decode: PyAV in processes of its own, and CUDA. tests/test_decode.py runs over PyAV too."""

import importlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import ffmpeg
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import extract
from data.base.errors import UserError
from data.cache import FeatureCache
from extract import ExtractOptions
from extract.decode.decoders import AUTO_VIDEOS, check_decoder, pyav_for
from extract.decode.frames import CUDA_FAILURES, Cuda
from extract.decode.pyav import WORKER, PyavProcesses
from extract.decode.sample import DecodeFailed, Sampled, Sampling, sample_frames
from extract.ffmpeg.run import Processes
from tests.choice import long_but
from tests.processes import is_alive
from tests.videos import convert, frame_number, numbered_video, pattern
from tests.waiting import wait_until

BUDGET = 10**9


@pytest.fixture
def pyav() -> Iterator[PyavProcesses]:
    """One that no other test has used: some look at what it starts."""
    pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    processes = PyavProcesses(Processes())
    yield processes
    processes.close()


def pixels(image: Image.Image) -> NDArray[np.int16]:
    return np.asarray(image).astype(np.int16)


def workers() -> list[int]:
    """The processes of PyAV that this one has started."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return [int(child) for child in children if WORKER.name in Path(f"/proc/{child}/cmdline").read_text()]


def assert_same(found: Sampled[NDArray[np.int16]], expected: Sampled[NDArray[np.int16]], bound: int) -> None:
    assert (found.seconds, found.hdr, found.expected) == (expected.seconds, expected.hdr, expected.expected)
    assert len(found.pictures) == len(expected.pictures)
    assert max(int(abs(one - other).max()) for one, other in zip(found.pictures, expected.pictures, strict=True)) <= bound


@pytest.mark.parametrize("max_frames", [None, 4])
def test_pyav_gives_the_pixels_of_ffmpeg(shared_videos: Path, pyav: PyavProcesses, max_frames: int | None) -> None:
    """To the last bit, so the decoder is no part of what the features are."""
    decoders = {}
    for path in sorted(shared_videos.glob("*.m*[4v]")):
        found = sample_frames(path, Sampling(max_frames=max_frames, pyav=pyav), pixels)
        assert_same(found, sample_frames(path, Sampling(max_frames=max_frames), pixels), bound=0)
        decoders[path.name] = found.decoder
    # Two are of 10 bits, one is HEVC of 8, and one holds two video streams.
    left_to_ffmpeg = {"h264_10bits.mp4", "h265_10bits.mp4", "h265_video.mp4", "nasa_13013.mp4"}
    assert {name for name, decoder in decoders.items() if decoder == "cpu"} == left_to_ffmpeg
    assert set(decoders.values()) == {"cpu", "pyav"}


H264 = {"vcodec": "libx264", "pix_fmt": "yuv420p"}
ENCODED: dict[str, dict[str, Any]] = {
    "plain.mp4": H264,
    "full range.mp4": H264 | {"pix_fmt": "yuvj420p", "color_range": "pc"},
    "bt709.mp4": H264 | {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"},
    "open groups.mp4": H264 | {"x264-params": "open-gop=1:keyint=20:bframes=6:b-pyramid=normal"},
    "short groups.mp4": H264 | {"x264-params": "keyint=13:min-keyint=1:bframes=5:b-pyramid=normal"},
    "parameters in the stream.mp4": H264 | {"x264-params": "keyint=13:repeat-headers=1"},
    "no key frames.mp4": H264 | {"x264-params": "intra-refresh=1:keyint=30"},
    "fragments.mp4": H264 | {"movflags": "frag_keyframe+empty_moov"},
    "h264.mkv": H264,
    "vp9.webm": {"vcodec": "libvpx-vp9", "pix_fmt": "yuv420p", "cpu-used": 8},
}


@pytest.mark.parametrize("name", long_but([*ENCODED][::3], ENCODED))
def test_skipping_frames_changes_none_of_the_others(tmp_path: Path, pyav: PyavProcesses, name: str) -> None:
    """Frames predicted from both sides, from other groups, from parts of frames; lines that end in padding."""
    path = tmp_path / name
    convert(pattern(size="130x98", rate="30000/1001", duration=4.3).output(str(path), **ENCODED[name]))
    for fps in (0.7, 1.0, 7.0):
        found = sample_frames(path, Sampling(fps, pyav=pyav), pixels)
        assert found.decoder == "pyav"
        assert_same(found, sample_frames(path, Sampling(fps), pixels), bound=0)


LEFT: dict[str, dict[str, Any]] = {
    "two fields.mp4": H264 | {"x264-params": "tff=1:keyint=20"},
    "hevc.mp4": {"vcodec": "libx265", "pix_fmt": "yuv420p", "x265-params": "log-level=none"},
}


@pytest.mark.parametrize("name", LEFT)
@pytest.mark.parametrize("kind", ["stored", "display"])
def test_streams_whose_pixels_may_differ_are_left_to_ffmpeg(
    tmp_path: Path, pyav: PyavProcesses, name: str, kind: Literal["stored", "display"]
) -> None:
    """The colours of two fields have rows of their own; damage in HEVC is not always told."""
    path = tmp_path / name
    convert(pattern(size="128x96", rate=25, duration=2).output(str(path), **LEFT[name]))
    assert sample_frames(path, Sampling(pyav=pyav, pictures=kind), frame_number).decoder == "cpu"


def test_times_in_the_order_of_decoding_are_left_to_ffmpeg(tmp_path: Path, pyav: PyavProcesses) -> None:
    """Frames predicted from both sides, whose times the muxer has made up."""
    whole, path = tmp_path / "whole.mp4", tmp_path / "times.mkv"
    convert(pattern(size="64x64", rate=25, duration=4).output(str(whole), bf=3, **H264))
    convert(ffmpeg.input(str(whole)).output(str(path), c="copy", **{"bsf:v": "setts=duration=1"}))
    assert sample_frames(path, Sampling(7.0, pyav=pyav), frame_number).decoder == "cpu"


def test_a_frame_before_a_change_of_range_has_its_own(tmp_path: Path, pyav: PyavProcesses) -> None:
    """It waits in the decoder when the new parameters arrive, and the frames behind it are not decoded."""
    both, path = tmp_path / "both.ts", tmp_path / "change.mkv"
    for colours in ({"pix_fmt": "yuvj420p", "color_range": "pc"}, {"colorspace": "bt709"}):
        # A transport stream repeats the parameters in front of every key frame, and can be continued with another.
        part = tmp_path / "part.ts"
        convert(pattern(size="160x120", rate=25, duration=3).output(str(part), **H264 | colours | {"x264-params": "keyint=20"}))
        with both.open("ab") as file:
            file.write(part.read_bytes())
    convert(ffmpeg.input(str(both)).output(str(path), c="copy"))
    for fps in (0.7, 4.0):
        found = sample_frames(path, Sampling(fps, 7, pyav=pyav), pixels)
        assert found.decoder == "pyav"
        assert_same(found, sample_frames(path, Sampling(fps, 7), pixels), bound=0)


def test_packets_that_nothing_wanted_depends_on_are_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of groups of 13 frames, those behind the wanted one; all of them where a packet among them says more than a slice."""
    av = pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    monkeypatch.syspath_prepend(WORKER.parent)
    worker = importlib.import_module(WORKER.stem)
    rule = {"fps": "1", "display": False, "late": 1, "longest_still": 600}
    kept = {}
    for name, told in (("plain", ""), ("told", ":aud=1:nal-hrd=vbr:vbv-maxrate=500:vbv-bufsize=500"), ("open", ":open-gop=1:bframes=3")):
        path = tmp_path / f"{name}.mp4"
        settings = {"x264-params": f"keyint=13:min-keyint=13:scenecut=0:bframes=0{told}"}
        convert(pattern(size="64x64", rate=26, duration=4).output(str(path), **H264 | settings))
        with av.open(str(path)) as container:
            video = worker.Video(container, rule)
            # Frames 0, 52 and 79 of 104, of which every 13th begins afresh.
            wanted = [packet.pts for packet in (video.packets[i] for i in (0, 52, 79))]
            order = {packet.pts: i for i, packet in enumerate(video.packets)}
            kept[name] = [order[packet.pts] for packet in worker.needed(video.packets, wanted, video.context)]
    assert kept["plain"] == [0, 52, 78, 79]
    assert kept["told"] == [*range(80)]
    assert kept["open"][-1] == 79


def test_a_copy_that_begins_between_key_frames_gives_the_same(tmp_path: Path, pyav: PyavProcesses) -> None:
    whole, path = tmp_path / "whole.mp4", tmp_path / "copy.mp4"
    convert(pattern(size="64x64", rate=25, duration=5).output(str(whole), g=50, **H264))
    convert(ffmpeg.input(str(whole), ss=1.3).output(str(path), c="copy"))
    assert_same(sample_frames(path, Sampling(pyav=pyav), pixels), sample_frames(path, Sampling(), pixels), bound=0)


def test_damaged_files_end_as_with_ffmpeg(tmp_path: Path, pyav: PyavProcesses, capfd: pytest.CaptureFixture[str]) -> None:
    """The same frames, or the same failure, and no words but the failure's. Of every group of 13 frames, PyAV decodes only the first ones:
    where a damaged key frame borrows from the frame before, that is not the frame that ffmpeg has."""
    whole, path = tmp_path / "whole.mp4", tmp_path / "damaged.mp4"
    convert(pattern(size="130x98", rate=25, duration=4).output(str(whole), g=13, **H264))
    rng = np.random.default_rng(1)

    def outcome(sampling: Sampling) -> Sampled[bytes] | str:
        try:
            return replace(sample_frames(path, sampling, Image.Image.tobytes), decoder="any")
        except DecodeFailed as error:
            return str(error)

    for flips in [1, 3, 20] * 5:
        content = np.fromfile(whole, np.uint8)
        content[rng.integers(len(content), size=flips)] ^= np.uint8(1) << rng.integers(8, size=flips, dtype=np.uint8)
        content.tofile(path)
        assert outcome(Sampling(pyav=pyav)) == outcome(Sampling())
    assert capfd.readouterr() == ("", "")


def test_a_worker_that_hangs_is_killed_with_its_children(tmp_path: Path, pyav: PyavProcesses, monkeypatch: pytest.MonkeyPatch) -> None:
    path = numbered_video(tmp_path / "v.mp4", 5, 5)
    program, child = tmp_path / "worker.py", tmp_path / "child"
    lines = [
        "import pathlib, subprocess",
        "p = subprocess.Popen(['sleep', '1000'])",
        f"pathlib.Path({str(child)!r}).write_text(str(p.pid))",
    ]
    program.write_text("\n".join([*lines, "p.wait()"]))
    monkeypatch.setattr("extract.decode.pyav.WORKER", program)
    with pytest.raises(DecodeFailed, match=r"not done after 3 s \(--time-limit\)"):
        sample_frames(path, Sampling(time_limit_s=3, pyav=pyav), frame_number)
    wait_until(lambda: not is_alive(int(child.read_text())), "the end of its child", 10)


@pytest.mark.parametrize("max_frames", [None, 5])
def test_where_a_worker_dies_ffmpeg_goes_on(tmp_path: Path, pyav: PyavProcesses, max_frames: int | None) -> None:
    """Without a limit each frame is handed over once, whoever decoded it."""
    path = tmp_path / "v.mp4"
    convert(pattern(size="640x480", rate=5, duration=20).output(str(path), g=5, **H264))
    expected = sample_frames(path, Sampling(max_frames=max_frames), pixels)
    seen = []

    def take(image: Image.Image) -> NDArray[np.int16]:
        seen.append(image)
        if len(seen) == 2:
            for worker in workers():
                os.killpg(worker, signal.SIGKILL)
        return pixels(image)

    found = sample_frames(path, Sampling(max_frames=max_frames, pyav=pyav), take)
    assert found.decoder == "cpu"
    assert_same(found, expected, bound=0)
    if max_frames is None:
        assert len(seen) == 20
    assert sample_frames(path, Sampling(pyav=pyav), frame_number).decoder == "pyav"


def test_a_worker_ends_with_what_started_it() -> None:
    pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    program = f"import subprocess, sys, os\np = subprocess.Popen([sys.executable, '-P', {str(WORKER)!r}], stdin=subprocess.PIPE)\n"
    program += "print(p.pid, flush=True)\nos.kill(os.getpid(), 9)"
    worker = int(subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False).stdout)
    wait_until(lambda: not is_alive(worker), "the end of the worker", 20)


def test_the_stage_records_what_decoded_each_video(own_cache_options: ExtractOptions, cache_path: Path) -> None:
    """The same features by PyAV, into a cache of the same settings."""
    pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    cache, other = FeatureCache(extract.main(replace(own_cache_options, decoder="pyav"))), FeatureCache(cache_path)
    names = cache.names("videos")
    assert {cache.decoder(name) for name in names} == {"pyav"}
    assert {other.decoder(name) for name in names} == {"cpu"}
    assert cache.settings == other.settings
    found, expected = (one.videos(names, BUDGET).frames for one in (cache, other))
    for i in range(len(names)):
        np.testing.assert_array_equal(found.gather([i])[0], expected.gather([i])[0])


def test_a_decoder_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ExtractOptions(tmp_path, tmp_path / "cache", decoder="pyav")
    with pytest.raises(UserError, match="leave one of them out"):
        check_decoder(replace(options, decode_device="cuda"))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"pip install -r requirements-pyav\.txt"):
        extract.main(options)


def test_auto_is_pyav_for_many_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And only where it gives the pixels of ffmpeg, which a worker that ends at once does not."""
    pytest.importorskip("av", reason="PyAV is not installed: requirements-pyav.txt")
    options = ExtractOptions(tmp_path, tmp_path / "cache", decode_device="cpu")
    chosen = pyav_for(options, AUTO_VIDEOS, Processes())
    assert chosen is not None
    chosen.close()
    for other, videos in (
        (options, AUTO_VIDEOS - 1),
        (replace(options, decoder="ffmpeg"), AUTO_VIDEOS),
        (replace(options, decode_device="cuda"), AUTO_VIDEOS),
    ):
        assert pyav_for(other, videos, Processes()) is None
    assert capsys.readouterr() == ("", "")
    (tmp_path / "worker.py").write_text("")
    monkeypatch.setattr("extract.decode.pyav.WORKER", tmp_path / "worker.py")
    assert pyav_for(options, AUTO_VIDEOS, Processes()) is None
    said = "PyAV is left out on this machine (it does not give the pixels of ffmpeg): ffmpeg decodes all videos\n"
    assert capsys.readouterr() == ("", said)
    (tmp_path / "av.py").write_text("raise ImportError('libavcodec is too old')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert pyav_for(options, AUTO_VIDEOS, Processes()) is None
    said = "PyAV is left out on this machine (it cannot be imported: ImportError: libavcodec is too old): ffmpeg decodes all videos\n"
    assert capsys.readouterr() == ("", said)
    monkeypatch.setitem(sys.modules, "av", None)
    assert pyav_for(options, AUTO_VIDEOS, Processes()) is None
    assert capsys.readouterr() == ("", "")


def cuda_is_missing(tmp_path: Path) -> str:
    """What `--decode-device cuda` says here, empty where it works."""
    try:
        check_decoder(ExtractOptions(tmp_path, tmp_path / "cache", decode_device="cuda"))
    except UserError as error:
        return str(error)
    return ""


def test_cuda_that_does_not_work_is_refused_in_ffmpegs_words(tmp_path: Path) -> None:
    said = cuda_is_missing(tmp_path)
    if not said:
        pytest.skip("ffmpeg decodes on a GPU here")
    assert said.startswith("--decode-device cuda: ffmpeg cannot decode on a GPU here (")
    assert "device" in said.split("(")[1].lower()
    assert said.endswith("use --decode-device cpu")


def test_what_the_gpu_cannot_decode_the_cpu_does(tmp_path: Path) -> None:
    """Each video is tried once more; after several in a row the GPU is left alone."""
    if not cuda_is_missing(tmp_path):
        pytest.skip("ffmpeg decodes on a GPU here")
    path = numbered_video(tmp_path / "v.mp4", 15, 5)
    cuda = Cuda()
    for i in range(CUDA_FAILURES):
        assert cuda.works, i
        sampled = sample_frames(path, Sampling(cuda=cuda), frame_number)
        assert (sampled.pictures, sampled.decoder) == ([0, 5, 10], "cpu")
    assert not cuda.works


def test_cuda_gives_about_the_pixels_of_the_cpu(shared_videos: Path, tmp_path: Path) -> None:
    """Within 1 of 255 after the size that CLIP sees. Not run so far, so CUDA is part of the features' identity."""
    if missing := cuda_is_missing(tmp_path):
        pytest.skip(missing)

    def seen(image: Image.Image) -> NDArray[np.int16]:
        return pixels(image.resize((224, 224), Image.Resampling.BICUBIC))

    for name in ("bikes.mp4", "bigbuckbunny.mp4"):
        found = sample_frames(shared_videos / name, Sampling(cuda=Cuda()), seen)
        assert found.decoder == "cuda"
        assert_same(found, sample_frames(shared_videos / name, Sampling(), seen), bound=1)
