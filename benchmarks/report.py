"""Measures the report of an evaluation with 1,000 captions and 1,000 videos: `python -m benchmarks.report`.

Features are random, with D = 512, and correlated so that answers occur at every rank. Thumbnails have a realistic size in pixels and
bytes. The evaluation runs alternately with and without the report. The last line of the output is JSON.
"""

import json
import statistics
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

import evaluate
from benchmarks.measure import seconds_interleaved
from benchmarks.synthetic import random_features, seconds_of, write_cache
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.cache import ClipParts, FeatureCache, TextEntry, VideoEntry
from data.cache.extraction import Extraction
from data.cli.command import run_command
from evaluate import EvaluateOptions
from evaluate.report import REPORT_FILE
from extract.decode.pictures import small, thumbnail_file
from extract.encode.models import load_tokenizer

ROOT = Path(__file__).parent.parent
DIMENSION = 512
MODEL = "ViT-B-32-quickgelu"
WORDS = ("a", "man", "is", "riding", "the", "small", "red", "bicycle", "down", "an", "empty", "street", "while", "two", "dogs", "run")
MAX_WORDS = 32


@dataclass(frozen=True)
class ReportOptions:
    """Measure the time and size of a report."""

    videos: int = 1000
    """Number of videos, each with one caption."""
    frames: int = 12
    """Frames per video."""
    repeats: int = 3
    """Evaluations with and without the report; medians are compared."""
    out: Path = ROOT / "runs" / "benchmarks" / "report.json"
    """Output file (JSON)."""


def make_cache(path: Path, videos: int, frames: int) -> FeatureCache:
    """A cache of random videos with thumbnails, each with a caption whose features are close to one of its frames."""
    rng = np.random.default_rng(0)
    settings = {"weights": "0" * 64, "max_words": MAX_WORDS, "max_frames": frames, "dtype": "float16", "dimension": DIMENSION}
    clip = ClipParts({"positional_embedding": np.zeros((77, DIMENSION), dtype=np.float32)}, 100.0, 8, "QuickGELU")
    tokenizer = load_tokenizer(MODEL, "tokens")
    ids = [f"video{i}" for i in range(videos)]
    frames_NTD = random_features(rng, videos, frames, DIMENSION)
    captions = [" ".join([*rng.choice(WORDS, rng.integers(5, 14)), str(i)]) for i in range(videos)]

    def video(i: int) -> VideoEntry:
        pictures = [thumbnail_file(small(picture)) for picture in _pictures(rng, frames)]
        return VideoEntry(ids[i], frames_NTD[i], seconds_of(frames), 1, 1, thumbnails=pictures)

    def text(i: int) -> TextEntry:
        sentence_D = 0.25 * frames_NTD[i, rng.integers(frames)] + random_features(rng, DIMENSION)
        length = len(tokenizer.spell(captions[i], MAX_WORDS))
        return TextEntry(captions[i], 0.25 * sentence_D + random_features(rng, length, DIMENSION), sentence_D)

    cache = write_cache(
        path, settings, clip, map(video, range(videos)), map(text, range(videos)), Extraction(MODEL), count=videos, quiet=True
    )
    cache.write_table("table", pd.DataFrame({"video_id": ids, "caption": captions, "split": "test"}))
    return cache


def _pictures(rng: np.random.Generator, frames: int) -> list[Image.Image]:
    """Frames with edges, colours and grain, which compress to about as many bytes as natural frames."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize((448, 252), Image.Resampling.BICUBIC)
    made = []
    for _ in range(frames):
        grain = Image.fromarray(rng.integers(0, 256, (63, 112, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(1.2)).resize((448, 252))
        made.append(Image.blend(coarse, grain, 0.35))
    return made


def main(options: ReportOptions) -> Path:
    """Measure, print the results and write them to OUT."""
    require_writable_file(options.out)
    with TemporaryDirectory() as folder:
        cache = make_cache(Path(folder) / "cache", options.videos, options.frames)
        shown = len(b"".join(cache.images("thumbnails", "video0"))) / options.frames
        results = Path(folder) / "results"

        def run(report: bool) -> None:
            with redirect_stdout(StringIO()):
                evaluate.main(EvaluateOptions(cache=cache.path, run="zero-shot:glccl", out=results, report=report, quiet=True))

        # The first run compiles, so it is not timed.
        sides = {"without": partial(run, report=False), "with": partial(run, report=True)}
        seconds = seconds_interleaved(sides, options.repeats, warm_up={"with"})
        size = (results / REPORT_FILE).stat().st_size
    without, with_report = (statistics.median(seconds[side]) for side in sides)
    figures = {
        "evaluation without report, s": without,
        "with report, s": with_report,
        "report, s": with_report - without,
        "times": with_report / without,
        "report.html, MB": size / 1e6,
        "bytes of a cached thumbnail": shown,
    }
    for name, value in figures.items():
        print(f"{name:30} {value:8.2f}")
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    print(json.dumps({name: float(f"{value:.4g}") for name, value in figures.items()}))
    return options.out


if __name__ == "__main__":
    run_command(ReportOptions, main, prog="python -m benchmarks.report")
