"""What extraction computes on the device against the CPU: CLIP's features in float32, and pictures resized by `--resize-on device`.

Shape suffixes: N images or texts, D joint dimension, C colour channels, H and W sides of pictures, L positions.
"""

from copy import deepcopy

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.extraction import DEMO_CLIP
from benchmarks.gpu.correctness.bounds import largest, most
from benchmarks.gpu.place import Outcome, Place
from extract.encode.clip import Clip, load_clip
from extract.encode.models import RANDOM

MODEL, MODEL_SMALL = ("ViT-B-32", RANDOM), (DEMO_CLIP, None)
LONGEST_SUM = 3072
"""Most products in one sum: of a patch of 3 x 32 x 32 values, and of the hidden layer of a block."""
DRAWS = 3
IMAGES = 8
TEXTS = ("a dog runs", "a man sings on a stage", "two people are cooking a meal in a kitchen")
SIZES = ((640, 360), (320, 240), (240, 320), (1280, 720), (90, 70))
"""Widths and heights of the pictures to resize."""
MOST_APART = 2.0
"""Mean difference of a value, of 255: the device computes in float32 and rounds, Pillow in integers after each direction."""

Features = dict[str, Tensor]


def features(place: Place) -> Outcome:
    """Features of pictures and texts in float32.

    Roundings of a sum of K products add up as a random walk, so that the bound comes from weights changed at random by up to eight of its
    standard deviations, K ** 0.5 * 2**-24 each: three times the worst of DRAWS draws, and the same share for what follows. Features have
    unit length.
    """
    model, pretrained = MODEL_SMALL if place.small else MODEL
    on_cpu, ours = (load_clip(model, pretrained, device) for device in (torch.device("cpu"), place.device))
    share = 8 * LONGEST_SUM**0.5 * 2.0**-24
    expected = of_clip(on_cpu)
    bounds = bounds_of(on_cpu, expected, share)
    found = of_clip(ours)
    moved = {kind: largest(found[kind] - feature_ND) for kind, feature_ND in expected.items()}
    holds = {f"{kind} features in float32 are those of the CPU within rounding": moved[kind] <= bounds[kind] for kind in expected}
    return Outcome({kind: {"largest difference": moved[kind], "its bound": bounds[kind]} for kind in expected}, holds)


def of_clip(clip: Clip) -> Features:
    """The features [N, D] of unit length of random pictures and of TEXTS."""
    image_NCHW = torch.randn(IMAGES, 3, *clip.image_settings()["image_size"], generator=torch.Generator().manual_seed(0))
    id_NL, _ = clip.tokenize(TEXTS, clip.context_length)
    found = {"image": clip.encode_images(image_NCHW).feature_ND, "text": clip.encode_texts(id_NL)[0]}
    return {kind: normalize(torch.from_numpy(feature_ND).double(), dim=-1) for kind, feature_ND in found.items()}


def bounds_of(clip: Clip, expected: Features, share: float) -> dict[str, float]:
    """How far rounding may move a value of each kind of features. Leaves the weights as they were."""
    start = deepcopy(clip.model.state_dict())
    moved: dict[str, list[float]] = {kind: [] for kind in expected}
    for draw in range(DRAWS):
        generator = torch.Generator().manual_seed(draw)
        with torch.no_grad():
            for parameter in clip.model.parameters():
                parameter.mul_(1 + share * (2 * torch.rand(parameter.shape, generator=generator) - 1))
        for kind, feature_ND in of_clip(clip).items():
            moved[kind].append(largest(feature_ND - expected[kind]))
        clip.model.load_state_dict(start)
    return {kind: 3 * most(moved[kind]) + share * largest(expected[kind]) for kind in expected}


def resizing(place: Place) -> Outcome:
    """Pictures resized by `--resize-on device` against those that Pillow resizes on the CPU."""
    model, pretrained = MODEL_SMALL if place.small else MODEL
    on_cpu = load_clip(model, pretrained, torch.device("cpu"))
    ours = load_clip(model, pretrained, place.device, resize_on="device")
    figures, holds = {}, {}
    for width, height in SIZES:
        image = picture(width, height)
        apart_CHW = (ours.crop(image).cpu().double() - on_cpu.crop(image).double()).abs()
        name = f"{width}x{height}"
        figures[name] = {"mean difference of a value, of 255": float(apart_CHW.mean()), "largest": float(apart_CHW.max())}
        holds[f"{name}: pixels differ by {MOST_APART:g} of 255 on average at most"] = float(apart_CHW.mean()) <= MOST_APART
    return Outcome(figures, holds)


def picture(width: int, height: int) -> Image.Image:
    """A picture of coarse and fine texture."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    fine_HWC = rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(np.int64) + fine_HWC).clip(0, 255).astype(np.uint8))
