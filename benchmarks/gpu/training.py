"""Measures training at MSR-VTT's size: five epochs, with and without the temporal encoder."""

import numpy as np
import torch

from benchmarks.gpu.place import Outcome, Place
from benchmarks.gpu.scoring import caption_lengths
from benchmarks.training import (
    CAPTIONS_A_VIDEO,
    DIMENSION,
    EPOCHS,
    FRAMES,
    TrainingOptions,
    make_cache,
    make_trainer,
    measure,
)
from data.cache import FeatureCache
from data.cache.features import Ragged, TextFeatures, VideoFeatures
from evaluate.cost import measured
from train_head.scoring.splits import Split

VIDEOS, VIDEOS_SMALL = 9000, 8
CAPTIONS_A_VIDEO_SMALL = 2
STEPS, STEPS_SMALL = 60, 1
"""Steps to time one by one."""
REACH_S = 60.0
"""Most seconds of five epochs on a card of the class of an H100."""
ROWS_A_PART = 2**18
"""Rows to draw at once."""
SCALE = 10 / DIMENSION**0.5
"""Gives rows norms close to 10, like those of CLIP's features."""


def full_size(place: Place) -> Outcome:
    """Train glccl on 9,000 videos of 12 frames with 180,000 captions, batch 128, five epochs, with and without the temporal encoder.

    Features are random float16, as extraction caches them, and are made in memory: writing them to a cache takes a minute. Steps are first
    timed one by one, and the gathering of their batches by itself, from which the time of a whole run follows. That run is then made,
    unless it would take longer than a minute. Nothing is validated between the epochs. Memory is the peak beyond what was held before the
    run, including the features on the device. On a CUDA device the claim is that five epochs take less than a minute.
    """
    split = make_split(VIDEOS_SMALL, CAPTIONS_A_VIDEO_SMALL) if place.small else make_split(VIDEOS, CAPTIONS_A_VIDEO)
    cache = make_cache(place.folder / "cache", 1, caption_lengths(CAPTIONS_A_VIDEO))
    steps = STEPS_SMALL if place.small else STEPS
    options = TrainingOptions(steps=steps, device="cuda" if place.device.type == "cuda" else "cpu")
    figures: dict[str, dict[str, float]] = {}
    holds: dict[str, bool] = {}
    remarks: list[str] = []
    for name, temporal in (("with the temporal encoder", "seq-transf"), ("without a temporal encoder", "none")):
        row = figures[name] = measure(cache, split, options, temporal)
        seconds = row["whole run, seconds, from its steps"]
        if seconds <= REACH_S:
            row |= whole_run(place, cache, split, options, temporal)
            seconds = row["whole run, seconds"]
        else:
            remarks.append(f"{name}: a whole run would take {seconds:.0f} s and was not made")
        if place.device.type == "cuda" and not place.small:
            holds[f"five epochs {name} take less than {REACH_S:.0f} s"] = seconds < REACH_S
    return Outcome(figures, holds, remarks)


def whole_run(place: Place, cache: FeatureCache, split: Split, options: TrainingOptions, temporal: str) -> dict[str, float]:
    """Seconds and memory of all epochs, from features in the machine's memory to trained weights."""
    with measured(place.device) as cost:
        trainer = make_trainer(cache, split, options, temporal)
        for epoch in range(1, EPOCHS + 1):
            trainer.run_epoch(epoch)
    row = {"whole run, seconds": cost.seconds}
    return row if cost.peak_extra_mib is None else row | {"peak extra MiB": cost.peak_extra_mib}


def make_split(videos: int, captions_a_video: int) -> Split:
    """Random features of this many videos, of FRAMES frames each, and of their captions, as float16 in memory."""
    generator = torch.Generator().manual_seed(0)
    captions = videos * captions_a_video

    def features(length_N: list[int]) -> Ragged:
        offsets = np.concatenate([[0], np.cumsum(length_N)])
        value_TD = torch.empty(int(offsets[-1]), DIMENSION, dtype=torch.float16)
        for part_RD in value_TD.split(ROWS_A_PART):
            part_RD.copy_(torch.randn(part_RD.shape, generator=generator) * SCALE)
        return Ragged.in_memory(value_TD.numpy(), offsets)

    texts = TextFeatures([f"caption {a}" for a in range(captions)], features(caption_lengths(captions)), features([1] * captions))
    seconds = [np.arange(FRAMES, dtype=np.float64)] * videos
    gallery = VideoFeatures([f"video {b}" for b in range(videos)], features([FRAMES] * videos), seconds)
    return Split("train", "synthetic", (), texts, gallery, np.repeat(np.arange(videos), captions_a_video), {})
