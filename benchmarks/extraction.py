"""Measures decoding, encoding and memory of extraction: `python -m benchmarks.extraction`. Needs benchmarks/requirements.txt.

It compares decoding with a plain OpenCV loader (and PyAV, if requirements-pyav.txt is installed), the whole stage with the bare
encoder, and captions at their own length with captions at full length; and it measures memory. The clips are real videos, looped and
scaled to the shapes of MSR-VTT and DiDeMo. The alternatives run alternately, and their medians are compared. It prints a Markdown
table and, as the last line, JSON.

Shape suffixes: N frames, H and W height and width, C colour channels.
"""

import importlib.util
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ffmpeg
import pandas as pd
import torch
from PIL import Image

from benchmarks.measure import Timing, conclude, peak_mib, time_interleaved
from data.base.errors import UserError
from data.base.writable import require_writable_file
from data.cli.command import run_command
from data.sampling import choose_frames
from extract import ExtractOptions, main
from extract.decode.pyav import PyavProcesses
from extract.decode.sample import Sampling, sample_frames
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.texts import encode_texts
from extract.ffmpeg.run import Processes, encode_video, run_ffmpeg

ROOT = Path(__file__).parent.parent
DEMO_CLIP = f"local-dir:{ROOT / 'demo' / 'clip'}"
CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "nasa_13013.mp4")
WORKERS = 2

Row = dict[str, Any]
Work = Literal["decoding", "seeking", "stage", "memory", "texts"]


@dataclass(frozen=True)
class ExtractionOptions:
    """Measure extraction against its alternatives."""

    shared: Path = ROOT.parent / "shared"
    """Folder with videos/ and annotations/msrvtt/MSRVTT_JSFUSION_test.csv."""
    model: str = "ViT-B-32-quickgelu"
    """CLIP model, by open_clip's name; its weights are random."""
    clips: int = 18
    """Clips of MSR-VTT's shape, and a third as many of DiDeMo's."""
    texts: int = 1000
    """Captions of MSR-VTT 1k-A. With only a few, most batches would be padded."""
    videos: int = 2000
    """Short videos to extract for the memory measurement, which is compared with a tenth of them."""
    repeats: int = 3
    """Runs of each alternative; medians are compared."""
    only: tuple[Work, ...] = ("decoding", "seeking", "stage", "memory", "texts")
    """What to measure."""
    out: Path = ROOT / "runs" / "benchmarks" / "extraction.json"
    """Output file (JSON)."""


def make_clip(source: Path, out: Path, width: int, height: int, seconds: float) -> None:
    """Loop a real video to this length, at 25 fps and with sound, like the videos of the data sets."""
    picture = ffmpeg.input(str(source), stream_loop=-1, t=seconds).video.filter("scale", width, height).filter("fps", 25)
    graph = ffmpeg.output(
        picture, ffmpeg.input("sine", f="lavfi", t=seconds), str(out), vcodec="libx264", acodec="aac", pix_fmt="yuv420p", threads=1
    )
    run_ffmpeg(graph.overwrite_output(), read=lambda running: running.stdout.read(), time_limit_s=600)


def key_frames(path: Path) -> int:
    """Number of key frames, where a decoder can start. The cost of seeking depends on it."""
    graph = ffmpeg.input(str(path), skip_frame="nokey").output(
        "pipe:", format="rawvideo", vf="scale=1:1", pix_fmt="gray", fps_mode="passthrough"
    )
    return len(run_ffmpeg(graph, read=lambda running: running.stdout.read(), time_limit_s=600)[0])


def load_by_opencv(cv2: Any, clip: Clip, max_frames: int, path: Path) -> torch.Tensor:
    """The loader that the field's papers describe: seek to a frame for every second, read it, choose frames, preprocess them."""
    capture = cv2.VideoCapture(str(path))
    fps = int(capture.get(cv2.CAP_PROP_FPS))
    duration = -(-int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) // fps)
    pictures: list[torch.Tensor] = []
    for second in range(duration + 1):
        capture.set(cv2.CAP_PROP_POS_FRAMES, second * fps)
        there, frame_HWC = capture.read()
        if not there:
            break
        pictures.append(clip.transform(Image.fromarray(cv2.cvtColor(frame_HWC, cv2.COLOR_BGR2RGB))))
    capture.release()
    return torch.stack([pictures[i] for i in choose_frames(len(pictures), max_frames)])


