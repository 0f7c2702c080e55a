"""The tests of exactness as other processors would compute: `python -m tests.processors`, or `make test-processors`.

Libraries choose their code by what a processor offers. Variables of the environment let one processor stand for others: those of MKL and
oneDNN (matrix products, convolutions), ATen (element by element) and numba (the compiled loops). Each setting runs in processes of its own:

- the tests marked `exact`: within a setting, results are equal bit for bit;
- all heads on one set of features, with 1, 2 and 4 threads: equal bit for bit, and as near to those of the other settings as float32
  allows (tests/plain_heads.py).

A setting may change nothing here, on an AMD processor for example. What it changed is printed, and where none changed anything, nothing
was shown: the command fails.
"""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from tests.conftest import ROOT
from tests.features import PATCHES, text_batch, video_batch
from tests.plain_heads import rounding
from tests.torch_threads import threads
from train_head.heads import HEADS, Head, HeadConfig, VideoBatch, make_head
from train_head.kernels.fused import lane_videos

SETTINGS: dict[str, dict[str, str]] = {
    "no setting": {},
    "MKL_CBWR=COMPATIBLE": {"MKL_CBWR": "COMPATIBLE"},
    "MKL_CBWR=AVX2": {"MKL_CBWR": "AVX2"},
    "MKL_CBWR=AVX2,STRICT": {"MKL_CBWR": "AVX2,STRICT"},
    "ATEN_CPU_CAPABILITY=default": {"ATEN_CPU_CAPABILITY": "default"},
    "ONEDNN_MAX_CPU_ISA=SSE41": {"ONEDNN_MAX_CPU_ISA": "SSE41"},
    "NUMBA_CPU_NAME=generic": {"NUMBA_CPU_NAME": "generic"},
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "4 threads": {"OMP_NUM_THREADS": "4"},
}
CHOSEN = {name.split("=")[0] for name in SETTINGS if "=" in name}
DIMENSION, WORDS, FRAMES = 64, 9, 7


@dataclass(frozen=True)
class Found:
    """What a setting gave."""

    arrays: dict[str, np.ndarray[Any, Any]]
    """`probe NAME`: digests of reference results; `scores NAME`: those of a head [S, A, B]."""
    tests: str
    """The closing line of the tests, empty where they passed."""


Features = tuple[list[Tensor], list[Tensor], list[Tensor]]


def features() -> Features:
    """Sentences, words and frames; by NumPy, whose random numbers no setting changes."""
    generator = np.random.default_rng(0)

    def rows(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal((*shape, DIMENSION)).astype(np.float32))

    return [rows() for _ in range(5)], [rows(n) for n in (1, 9, 4, 7, 2)], [rows(n) for n in (5, 7, 1, 6)]


@torch.no_grad()
def head_off_its_start(name: str) -> Head:
    """A head with all matrices and layers off where they start."""
    head = make_head(name, HeadConfig(DIMENSION, WORDS, logit_scale=1.0, max_frames=FRAMES, patches=PATCHES)).eval()
    generator = np.random.default_rng(1)
    for parameter in head.parameters():
        if parameter.ndim:
            spread = 0.3 * parameter.shape[-1] ** -0.5
            parameter.copy_(torch.eye(*parameter.shape) if parameter.ndim == 2 and parameter.shape[0] > 1 else torch.ones(parameter.shape))
            parameter.add_(torch.from_numpy(generator.standard_normal(tuple(parameter.shape)).astype(np.float32)), alpha=spread)
    return head


def probes() -> dict[str, Tensor]:
    """Results in which a setting shows."""
    generator = np.random.default_rng(2)

    def random(*shape: int) -> Tensor:
        return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))

    rows, columns, pictures, kernel, frames = (
        random(384, 500),
        random(192, 500),
        random(2, 16, 20, 20),
        random(16, 16, 3, 3),
        random(3, 5, 70),
    )
    return {
        "matrix products": rows @ columns.T,
        "convolutions": conv2d(pictures, kernel),
        "softmax": rows.softmax(dim=-1),
        "compiled loops": lane_videos(VideoBatch(frames, torch.ones(3, 5, dtype=torch.bool))).gram_NFFV,
    }


