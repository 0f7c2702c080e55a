"""Measures extraction: encoders by themselves, and the whole stage by its number of workers.

Shape suffixes: N images, D joint dimension, C colour channels, H and W sides of pictures.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.extraction import DEMO_CLIP, ROOT
from benchmarks.gpu.place import Outcome, Place
from data.compute.device import synchronize
from data.compute.processor import Precision
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.models import RANDOM
from extract.encode.towers import pooled
from extract.ffmpeg.run import encode_video

Source = tuple[str, str | None]
"""A model and its weights, as --model and --pretrained name them."""
SMALL_MODEL: Source = (DEMO_CLIP, None)
MODELS: tuple[Source, ...] = (("ViT-B-32", RANDOM), ("ViT-B-16", RANDOM), ("PE-Core-B-16", RANDOM))
BATCHES, BATCHES_SMALL = (BATCH, 256, 1024), (BATCH,)
"""Batches of the bare encoder."""
SECONDS, SECONDS_SMALL = 1.0, 0.05
"""How long each way to encode is timed."""
WARM_UP_CALLS = 3

WIDTH, HEIGHT, FPS = 320, 240, 25
"""The shape of most of MSR-VTT's videos."""
SHORTEST_S, LONGEST_S = 10, 25
CLIPS, CLIPS_SMALL = 32, 2
SCENE_S = 3
"""Seconds between cuts in a clip that is made here."""
VIDEOS = {1: 32, 4: 128, 16: 320}
"""Videos to extract with this many workers: those with more workers are links to the same clips."""
VIDEOS_SMALL = {1: 2, 4: 4}

Figures = dict[str, float]


def encoders(place: Place) -> Outcome:
    """Images a second of ViT-B/32, ViT-B/16 and PE-Core-B/16 with random weights, in fp32 and in bf16, as extraction encodes them.

    Extraction takes batches of 48 preprocessed pictures from the machine's memory and gives features there (`Clip.encode_images`). Beside
    it is the bare encoder of open_clip under `torch.no_grad`, for fp32 as it is and for bf16 under autocast, on pictures that are on the
    device already, in batches of 48, 256 and 1,024. Also the largest difference of the two sides' features of unit length.
    """
    figures: dict[str, Figures] = {}
    remarks: list[str] = []
    for model, pretrained in (SMALL_MODEL,) if place.small else MODELS:
        plain = load_clip(model, pretrained, place.device)
        image_NCHW = torch.randn(BATCH, 3, *plain.image_settings()["image_size"], generator=torch.Generator().manual_seed(0))
        name = "demo" if place.small else model
        for precision in ("fp32", "bf16"):
            clip = plain if precision == "fp32" else load_clip(model, pretrained, place.device, precision="bf16")
            encode = partial(bare, plain, precision)
            row, too_large = bare_rates(place, encode, image_NCHW)
            remarks += [f"{name}, {precision}: the bare encoder has no memory for a batch of {too_large}"] if too_large else []
            best = max(row.values())
            ours = rate(place, partial(clip.encode_images, image_NCHW), BATCH)
            difference_ND = unit(torch.from_numpy(clip.encode_images(image_NCHW).feature_ND)) - unit(
                encode(image_NCHW.to(place.device)).float().cpu()
            )
            figures[f"{name}, {precision}"] = {
                "extraction, images a second": ours,
                **row,
                "extraction, share of the bare encoder at its best": ours / best,
                "largest difference of unit features": float(difference_ND.abs().max()),
            }
    return Outcome(figures, remarks=remarks)


def bare(clip: Clip, precision: Precision, image_NCHW: Tensor) -> Tensor:
    """Features [N, D] as open_clip's users compute them, of a model in fp32."""
    with torch.no_grad(), torch.autocast(clip.device.type, torch.bfloat16, enabled=precision == "bf16"):
        return pooled(clip.model.encode_image(image_NCHW))


def bare_rates(place: Place, encode: Callable[[Tensor], Tensor], image_NCHW: Tensor) -> tuple[Figures, int | None]:
    """Images a second of the bare encoder by its batch, and the first batch that memory did not suffice for."""
    row: Figures = {}
    for batch in BATCHES_SMALL if place.small else BATCHES:
        given_NCHW = image_NCHW.to(place.device).repeat(math.ceil(batch / len(image_NCHW)), 1, 1, 1)[:batch]
        try:
            row[f"bare encoder, batch {batch}, images a second"] = rate(place, partial(encode, given_NCHW), batch)
        except torch.OutOfMemoryError:
            return row, batch
    return row, None


