"""Memory that does not suffice: the commands say so in one line with the remedy, and the remedy helps.

The commands really run out of memory, because `limited` leaves them little.
"""

import subprocess
from pathlib import Path

from benchmarks.gpu.correctness.caches import make_cache
from benchmarks.gpu.correctness.commands import Word, ended
from benchmarks.gpu.options import ROOT
from benchmarks.gpu.place import Outcome, Place
from data.cli.command import USER_ERROR
from demo import generate

LIMITED = "benchmarks.gpu.correctness.limited"
REMEDY = "a --batch-size below "


def memory(place: Place) -> Outcome:
    """The step."""
    device = place.device.type
    # wti keeps the products of all words with all frames of the batch.
    videos, batch, smaller, mib = (2000, 1200, 60, 400) if device == "cpu" else (10_000, 4096, 64, 2000)
    cache = make_cache(place.folder / "cache", videos, 32).path
    words: list[Word] = ["train_head", "--cache", cache, "--head", "wti", "--temporal", "none", "--epochs", 1, "--quiet"]
    words += ["--device", device]
    # On a CPU, the stacks of many threads would count too.
    alone = {"OMP_NUM_THREADS": "1"}
    too_much = ended(LIMITED, device, mib, *words, "--batch-size", batch, "--out", place.folder / "run", environment=alone)
    less = ended(LIMITED, device, mib, *words, "--batch-size", smaller, "--out", place.folder / "another", environment=alone)
    holds = {"train_head: exhausted memory is one line with the remedy": _is_one_line(too_much, f"{REMEDY}{batch}")}
    holds["train_head: the remedy helps"] = less.returncode == 0
    said = {"train_head": _last(too_much)}
    if device == "cuda":
        commands = _others(cache, place.folder)
        for name, command in commands.items():
            none, enough = ended(LIMITED, device, 1, *command), ended(*command)
            holds[f"{name}: exhausted memory is one line with the remedy"] = _is_one_line(none, "--device cpu")
            holds[f"{name}: the same command goes on with more memory"] = enough.returncode == 0
            said[name] = _last(none)
    return Outcome({"said": said, "MiB allowed": mib, "captions of a step": batch}, holds)


def _others(cache: Path, folder: Path) -> dict[str, list[Word]]:
    """Commands without an option for smaller pieces. They run out of memory on CUDA alone, where nothing is allowed them."""
    generate.main(generate.GenerateOptions(folder / "demo", train=4, val=2, test=2, quiet=True))
    videos: list[Word] = ["--videos", folder / "demo" / "videos", "--annotations", folder / "demo" / "annotations", "--dataset", "demo"]
    clip = f"local-dir:{ROOT / 'demo' / 'clip'}"
    return {
        "evaluate": ["evaluate", "--cache", cache, "--run", "zero-shot:glccl", "--out", folder / "results", "--device", "cuda", "--quiet"],
        "extract": ["extract", *videos, "--cache", folder / "extracted", "--model", clip, "--device", "cuda", "--quiet"],
    }


def _is_one_line(done: subprocess.CompletedProcess[str], remedy: str) -> bool:
    return done.returncode == USER_ERROR and "Traceback" not in done.stderr and _last(done).startswith("error: ") and remedy in _last(done)


def _last(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip().splitlines() or [f"nothing; exit status {done.returncode}"])[-1]
