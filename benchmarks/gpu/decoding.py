"""Measures decoding on the device (`--decode-device cuda`) against the CPU: speed, and differences of the pixels.

Shape suffixes: C colour channels, H and W sides of pictures.
"""

import importlib.util
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ffmpeg
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.extraction import ROOT
from benchmarks.gpu.extraction import make_clips
from benchmarks.gpu.place import Outcome, Place
from data.span import WHOLE_FILE
from extract.decode.by_ffmpeg import by_ffmpeg
from extract.decode.frames import TIME_LIMIT_S, Cuda, DecodeFailed, Sampled, Sampling
from extract.decode.pyav import PyavProcesses
from extract.decode.sample import sample_frames
from extract.ffmpeg.run import SOURCE, TARGET, FfmpegFailed, Processes, run_ffmpeg

REAL_VIDEOS = ROOT.parent / "shared" / "videos"
"""Real files, which are compared too where this folder exists."""
CLIP_S, CLIP_SMALL_S = 20, 2
SIZE, SIZE_SMALL = "1280x720", "64x48"
"""Pictures of the clips that are enlarged."""
REPEATS = 2
"""Decodings of a clip, of which the fastest counts."""
AT_ONCE, AT_ONCE_SMALL = 32, 2
THREADS = 4
"""Decoders that share AT_ONCE decodings of one clip."""

Pictures = Sampled[Image.Image]
Decode = Callable[[Path], Pictures]
Row = dict[str, float]
MOST_APART = 2.0
"""Mean difference of a value, of 255, that the conversion of colours explains: chroma is scaled in another way, and rounded."""
MEAN = "mean difference of a value, of 255"


@dataclass(frozen=True)
class Encoding:
    """How a clip is encoded: ffmpeg's encoder and pixel format."""

    name: str
    encoder: str
    pixels: str


ENCODINGS = (
    Encoding("H.264, 8 bits", "libx264", "yuv420p"),
    Encoding("HEVC, 8 bits", "libx265", "yuv420p"),
    Encoding("HEVC, 10 bits", "libx265", "yuv420p10le"),
)


def cuda_decoding(place: Place) -> Outcome:
    """Frames a second of decoding on the device and on the CPU, and how their pixels differ, from 0 to 255, at 1 frame a second.

    The clips are made here: 320 x 240 in H.264, and 1280 x 720 in H.264 with 8 bits and in HEVC with 8 and 10 bits; also the files of
    ../shared/videos, if that folder exists. Both sides decode one clip at a time, and the first clip in four threads at once. A clip that
    the device does not decode is a remark, with ffmpeg's words: extraction then decodes it on the CPU. Without a CUDA device, PyAV takes
    its place.
    """
    remarks: list[str] = []
    unconfirmed: list[str] = []
    figures: dict[str, Row] = {}
    holds: dict[str, bool] = {}
    if place.device.type != "cuda" and importlib.util.find_spec("av") is None:
        return Outcome({}, unconfirmed=["neither a CUDA device nor PyAV is here to compare with"])
    clips, left_out = make_all(place)
    remarks += left_out
    if REAL_VIDEOS.is_dir() and not place.small:
        clips |= {path.name: path for path in sorted(REAL_VIDEOS.iterdir()) if path.suffix in (".mp4", ".mkv")}
    side = "CUDA" if place.device.type == "cuda" else "PyAV"
    with other_decoder(place) as decode:
        for name, path in clips.items():
            try:
                figures[name] = compare(side, decode, path)
            except DecodeFailed as error:
                remarks.append(f"{name}: {side} does not decode it: {error}")
                unconfirmed.append(f"{name}: {side} does not decode it")
            else:
                holds[f"{name}: {side} gives as many frames as the CPU, at the same times"] = (
                    figures[name]["frames"] == figures[name][f"frames, {side}"] == figures[name]["frames compared"]
                )
                holds[f"{name}: pixels differ by {MOST_APART:g} of 255 on average at most"] = alike(figures[name])
        if not figures:
            unconfirmed = [f"{side} decodes nothing here: extraction decodes on the CPU"]
        first = next(iter(clips))
        if first in figures:
            many = [clips[first]] * (AT_ONCE_SMALL if place.small else AT_ONCE)
            figures[f"{first}, {THREADS} at once"] = rates(side, partial(all_at_once, decode, many), partial(all_at_once, on_cpu, many))
    return Outcome(figures, holds, remarks, unconfirmed)


