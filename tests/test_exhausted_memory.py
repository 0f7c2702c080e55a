"""What a command says when memory is exhausted: one line with what helps, not a traceback."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import h5py
import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from data.cli.command import USER_ERROR, run_command
from data.cli.command_line import About
from data.cli.meaning import SavesMemory, marks
from data.compute.memory import Lack, OutOfMemory, exhausted, in_use
from evaluate import EvaluateOptions
from extract import ExtractOptions
from search import SearchOptions
from train_head import TrainOptions, stage
from train_head import main as train
from train_head.sweep import SweepOptions
from train_head.training.workers import in_processes

OF_CUDA = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.50 GiB is free. Including "
    "non-PyTorch memory, this process has 77.60 GiB memory in use."
)
OF_MPS = "MPS backend out of memory (MPS allocated: 5.28 GB, max allowed: 18.13 GB). Tried to allocate 25.00 MB on private pool."


@dataclass(frozen=True)
class Plain:
    """A command without options that save memory."""

    count: Annotated[int, About.INPUT] = 1


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command replaces the standard streams and the handler of SIGTERM for the rest of its process."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


def said_of(
    work: Callable[[Any], Any], options: type, given: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    monkeypatch.setattr(sys, "argv", ["command", *given])
    with pytest.raises(SystemExit) as ended:
        run_command(options, work, prog="command")
    assert ended.value.code == USER_ERROR
    return capfd.readouterr().err


def fail(error: Exception) -> Callable[[Any], None]:
    def work(_: Any) -> None:
        raise error

    return work


TRAIN = ["--cache", "cache", "--out", "run"]


@pytest.mark.parametrize(
    ("error", "options", "given", "expected"),
    [
        (
            torch.OutOfMemoryError(OF_CUDA),
            TrainOptions,
            TRAIN,
            "the GPU has too little free memory (no room for 20.00 GiB more): use a --batch-size below 128 with another --out, a smaller "
            "--memory-budget or --device cpu, or end other programs that use it",
        ),
        (
            RuntimeError(OF_MPS),
            TrainOptions,
            [*TRAIN, "--finetune", "--batch-size", "16"],
            "the GPU has too little free memory (no room for 25.00 MB more): use a --batch-size below 16 with another --out, "
            "--grad-checkpointing, a smaller --memory-budget or --device cpu, or end other programs that use it",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            EvaluateOptions,
            ["--cache", "cache", "--run", "zero-shot:mean", "--out", "out"],
            "the GPU has too little free memory: use a smaller --memory-budget or --device cpu, or end other programs that use it",
        ),
        (
            torch.OutOfMemoryError(OF_CUDA),
            ExtractOptions,
            ["--videos", "videos", "--cache", "cache"],
            "the GPU has too little free memory (no room for 20.00 GiB more): use fewer --workers or --device cpu, or end other programs "
            "that use it",
        ),
    ],
)
def test_memory_of_a_gpu(
    error: Exception, options: type, given: list[str], expected: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert said_of(fail(error), options, given, monkeypatch, capfd) == f"error: {expected}\n"


@pytest.mark.parametrize(
    ("allocate", "asked"),
    [
        (lambda _: torch.empty(2**50), "4,294,967,296.0 MiB"),
        (lambda _: np.empty(2**50), "8.00 PiB"),
        (lambda _: bytearray(2**60), None),
        (lambda _: pa.allocate_buffer(2**60), None),
        (lambda _: Image.new("L", (2**30, 2**20)), None),
        (lambda _: h5py.File("x", "w", driver="core", backing_store=False, block_size=2**60).create_group("a"), None),
    ],
)
def test_memory_of_the_machine_by_whoever_asks_for_it(
    allocate: Callable[[Any], Any], asked: str | None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Genuine failures: no machine has as much."""
    room = f" (no room for {asked} more)" if asked else ""
    said = said_of(allocate, TrainOptions, [*TRAIN, "--finetune", "--grad-checkpointing"], monkeypatch, capfd)
    remedy = "use a --batch-size below 128 with another --out or a smaller --memory-budget, or end other programs that use it"
    assert said == f"error: this machine has too little free memory{room}: {remedy}\n"
    said = said_of(allocate, Plain, [], monkeypatch, capfd)
    assert said == f"error: this machine has too little free memory{room}: end other programs that use it\n"


