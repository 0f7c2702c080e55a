"""The ways of a model to encode a batch, their rates, and how far their features are from those of float32.

Shape suffixes: N images, C colour channels, H and W image sides, D joint dimension.
"""

import copy
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.encoding.options import EncodingOptions
from benchmarks.measure import time_interleaved
from data.base.errors import UserError
from data.base.provenance import provenance
from data.base.whole_files import write_json
from data.base.writable import make_folder, require_writable_file
from data.compute.arithmetic import exact_arithmetic
from extract.encode.clip import BATCH, Clip, load_clip
from extract.encode.towers import pooled

CPU = torch.device("cpu")
TODAY = "fp32"
Row = dict[str, Any]
Way = Callable[[], NDArray[np.float32]]


def main(options: EncodingOptions) -> Row:
    """Measure, print a Markdown table and, as the last line, JSON; and write it to OUT."""
    require_writable_file(options.out)
    models, compiled = (text.split(",") if text else [] for text in (options.models, options.compiled))
    unknown = set(compiled) - set(models)
    if unknown:
        raise UserError(f"--compiled {options.compiled}: must be among --models {options.models}")
    threads = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        rows = [row for model in models for row in measure(model, options.repeats, model in compiled)]
    finally:
        torch.set_num_threads(threads)
    print_rows(rows)
    figures = {"threads": options.threads, "ways": rows}
    make_folder(options.out.parent)
    write_json(options.out, {"figures": figures, "provenance": provenance(options)})
    print(json.dumps(figures))
    return figures


def ways_of(model: str, compiled: bool) -> dict[str, Way]:
    """The ways to encode one batch of noise."""
    plain, onednn, bf16 = (
        load_clip(model, "random", CPU, precision="bf16" if way == "bf16" else "fp32", matmul="onednn" if way == "onednn" else "blas")
        for way in (TODAY, "onednn", "bf16")
    )
    image_NCHW = torch.randn(BATCH, 3, *plain.image_settings()["image_size"], generator=torch.Generator().manual_seed(0))
    last = torch.channels_last
    ways: dict[str, Way] = {
        TODAY: lambda: plain.encode_images(image_NCHW).feature_ND,
        "fp32, channels last": partial(_encode, _with_format(plain, last), image_NCHW.contiguous(memory_format=last)),
        "fp32 under autocast to bf16": partial(_autocast, plain, image_NCHW),
        "--matmul onednn": lambda: onednn.encode_images(image_NCHW).feature_ND,
        "--precision bf16": lambda: bf16.encode_images(image_NCHW).feature_ND,
    }
    if compiled:
        ways["fp32, torch.compile"] = partial(_encode, torch.compile(plain.model.encode_image), image_NCHW)
        ways["bf16, torch.compile"] = partial(_encode, torch.compile(bf16.model.encode_image), image_NCHW.bfloat16())
    return ways


def measure(model: str, repeats: int, compiled: bool) -> list[Row]:
    """A row for each way of a model."""
    ways = ways_of(model, compiled)
    first: dict[str, float] = {}
    features: dict[str, NDArray[np.float32]] = {}
    for name, way in ways.items():
        start = time.perf_counter()
        features[name] = way()
        first[name] = time.perf_counter() - start
    timings = time_interleaved(ways, repeats)
    return [
        {
            "model": model,
            "way": name,
            "pictures a second": BATCH / timing.wall_s,
            "times": timings[TODAY].wall_s / timing.wall_s,
            "times, CPU": timings[TODAY].cpu_s / timing.cpu_s,
            "first batch, s": first[name],
            "error": relative_error(features[name], features[TODAY]),
            "same bits": bool(np.array_equal(features[name], features[TODAY])),
        }
        for name, timing in timings.items()
    ]


def relative_error(feature_ND: NDArray[np.float32], expected_ND: NDArray[np.float32]) -> float:
    """The largest length of a difference of features, divided by that of the feature."""
    return float((np.linalg.norm(feature_ND - expected_ND, axis=1) / np.linalg.norm(expected_ND, axis=1)).max())


def print_rows(rows: list[Row]) -> None:
    print("| model | way | pictures a second | times | times, CPU | first batch, s | relative error |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        cells = [f"{row[name]:.2f}" for name in ("times", "times, CPU", "first batch, s")]
        error = "same bits" if row["same bits"] else f"{row['error']:.0e}"
        print(f"| {row['model']} | {row['way']} | {row['pictures a second']:.1f} | {' | '.join(cells)} | {error} |")


@torch.no_grad()
def _encode(encode: Callable[..., Any], image_NCHW: Tensor) -> NDArray[np.float32]:
    return np.asarray(pooled(encode(image_NCHW)).float())


def _autocast(clip: Clip, image_NCHW: Tensor) -> NDArray[np.float32]:
    with torch.autocast("cpu", torch.bfloat16), exact_arithmetic(torch.device("cpu")):
        return _encode(clip.model.encode_image, image_NCHW)


def _with_format(clip: Clip, memory_format: torch.memory_format) -> Callable[..., Any]:
    encode: Callable[..., Any] = copy.deepcopy(clip.model).to(memory_format=memory_format).encode_image
    return encode