def rate(place: Place, run: Callable[[], object], images: int) -> float:
    """Images a second of calls that encode this many each. The clock is read when the device has done its work."""

    def seconds(calls: int) -> float:
        synchronize(place.device)
        start = time.perf_counter()
        for _ in range(calls):
            run()
        synchronize(place.device)
        return time.perf_counter() - start

    seconds(WARM_UP_CALLS)
    calls = math.ceil((SECONDS_SMALL if place.small else SECONDS) / seconds(1))
    return calls * images / seconds(calls)


def unit(feature_ND: Tensor) -> Tensor:
    """The features divided by their norms."""
    return normalize(feature_ND, dim=-1)


def workers(place: Place) -> Outcome:
    """`python -m extract` with 1, 4 and 16 workers, on clips of 320 x 240 pixels and 10 to 25 seconds, with 12 frames of each.

    Videos a second are those of decoding, encoding and writing, without the start of the process and the loading of the model (ViT-B/32).
    The encoder's share of waiting is the time that it waits for frames, after the first of them, by that and the time that it computes.
    """
    clips = make_clips(place.folder, CLIPS_SMALL if place.small else CLIPS, (1, 2) if place.small else (SHORTEST_S, LONGEST_S))
    model, pretrained = SMALL_MODEL if place.small else MODELS[0]
    figures: dict[str, Figures] = {}
    for count, videos in (VIDEOS_SMALL if place.small else VIDEOS).items():
        folder = place.folder / f"videos for {count}"
        folder.mkdir()
        for i in range(videos):
            os.link(clips[i % len(clips)], folder / f"{i}.mp4")
        options = ["--videos", str(folder), "--cache", str(place.folder / f"cache of {count}"), "--max-frames", "12", "--quiet", "--json"]
        options += ["--model", model, *(["--pretrained", pretrained] if pretrained else [])]
        options += ["--workers", str(count), "--device", place.device.type]
        figures[f"{count} workers"] = of_summary(extracted(options))
    return Outcome(figures)


def extracted(options: Sequence[str]) -> dict[str, Any]:
    """Run `python -m extract` and return its line of JSON, with the seconds of the process."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "extract", *options], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    summary: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return summary | {"process_seconds": time.perf_counter() - start}


def of_summary(summary: dict[str, Any]) -> Figures:
    """The figures of an extraction from its summary."""
    computing, waiting = summary["encode_seconds"], summary["encoder_wait_seconds"]
    seconds = summary["encoder_start_seconds"] + waiting + computing + summary["write_seconds"]
    return {
        "videos": summary["videos_extracted"],
        "videos a second": summary["videos_extracted"] / seconds,
        "share of time the encoder waits": waiting / (waiting + computing),
        "frames a second while the encoder computes": summary["frames"] / computing,
        "frames a second of one decoding worker": summary["frames"] / summary["decode_seconds"],
        "seconds until the first frames": summary["encoder_start_seconds"],
        "seconds of writing": summary["write_seconds"],
        "seconds of the whole process": summary["process_seconds"],
    }


def make_clips(folder: Path, count: int, seconds: tuple[int, int]) -> list[Path]:
    """Write clips of H.264 whose lengths are spread evenly between the shortest and the longest."""
    paths = [folder / f"clip{i}.mp4" for i in range(count)]
    lengths = np.linspace(*seconds, count)

    def make(i: int) -> None:
        encode_video(paths[i], moving_texture(round(lengths[i] * FPS), seed=i), WIDTH, HEIGHT, FPS)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make, range(count)))
    return paths


def moving_texture(frames: int, seed: int) -> bytes:
    """Raw RGB frames: a view that moves over a picture of coarse and fine random texture, with a cut to another one every SCENE_S."""
    rng = np.random.default_rng(seed)
    made: list[bytes] = []
    while len(made) < frames:
        coarse_HWC = rng.integers(0, 200, (12, 16, 3), dtype=np.uint8).repeat(40, axis=0).repeat(40, axis=1)
        picture_HWC = coarse_HWC + rng.integers(0, 56, (480, 640, 1), dtype=np.uint8)
        for t in range(min(SCENE_S * FPS, frames - len(made))):
            top, left = 2 * t, 3 * t
            made.append(picture_HWC[top : top + HEIGHT, left : left + WIDTH].tobytes())
    return b"".join(made)
