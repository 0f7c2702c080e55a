"""The report of an evaluation of 1,000 captions and 1,000 videos: `python -m benchmarks.report`.

Features are random, D = 512, and close enough to each other for queries of every rank; thumbnails are pictures of the usual size and bytes.
The same evaluation runs without and with its report in turn, several times; the last line is JSON.
"""

import json
import statistics
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import evaluate
from data.base.provenance import provenance, write_json
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
ENTRIES_A_PART = 250


@dataclass(frozen=True)
class ReportOptions:
    """Measure what a report takes, and how large it is."""

    videos: int = 1000
    """Videos, with a caption each."""
    frames: int = 12
    """Frames of each."""
    repeats: int = 3
    """Evaluations with and without the report; medians are compared."""
    out: Path = ROOT / "runs" / "benchmarks" / "report.json"
    """File for the figures."""


def make_cache(path: Path, videos: int, frames: int) -> FeatureCache:
    """Random videos with thumbnails, and a caption of each that is near to some of its frames."""
    rng = np.random.default_rng(0)
    settings = {"weights": "0" * 64, "max_words": MAX_WORDS, "max_frames": frames, "dtype": "float16", "dimension": DIMENSION}
    clip = ClipParts({"positional_embedding": np.zeros((77, DIMENSION), dtype=np.float32)}, 100.0, 8, "QuickGELU")
    cache = FeatureCache.create(path, settings, clip, {"options": {}, "commit": "none", "date": "none"}, extraction=Extraction(MODEL))
    tokenizer = load_tokenizer(MODEL, "tokens")
    ids = [f"video{i}" for i in range(videos)]
    captions: list[str] = []
    for first in range(0, videos, ENTRIES_A_PART):
        entries, texts = [], []
        for video_id in ids[first : first + ENTRIES_A_PART]:
            frames_TD = _features(rng, frames)
            pictures = [thumbnail_file(small(picture)) for picture in _pictures(rng, frames)]
            entries.append(VideoEntry(video_id, frames_TD, np.arange(frames, dtype=np.float64), 1, 1, thumbnails=pictures))
            captions.append(" ".join([*rng.choice(WORDS, rng.integers(5, 14)), f"{len(captions)}"]))
            sentence_D = 0.25 * frames_TD[rng.integers(frames)] + _features(rng, 1)[0]
            length = len(tokenizer.spell(captions[-1], MAX_WORDS))
            texts.append(TextEntry(captions[-1], 0.25 * sentence_D + _features(rng, length), sentence_D))
        cache.write_videos(entries)
        cache.write_texts(texts)
    cache.write_table("table", pd.DataFrame({"video_id": ids, "caption": captions, "split": "test"}))
    return cache


def _features(rng: np.random.Generator, rows: int) -> NDArray[np.float32]:
    """Vectors of norm 10 or so, as CLIP's are."""
    return rng.standard_normal((rows, DIMENSION), dtype=np.float32) * np.float32(10 * DIMENSION**-0.5)


def _pictures(rng: np.random.Generator, frames: int) -> list[Image.Image]:
    """Frames with edges, colours and some grain: about as many bytes as natural ones."""
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize((448, 252), Image.Resampling.BICUBIC)
    made = []
    for _ in range(frames):
        grain = Image.fromarray(rng.integers(0, 256, (63, 112, 3), dtype=np.uint8)).filter(ImageFilter.GaussianBlur(1.2)).resize((448, 252))
        made.append(Image.blend(coarse, grain, 0.35))
    return made


def main(options: ReportOptions) -> Path:
    """Measure, print the figures and write them to OUT."""
    require_writable_file(options.out)
    with TemporaryDirectory() as folder:
        cache = make_cache(Path(folder) / "cache", options.videos, options.frames)
        shown = len(b"".join(cache.images("thumbnails", "video0"))) / options.frames
        results = Path(folder) / "results"

        def seconds(report: bool) -> float:
            start = time.perf_counter()
            with redirect_stdout(StringIO()):
                evaluate.main(EvaluateOptions(cache=cache.path, run="zero-shot:glccl", out=results, report=report, quiet=True))
            return time.perf_counter() - start

        seconds(report=True)  # compiles, and counts for neither
        runs = [(seconds(report=False), seconds(report=True)) for _ in range(options.repeats)]
        size = (results / REPORT_FILE).stat().st_size
    without, with_report = (statistics.median(side) for side in zip(*runs, strict=True))
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
