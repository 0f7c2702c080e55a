"""The rate of extraction with and without patch tokens, beside the bare encoder on as many pictures.

Shape suffixes: N pictures, C colour channels, H and W their sides.
"""

import io
import itertools
import json
import os
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.measure import seconds_interleaved
from benchmarks.tokens.options import TokensOptions
from extract import ExtractOptions
from extract import main as extract
from extract.encode.clip import BATCH, Clip
from extract.encode.image.patches import Patches
from extract.ffmpeg.run import encode_video

ASKED = {"no tokens": None, "patches": "patches", "patches:4": "patches:4"}
WIDTH, HEIGHT, FPS = 320, 240, 5

Row = dict[str, Any]


def make_videos(options: TokensOptions, folder: Path) -> Path:
    """A folder of videos of moving noise, all with the same content."""
    videos = folder / "videos"
    videos.mkdir()
    generator = torch.Generator().manual_seed(0)
    small_NCHW = torch.rand(options.seconds * FPS, 3, 24, 32, generator=generator)
    large_NCHW = torch.nn.functional.interpolate(small_NCHW, size=(HEIGHT, WIDTH), mode="bilinear")
    pixels = (large_NCHW.permute(0, 2, 3, 1) * 255).to(torch.uint8).numpy().tobytes()
    encode_video(folder / "source.mp4", pixels, WIDTH, HEIGHT, FPS)
    for i in range(options.videos):
        os.link(folder / "source.mp4", videos / f"{i}.mp4")
    return videos


def encode(clip: Clip, pictures: int, patches: Patches | None) -> None:
    """The encoder alone, on random pictures."""
    image_NCHW = torch.randn(BATCH, 3, *clip.image_settings()["image_size"])
    for first in range(0, pictures, BATCH):
        clip.encode_images(image_NCHW[: min(BATCH, pictures - first)], patches)


def extract_all(options: TokensOptions, videos: Path, caches: Iterator[Path], tokens: str | None) -> None:
    """The whole stage, into a new cache."""
    said = io.StringIO()
    with redirect_stdout(said):
        extract(
            ExtractOptions(
                videos, next(caches), model=options.model, pretrained="random", tokens=tokens, thumbnails=False, workers=1,
                device="cpu", quiet=True, json=True,
            )
        )  # fmt: skip
    assert json.loads(said.getvalue())["videos_extracted"] == options.videos


def measure_rate(options: TokensOptions, clip: Clip, folder: Path) -> list[Row]:
    """Pictures a second, means over the rounds. One core encodes and one decodes."""
    videos, pictures = make_videos(options, folder), options.videos * options.seconds
    caches = (folder / f"cache{i}" for i in itertools.count())
    sides = {f"encoder, {name}": partial(encode, clip, pictures, Patches.of(tokens)) for name, tokens in ASKED.items()}
    stage = {f"extract, {name}": partial(extract_all, options, videos, caches, tokens) for name, tokens in ASKED.items()}
    seconds = seconds_interleaved({**sides, **stage}, options.repeats, ())
    bare = mean(seconds["encoder, no tokens"])
    return [
        {"side": side, "pictures a second": pictures / mean(taken), "of the bare encoder": bare / mean(taken)}
        for side, taken in seconds.items()
    ]