def load_by_us(clip: Clip, sampling: Sampling, path: Path) -> torch.Tensor:
    """The same frames, loaded by the code of the extraction stage."""
    sampled = sample_frames(path, sampling, clip.shrink)
    return torch.stack([clip.to_tensor(picture) for picture in sampled.pictures])


def load_all(load: Callable[[Path], torch.Tensor], paths: list[Path]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(load, paths))


def load_all_by_pyav(clip: Clip, sampling: Sampling, paths: list[Path]) -> list[torch.Tensor]:
    """Load all videos with PyAV, including the start of its processes."""
    processes = PyavProcesses(Processes())
    try:
        return load_all(partial(load_by_us, clip, replace(sampling, pyav=processes)), paths)
    finally:
        processes.close()


def largest_difference(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    return max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))


def compare_decoding(cv2: Any, clip: Clip, work: str, paths: list[Path], max_frames: int, repeats: int) -> list[Row]:
    """Compare the loaders on the same files, with two threads each. All of them release the GIL while they decode."""
    sampling = Sampling(max_frames=max_frames)
    sides: dict[str, Callable[[], list[torch.Tensor]]] = {
        "OpenCV, seeking": partial(load_all, partial(load_by_opencv, cv2, clip, max_frames), paths),
        "ffmpeg": partial(load_all, partial(load_by_us, clip, sampling), paths),
    }
    if importlib.util.find_spec("av") is not None:
        sides["PyAV"] = partial(load_all_by_pyav, clip, sampling, paths)
    tensors = {name: run() for name, run in sides.items()}
    timings = time_interleaved(sides, repeats)
    keys = statistics.mean(key_frames(path) for path in paths)
    field, reference = timings["OpenCV, seeking"], tensors["OpenCV, seeking"]
    return [
        row_of(work, name, timing, field)
        | {"clips a second": len(paths) / timing.wall_s, "largest difference": largest_difference(tensors[name], reference)}
        | {"key frames a clip": keys}
        for name, timing in timings.items()
    ]


def row_of(work: str, side: str, timing: Timing, reference: Timing) -> Row:
    faster = {"times faster": reference.wall_s / timing.wall_s, "times less processor time": reference.cpu_s / timing.cpu_s}
    return {"work": work, "side": side, **asdict(timing), **faster}


def long_rows(clip: Clip, folder: Path, source: Path, repeats: int) -> list[Row]:
    """Sample 12 frames from a video of 4 minutes and from one of 2 hours."""
    paths = {"4 minutes": folder / "short.mp4", "2 hours": folder / "long.mp4"}
    make_clip(source, paths["4 minutes"], 320, 240, 240)
    repeated = ffmpeg.input(str(paths["4 minutes"]), stream_loop=29).output(str(paths["2 hours"]), c="copy")
    run_ffmpeg(repeated, read=lambda running: running.stdout.read(), time_limit_s=600)
    timings = time_interleaved(
        {length: partial(load_by_us, clip, Sampling(max_frames=12), path) for length, path in paths.items()}, repeats
    )
    return [row_of("12 frames of a long video", length, timing, timings["4 minutes"]) for length, timing in timings.items()]


