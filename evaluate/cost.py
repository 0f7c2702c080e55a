"""Measures the cost of scoring: time, memory, and FLOPs per pair."""

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.compute.device import synchronize
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Head
from train_head.scoring.splits import Split

_RESET_PEAK = Path("/proc/self/clear_refs")
_MIB = 2**20


@dataclass
class Cost:
    """Time and memory of a block of code, filled in when the block ends."""

    seconds: float = 0.0
    peak_extra_mib: float | None = None
    """Peak memory minus the memory at the start, in MiB: of CUDA's allocator, or on a CPU of the process. None outside Linux."""


@contextmanager
def measured(device: torch.device) -> Iterator[Cost]:
    """Measure the time and memory of the `with` block."""
    cost = Cost()
    synchronize(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    else:
        process = _resident_bytes_from_here()
    start = time.perf_counter()
    yield cost
    synchronize(device)
    cost.seconds = time.perf_counter() - start
    if device.type == "cuda":
        cost.peak_extra_mib = (torch.cuda.max_memory_allocated(device) - before) / _MIB
    elif process is not None:
        cost.peak_extra_mib = (_status_bytes("VmHWM") - process) / _MIB


def warm_up(head: Head, split: Split) -> None:
    """Score one pair, so that loading compiled code is not measured."""
    device = head.logit_scale.device
    head.eval()
    with torch.no_grad():
        texts = head.encode_texts(TextBatch.gather(split.texts, [0], device))
        head.scores(texts, head.encode_videos(VideoBatch.gather(split.videos, [0], device)))


def flops_a_pair(head: Head, split: Split) -> float:
    """FLOPs per pair (see `Head.pair_flops`), averaged over all text-video pairs of the split."""
    words_W, texts_W = np.unique(split.texts.words.length_N, return_counts=True)
    frames_V, videos_V = np.unique(split.videos.frames.length_N, return_counts=True)
    counted_W, counted_V = head.counted_words(words_W), head.counted_frames(frames_V)
    flops_WV = head.pair_flops(counted_W[:, None].astype(np.float64), counted_V.astype(np.float64))
    return float((flops_WV * texts_W[:, None] * videos_V).sum() / (texts_W.sum() * videos_V.sum()))


def _resident_bytes_from_here() -> int | None:
    """Reset the process's memory peak and return its resident memory; None if the system does not support this."""
    try:
        # Freed memory that the allocator keeps would hide later allocations.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
        _RESET_PEAK.write_text("5")
        return _status_bytes("VmRSS")
    except OSError:
        return None


def _status_bytes(name: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
