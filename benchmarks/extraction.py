"""Decoding against a plain OpenCV loader, the stage against the bare encoder, text towers against their full length:
`python -m benchmarks.extraction` (needs benchmarks/requirements.txt).

Clips are real ones cut to the shapes of MSR-VTT and DiDeMo. All sides of a row run in turn, several times, and the medians are compared;
the last line is JSON. Shape suffixes: N frames, H and W sides, C colour channels.
"""

import io
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import pandas as pd
import torch
from PIL import Image

from data.command import run_command
from data.errors import UserError
from data.ffmpeg import run_ffmpeg
from data.provenance import provenance, write_json
from data.sampling import choose_frames
from extract import ExtractOptions, main
from extract.clip import BATCH, Clip, load_clip
from extract.decode import Sampling, sample_frames
from extract.texts import encode_texts

ROOT = Path(__file__).parent.parent
CLIPS = ("bikes.mp4", "bigbuckbunny.mp4", "nasa_13013.mp4")
WORKERS = 2


@dataclass(frozen=True)
class ExtractionOptions:
    """Measure extraction side by side."""

    shared: Path = ROOT.parent / "shared"
    """Folder with videos/ and annotations/msrvtt/MSRVTT_JSFUSION_test.csv."""
    model: str = "ViT-B-32-quickgelu"
    """CLIP by open_clip's name, with random weights."""
    clips: int = 12
    """Clips of MSR-VTT's shape, and a third as many of DiDeMo's."""
    texts: int = 400
    """Captions of 1k-A."""
    repeats: int = 3
    """Runs of each side; medians are compared."""
    out: Path = ROOT / "runs" / "benchmarks" / "extraction.json"
    """File for the figures."""


def make_clip(source: Path, out: Path, width: int, height: int, seconds: float) -> None:
    """A real clip, repeated to so many seconds, at 25 frames a second with sound as the data sets have it."""
    picture = ffmpeg.input(str(source), stream_loop=-1, t=seconds).video.filter("scale", width, height).filter("fps", 25)
    graph = ffmpeg.output(
        picture, ffmpeg.input("sine", f="lavfi", t=seconds), str(out), vcodec="libx264", acodec="aac", pix_fmt="yuv420p", threads=1
    )
    run_ffmpeg(graph.overwrite_output(), read=lambda running: running.stdout.read(), time_limit_s=600)


def load_by_opencv(cv2: Any, clip: Clip, max_frames: int, path: Path) -> torch.Tensor:
    """The field's loader as it is described: for every second seek to its frame, read it; choose; resize, crop, normalise."""
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


def load_by_us(clip: Clip, max_frames: int, path: Path) -> torch.Tensor:
    """The same frames by the code of the stage."""
    sampled = sample_frames(path, Sampling(max_frames=max_frames), clip.shrink)
    return torch.stack([clip.to_tensor(picture) for picture in sampled.pictures])


def load_all(load: Callable[[Path], torch.Tensor], paths: list[Path]) -> list[torch.Tensor]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(load, paths))