def stage_rows(options: ExtractionOptions, clip: Clip, videos: Path, folder: Path) -> list[Row]:
    """Compare the whole stage, into a new cache each time, with the encoder alone on as many frames.

    One thread encodes, and one worker decodes.
    """
    summaries: list[dict[str, Any]] = []

    def stage() -> None:
        stdout = io.StringIO()
        cache = folder / f"cache{len(summaries)}"
        with redirect_stdout(stdout):
            main(ExtractOptions(videos, cache, model=options.model, pretrained="random", max_frames=12, workers=1, quiet=True, json=True))
        summaries.append(json.loads(stdout.getvalue()))

    stage()
    image_NCHW = torch.randn(BATCH, 3, 224, 224)

    def encoder() -> None:
        for _ in range(-(-int(summaries[0]["frames"]) // BATCH)):
            clip.encode_images(image_NCHW)

    timings = time_interleaved({"encoder alone": encoder, "stage": stage}, options.repeats)
    waited = [one["encoder_wait_seconds"] / (one["encoder_wait_seconds"] + one["encode_seconds"]) for one in summaries[1:]]
    rows = [row_of("whole stage, one thread for each", side, timing, timings["encoder alone"]) for side, timing in timings.items()]
    rows[1] |= {"share waited": statistics.median(waited), "clips a second": summaries[0]["videos"] / timings["stage"].wall_s}
    return rows


def text_rows(clip: Clip, texts: list[str], repeats: int) -> list[Row]:
    """Compare encoding captions at their own length with encoding them padded to the full context length."""

    def full() -> None:
        ids_NL, _ = clip.tokenize(texts, 32)
        for first in range(0, len(ids_NL), BATCH):
            clip.encode_texts(ids_NL[first : first + BATCH])

    timings = time_interleaved({"full length": full, "own length": lambda: list(encode_texts(texts, clip, 32))}, repeats)
    return [row_of(f"{len(texts)} captions of 1k-A", side, timing, timings["full length"]) for side, timing in timings.items()]


def memory_rows(videos: int, folder: Path) -> list[Row]:
    """Peak memory of the stage with the demo CLIP, without its decoder processes, on few and on many short videos."""
    source = folder / "source.mp4"
    encode_video(source, bytes(64 * 64 * 3) * 50, 64, 64, 25)
    rows: list[Row] = []
    for count in (videos // 10, videos):
        names = folder / f"{count} videos"
        names.mkdir()
        for i in range(count):
            os.link(source, names / f"{i}.mp4")
        command = [
            sys.executable,
            "-m",
            "extract",
            "--videos",
            names,
            "--cache",
            folder / f"cache of {count}",
            "--model",
            DEMO_CLIP,
            "--quiet",
        ]
        process = subprocess.Popen([*map(str, command), "--workers", str(WORKERS)], cwd=ROOT, stdout=subprocess.DEVNULL)
        rows.append({"work": "memory of the stage", "side": f"{count} videos", "peak MiB": peak_mib(process)})
        assert process.returncode == 0
    return rows


def make_shape(options: ExtractionOptions, folder: Path, shape: str) -> list[Path]:
    """Make the clips of one shape, in a folder of that name."""
    width, height, count = (320, 240, options.clips) if shape == "MSR-VTT" else (640, 480, max(options.clips // 3, 1))
    (folder / shape).mkdir()
    paths = [folder / shape / f"{i}.mp4" for i in range(count)]
    for i, path in enumerate(paths):
        make_clip(
            options.shared / "videos" / CLIPS[i % len(CLIPS)], path, width, height, 10 + i * 15 // count if shape == "MSR-VTT" else 30
        )
    return paths


def measure(options: ExtractionOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    try:
        import cv2
    except ImportError as error:
        raise UserError("opencv is missing: pip install -r benchmarks/requirements.txt") from error
    captions = options.shared / "annotations" / "msrvtt" / "MSRVTT_JSFUSION_test.csv"
    if not captions.is_file() or not (options.shared / "videos").is_dir():
        raise UserError(f"--shared {options.shared} lacks videos/ or {captions}: name the folder that holds them")
    cv2.setNumThreads(1)
    # One core encodes while another decodes; more threads would compete with the decoders.
    torch.set_num_threads(1)
    clip = load_clip(options.model, "random", torch.device("cpu"))
    texts = pd.read_csv(captions)["sentence"].tolist()[: options.texts]
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clips = {shape: make_shape(options, folder, shape) for shape in ("MSR-VTT", "DiDeMo")}

        def decoding() -> list[Row]:
            return [
                row
                for shape, max_frames in (("MSR-VTT", 12), ("DiDeMo", 64))
                for row in compare_decoding(
                    cv2, clip, f"decoding {len(clips[shape])} clips of {shape}'s shape", clips[shape], max_frames, options.repeats
                )
            ]

        measured: dict[Work, Callable[[], list[Row]]] = {
            "decoding": decoding,
            "seeking": lambda: long_rows(clip, folder, options.shared / "videos" / CLIPS[0], options.repeats),
            "stage": lambda: stage_rows(options, clip, folder / "MSR-VTT", folder),
            "memory": lambda: memory_rows(options.videos, folder),
            "texts": lambda: text_rows(clip, texts, options.repeats),
        }
        for work in options.only:
            print(work, file=sys.stderr)
            rows += measured[work]()
    conclude(rows, options.out, options)
    return options.out


if __name__ == "__main__":
    run_command(ExtractionOptions, measure, prog="python -m benchmarks.extraction")