@contextmanager
def other_decoder(place: Place) -> Iterator[Decode]:
    """ffmpeg on the device; PyAV on a CPU. It raises DecodeFailed where extraction would go on with ffmpeg on the CPU."""
    if place.device.type == "cuda":
        yield on_device
        return
    processes = PyavProcesses(Processes())

    def by_pyav(path: Path) -> Pictures:
        sampled = sample_frames(path, Sampling(pyav=processes), lambda image: image)
        if sampled.decoder != "pyav":
            raise DecodeFailed("PyAV leaves it to ffmpeg")
        return sampled

    try:
        yield by_pyav
    finally:
        processes.close()


def on_device(path: Path) -> Pictures:
    """The frames as ffmpeg decodes them on the device. Raises DecodeFailed if it cannot: extraction would then try the CPU."""
    return by_ffmpeg(path, WHOLE_FILE, Sampling(cuda=Cuda()), itertools.repeat(lambda image: image), time.monotonic() + TIME_LIMIT_S)


def on_cpu(path: Path) -> Pictures:
    """The frames as ffmpeg decodes them on the CPU."""
    return sample_frames(path, Sampling(), lambda image: image)


def all_at_once(decode: Decode, paths: list[Path]) -> int:
    """Decode these files in THREADS threads, and return the number of frames."""
    with ThreadPoolExecutor(THREADS) as pool:
        return sum(len(sampled.pictures) for sampled in pool.map(decode, paths))


def compare(side: str, decode: Decode, path: Path) -> Row:
    """Speed of both sides and differences between their frames. Raises DecodeFailed if `decode` does."""
    ours, reference = decode(path), on_cpu(path)
    row = rates(side, lambda: len(decode(path).pictures), lambda: len(on_cpu(path).pictures))
    row |= {"frames": len(reference.pictures), f"frames, {side}": len(ours.pictures)}
    return row | differences(ours, reference)


def rates(side: str, decode: Callable[[], int], reference: Callable[[], int]) -> Row:
    """Sampled frames a second of both sides, which give the number of frames that they decode."""
    seconds: dict[str, list[float]] = {side: [], "CPU": []}
    frames: dict[str, int] = {}
    for _ in range(REPEATS):
        for name, run in ((side, decode), ("CPU", reference)):
            start = time.perf_counter()
            frames[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return {f"{name}, frames a second": frames[name] / min(taken) for name, taken in seconds.items()}


def differences(ours: Pictures, reference: Pictures) -> Row:
    """How the pixels of the frames that both have at the same time differ: mean and maximum of 255, and the PSNR of the worst frame.

    A PSNR of frames that are equal would be infinite, and is left out.
    """
    other = dict(zip(reference.seconds, reference.pictures, strict=True))
    pairs = [(picture, other[at]) for at, picture in zip(ours.seconds, ours.pictures, strict=True) if at in other]
    apart = [apart_in_values(*pair) for pair in pairs]
    if not apart:
        return {"frames compared": 0}
    squares = [float(np.square(one).mean()) for one in apart]
    row: Row = {
        "frames compared": len(pairs),
        MEAN: float(np.mean([one.mean() for one in apart])),
        "largest difference of a value, of 255": float(max(one.max() for one in apart)),
    }
    return row | {"PSNR of the worst frame, dB": 10 * float(np.log10(255**2 / max(squares)))} if max(squares) else row


def alike(row: Row) -> bool:
    """Whether frames were compared and their values are close on average."""
    return row.get(MEAN, float("inf")) <= MOST_APART


def apart_in_values(one: Image.Image, other: Image.Image) -> NDArray[np.float32]:
    """Absolute differences of the values [H, W, C]."""
    first_HWC, second_HWC = (np.asarray(picture.convert("RGB"), dtype=np.float32) for picture in (one, other))
    apart_HWC: NDArray[np.float32] = np.abs(first_HWC - second_HWC)
    return apart_HWC


def make_all(place: Place) -> tuple[dict[str, Path], list[str]]:
    """The clips by name, and what this ffmpeg could not encode, with its words."""
    seconds, size = (CLIP_SMALL_S, SIZE_SMALL) if place.small else (CLIP_S, SIZE)
    source = make_clips(place.folder, 1, (seconds, seconds))[0]
    clips, left_out = {"H.264, 8 bits, 320x240": source}, []
    for encoding in ENCODINGS:
        path = place.folder / f"{encoding.name}.mp4"
        options = {"vcodec": encoding.encoder, "pix_fmt": encoding.pixels, "preset": "veryfast"}
        graph = ffmpeg.input(SOURCE).filter("scale", *size.split("x")).output(TARGET, format="mp4", **options).overwrite_output()
        try:
            run_ffmpeg(graph, source=source, target=path, read=lambda running: running.stdout.read(), time_limit_s=600)
        except FfmpegFailed as error:
            left_out.append(f"{encoding.name}: this ffmpeg does not encode it: {error}")
        else:
            clips[f"{encoding.name}, {size}"] = path
    return clips, left_out