def medians(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Seconds of each side: medians of runs taken in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"  {name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in seconds.items()}


def compare_decoding(cv2: Any, clip: Clip, paths: list[Path], max_frames: int, repeats: int) -> dict[str, float]:
    """Both loaders on the same files with two workers each, and the largest difference of their tensors."""
    opencv, ours = partial(load_by_opencv, cv2, clip, max_frames), partial(load_by_us, clip, max_frames)
    difference = max(float((opencv(path) - ours(path)).abs().max()) for path in paths)
    row = medians({"opencv": lambda: load_all(opencv, paths), "ours": lambda: load_all(ours, paths)}, repeats)
    return {**row, "times faster": row["opencv"] / row["ours"], "largest difference": difference}


def stage_row(options: ExtractionOptions, clip: Clip, videos: Path, folder: Path) -> dict[str, float]:
    """The stage into a new cache each time, against the encoder alone on as many frames."""
    waits: list[float] = []
    frames = 0

    def stage() -> None:
        nonlocal frames
        said = io.StringIO()
        cache = folder / f"cache{len(waits)}"
        with redirect_stdout(said):
            main(ExtractOptions(videos, cache, model=options.model, pretrained="random", max_frames=12, quiet=True, json=True))
        summary = json.loads(said.getvalue())
        frames = summary["frames"]
        waits.append(summary["encoder_wait_seconds"] / (summary["encoder_wait_seconds"] + summary["encode_seconds"]))

    stage()
    image_NCHW = torch.randn(BATCH, 3, 224, 224)

    def encoder() -> None:
        for _ in range(-(-frames // BATCH)):
            clip.encode_images(image_NCHW)

    row = medians({"stage": stage, "encoder": encoder}, options.repeats)
    return {**row, "frames": frames, "share waited": statistics.median(waits[1:])}


def text_row(clip: Clip, texts: list[str], repeats: int) -> dict[str, float]:
    """Captions at their own length, against all positions of the tower."""

    def full() -> None:
        ids_NL, _ = clip.tokenize(texts, 32)
        for first in range(0, len(ids_NL), BATCH):
            clip.encode_texts(ids_NL[first : first + BATCH])

    row = medians({"full length": full, "ours": lambda: list(encode_texts(texts, clip, 32))}, repeats)
    return {**row, "times faster": row["full length"] / row["ours"]}


def measure(options: ExtractionOptions) -> Path:
    """Measure, print the figures and write them to OUT."""
    try:
        import cv2
    except ImportError as error:
        raise UserError("opencv is missing: pip install -r benchmarks/requirements.txt") from error
    captions = options.shared / "annotations" / "msrvtt" / "MSRVTT_JSFUSION_test.csv"
    if not captions.is_file() or not (options.shared / "videos").is_dir():
        raise UserError(f"--shared {options.shared} lacks videos/ or {captions}: name the folder that holds them")
    cv2.setNumThreads(1)
    clip = load_clip(options.model, "random", torch.device("cpu"))
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shapes = {"msrvtt": (options.clips, 320, 240, 12), "didemo": (options.clips // 3, 640, 480, 64)}
        for shape, (count, width, height, max_frames) in shapes.items():
            (folder / shape).mkdir()
            paths = [folder / shape / f"{i}.mp4" for i in range(count)]
            for i, path in enumerate(paths):
                seconds = 30 if shape == "didemo" else 10 + i * 15 // count
                make_clip(options.shared / "videos" / CLIPS[i % len(CLIPS)], path, width, height, seconds)
            print(shape, file=sys.stderr)
            figures[f"decoding, {shape}"] = compare_decoding(cv2, clip, paths, max_frames, options.repeats)
        hours = {"4 minutes": folder / "short.mp4", "2 hours": folder / "long.mp4"}
        make_clip(options.shared / "videos" / CLIPS[0], hours["4 minutes"], 320, 240, 240)
        repeated = ffmpeg.input(str(hours["4 minutes"]), stream_loop=29).output(str(hours["2 hours"]), c="copy")
        run_ffmpeg(repeated, read=lambda running: running.stdout.read(), time_limit_s=600)
        print("long videos", file=sys.stderr)
        figures["12 frames of a long video"] = medians(
            {length: partial(load_by_us, clip, 12, path) for length, path in hours.items()}, options.repeats
        )
        print("stage", file=sys.stderr)
        figures["stage"] = stage_row(options, clip, folder / "msrvtt", folder)
    print("texts", file=sys.stderr)
    figures["texts"] = text_row(clip, pd.read_csv(captions)["sentence"].tolist()[: options.texts], options.repeats)
    for row, values in figures.items():
        print(row)
        for key, value in values.items():
            print(f"  {key:24} {value:10.4g}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, {"figures": figures, "threads": torch.get_num_threads(), "provenance": provenance(options)})
    rounded = {row: {key: float(np.format_float_positional(v, 4, fractional=False)) for key, v in r.items()} for row, r in figures.items()}
    print(json.dumps(rounded))
    return options.out


if __name__ == "__main__":
    run_command(ExtractionOptions, measure, prog="python -m benchmarks.extraction")
