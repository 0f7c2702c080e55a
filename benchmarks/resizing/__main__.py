"""Measures how many videos a core decodes, with and without resizing them: `python -m benchmarks.resizing`.

The clips are real videos, looped and scaled. One thread samples 12 frames of each, with ffmpeg, and does with every frame what a worker
of extract does: copies it, as for `--resize-on device` on CUDA; resizes it with Pillow, as for `--resize-on cpu`; or resizes it with
torchvision on the CPU. The sides run alternately. Processor time includes ffmpeg's, so that it is the time of one core. The peak memory
is that of `extract` with two workers, without its ffmpeg processes. It prints a Markdown table and, as the last line, JSON.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.extraction import CLIPS, DEMO_CLIP, ROOT, make_clip
from benchmarks.measure import conclude, peak_mib, time_interleaved
from data.base.errors import UserError
from data.base.writable import require_writable_file
from data.cli.command import run_command
from extract.decode.sample import Sampling, sample_frames
from extract.encode.clip import load_clip

FRAMES = 12
"""Sampled of each video."""
SECONDS = 20.0
"""Length of each clip."""
WORKERS = 2

Row = dict[str, Any]


@dataclass(frozen=True)
class ResizingOptions:
    """Measure how much of the time of decoding is resizing."""

    shared: Path = ROOT.parent / "shared"
    """Folder with videos/."""
    model: str = "ViT-B-32-quickgelu"
    """CLIP model, by open_clip's name, whose input the pictures are resized to."""
    sizes: tuple[str, ...] = ("320x240", "640x480", "1280x720", "1920x1080")
    """WIDTHxHEIGHT of the clips."""
    clips: int = 3
    """Clips of each size."""
    repeats: int = 3
    """Runs of each side; medians are compared."""
    out: Path = ROOT / "runs" / "benchmarks" / "resizing.json"
    """Output file (JSON)."""


def rates(paths: Sequence[Path], model: str, repeats: int) -> list[Row]:
    """Processor seconds of each video, for every side, and those of the step after decoding: a mean, since it takes a small share."""
    clips = {on: load_clip(model, "random", torch.device("cpu"), resize_on=on) for on in ("cpu", "device")}
    steps: dict[str, Callable[[Image.Image], object]] = {
        "decode": np.array,
        "decode, Pillow": clips["cpu"].crop,
        "decode, torchvision": clips["device"].crop,
    }

    spent = dict.fromkeys(steps, 0.0)

    def run(name: str) -> None:
        def step(image: Image.Image) -> None:
            begin = time.thread_time()
            steps[name](image)
            spent[name] += time.thread_time() - begin

        for path in paths:
            sample_frames(path, Sampling(max_frames=FRAMES), step)

    timings = time_interleaved({name: partial(run, name) for name in steps}, repeats)
    taken = {name: seconds / (repeats * len(paths)) for name, seconds in spent.items()}
    return [
        {
            "side": name,
            "processor s a video": timing.cpu_s / len(paths),
            "videos a second of a core": len(paths) / timing.cpu_s,
            "ms a frame": 1000 * taken[name] / FRAMES,
            "share of the step": taken[name] * len(paths) / timing.cpu_s,
        }
        for name, timing in timings.items()
    ]


def peak(videos: Path, cache: Path, resize_on: str) -> float:
    """Peak memory of the extraction of a folder in MiB, with the demo's CLIP."""
    options = {"videos": videos, "cache": cache, "model": DEMO_CLIP, "resize-on": resize_on, "max-frames": FRAMES, "workers": WORKERS}
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "extract", *given, "--device", "cpu", "--quiet"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    used = peak_mib(process)
    assert process.returncode == 0
    return used


def measure(options: ResizingOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    if not (options.shared / "videos").is_dir():
        raise UserError(f"--shared {options.shared} lacks videos/: name the folder that holds it")
    # The time of one core is asked for.
    torch.set_num_threads(1)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        for size in options.sizes:
            print(size, file=sys.stderr)
            folder = Path(name) / size
            folder.mkdir()
            width, height = map(int, size.split("x"))
            paths = [folder / f"{i}.mp4" for i in range(options.clips)]
            for i, path in enumerate(paths):
                make_clip(options.shared / "videos" / CLIPS[i % len(CLIPS)], path, width, height, SECONDS)
            rows += [{"size": size} | row for row in rates(paths, options.model, options.repeats)]
            memory = {on: peak(folder, Path(name) / f"cache of {size} {on}", on) for on in ("cpu", "device")}
            rows += [{"size": size, "side": f"extract --resize-on {on}", "peak MiB": used} for on, used in memory.items()]
            shutil.rmtree(folder)
    conclude(rows, options.out, options)
    return options.out


if __name__ == "__main__":
    run_command(ResizingOptions, measure, prog="python -m benchmarks.resizing")