def start_without_room(_: Any) -> None:
    """A genuine failure to start a thread: no machine has room for its stack."""
    before = threading.stack_size(2**47)
    try:
        threading.Thread(target=int).start()
    finally:
        threading.stack_size(before)


def test_threads_that_cannot_start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    assert said_of(start_without_room, EvaluateOptions, ["--cache", "c", "--run", "r", "--out", "o"], monkeypatch, capfd) == (
        "error: no more threads or processes can be started, for lack of memory or by the limit of processes (ulimit -u): use a smaller "
        "--memory-budget, or end other programs, or raise the limits (ulimit -u, ulimit -v)\n"
    )


def test_a_failure_of_onednn_may_be_a_bug(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    work = fail(RuntimeError("could not create a primitive"))
    assert said_of(work, ExtractOptions, ["--videos", "videos", "--cache", "cache"], monkeypatch, capfd) == (
        "error: oneDNN, which computes on the CPU, failed (could not create a primitive), perhaps for too little free memory: use fewer "
        "--workers, or end other programs that use it; if there was enough, it is a bug to report\n"
    )
    assert exhausted(RuntimeError("could not create a primitive descriptor for a convolution forward propagation primitive")) is None


IN_A_PROCESS = """
import os, resource, subprocess, threading
from data.compute.memory import exhausted
from extract.encode.prefetch import Prefetcher
from train_head.kernels.threads import parallel

def leave(room):
    held = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + room, -1))

def told(work):
    try:
        work()
    except (MemoryError, RuntimeError, OSError, ImportError) as error:
        print(exhausted(error).lack.name)

def prefetch():
    with Prefetcher(range(9), lambda job, put: put(job), workers=2, depth=1, stop=lambda: None):
        print("started")

threading.stack_size(2**32)
leave(2**32 + 2**31)  # for one thread, but not for two
told(prefetch)
told(lambda: parallel(2, lambda job, state: None, range(2), lambda: None))
leave(2**22)
told(lambda: __import__("pyarrow"))
leave(2**30)
if os.getuid() == 0:
    os.setuid(65534)  # the limit does not hold for root
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
told(lambda: subprocess.Popen(["true"]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory and of processes are Linux's")
def test_limits_of_a_process_are_told_and_it_ends() -> None:
    """One thread of two starts. It must not wait for the other for ever."""
    done = subprocess.run([sys.executable, "-c", IN_A_PROCESS], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", ["THREADS", "THREADS", "MACHINE", "THREADS"])


def ask_for_too_much(_state: int, _job: str) -> None:
    np.empty(2**50)


def test_memory_of_a_process_at_work_on_jobs() -> None:
    with pytest.raises(OutOfMemory) as error:
        dict(in_processes(1, ask_for_too_much, 0, ["a"]))
    found = exhausted(error.value)
    assert found is not None
    assert (found.lack, found.asked) == (Lack.MACHINE, "8.00 PiB")


def test_the_batch_in_use_is_named(
    cache_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fit(*_: object, **__: object) -> None:
        np.empty(2**50)

    monkeypatch.setattr(stage, "fit", fit)
    said = said_of(train, TrainOptions, ["--cache", str(cache_path), "--out", str(tmp_path / "run"), "--head", "mean"], monkeypatch, capfd)
    batch = said.partition("batches of ")[2].split()[0]
    assert int(batch) < 128
    assert f"use a --batch-size below {batch} with another --out" in said


def test_no_batch_below_the_smallest(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def work(_: Any) -> None:
        with in_use(batch_size=2):
            bytearray(2**60)

    assert "use a smaller --memory-budget, or end" in said_of(work, TrainOptions, TRAIN, monkeypatch, capfd)


def test_other_errors_of_torch_stay_bugs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(RuntimeError, match="must match the size"):
        run_command(Plain, lambda _: torch.ones(2) + torch.ones(3), prog="command")


@pytest.mark.parametrize("options", [ExtractOptions, TrainOptions, SweepOptions, EvaluateOptions, SearchOptions])
def test_remedies_are_options_of_the_command(options: Any) -> None:
    names = {f"--{field.name.replace('_', '-')}" for field in fields(options)}
    said = [mark.how for found in marks(options).values() for mark in found if isinstance(mark, SavesMemory)]
    assert said
    assert {word for how in said for word in how.split() if word.startswith("--")} <= names