@torch.no_grad()
def measure(path: Path) -> None:
    """Write what this process's setting gives; asserts that the number of threads changes nothing."""
    arrays = {
        f"probe {name}": np.frombuffer(hashlib.sha256(value.numpy().tobytes()).digest(), np.uint8) for name, value in probes().items()
    }
    sentences, words, frames = features()
    texts, videos = text_batch(sentences, words), video_batch(frames)
    for name in HEADS:
        head = head_off_its_start(name)
        for count in (1, 2, 4):
            with threads(count):
                scores = head.scores(head.encode_texts(texts), head.encode_videos(videos)).numpy()
            before = arrays.setdefault(f"scores {name}", scores)
            assert np.array_equal(before, scores), f"{name}: {count} threads give other bits"
    np.savez(path, allow_pickle=False, **arrays)


def run(name: str, folder: Path) -> Found:
    """One setting: the measured arrays and the tests."""
    # Who calls this has perhaps chosen already.
    environment = {key: value for key, value in os.environ.items() if key not in CHOSEN} | SETTINGS[name]
    environment.setdefault("OMP_NUM_THREADS", "2")
    # Two settings share the cores: threads that wait for others must not keep one.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    path = folder / f"{len(list(folder.iterdir()))}-{name.replace(' ', '-')}.npz"

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    measured = python("-m", "tests.processors", str(path))
    if measured.returncode:
        return Found({}, measured.stderr.strip())
    tested = python("-m", "pytest", "-m", "exact", "-p", "no:cacheprovider", f"--basetemp={folder / path.stem}")
    with np.load(path) as file:
        return Found(dict(file), "" if tested.returncode == 0 else tested.stdout.strip())


def changed(found: Found, default: Found) -> list[str]:
    """The probes that a setting changes the bits of."""
    return [
        key.removeprefix("probe ")
        for key in default.arrays
        if key.startswith("probe ") and (found.arrays[key] != default.arrays[key]).any()
    ]


def share_of_tolerance(found: Found, default: Found) -> dict[str, float]:
    """The largest difference of each head's scores to those of no setting, as a share of what float32 allows both sides together."""
    sentences, words, frames = features()
    shares = {}
    for name in HEADS:
        parameters = {key: value.detach().double() for key, value in head_off_its_start(name).named_parameters()}
        allowed = 2 * rounding(name, sentences, words, frames, parameters).numpy()
        shares[name] = float((np.abs(found.arrays[f"scores {name}"] - default.arrays[f"scores {name}"]) / allowed).max())
    return shares


def main() -> int:
    """Run all settings, two at a time; 1 where one fails or none but the default was effective."""
    failures: list[str] = []
    effective = 0
    with TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        results = dict(zip(SETTINGS, pool.map(lambda name: run(name, Path(folder)), SETTINGS), strict=True))
    default = results["no setting"]
    for name, found in results.items():
        said = "the tests of exactness pass"
        if found.tests:
            said = "FAILED"
            failures.append(f"{name}:\n{found.tests}")
        if not found.arrays or not default.arrays:
            print(f"{name}: {said}")
            continue
        changes = changed(found, default)
        effective += bool(changes)
        shares = share_of_tolerance(found, default)
        worst = max(shares, key=lambda head: shares[head])
        if shares[worst] > 1:
            failures.append(f"{name}: scores of {worst} differ by {shares[worst]:.2f} of what float32 allows")
        near = f"scores within {shares[worst]:.3f} of what float32 allows ({worst})"
        print(f"{name}: changes {', '.join(changes) or 'nothing'}; {near}; {said}", flush=True)
    if not effective:
        failures.append("no setting changed a bit on this processor: nothing was shown of others")
    print("\n\n".join(failures), file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        sys.exit(main())
