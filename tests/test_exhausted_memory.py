"""What a command says when memory is exhausted: one line with what helps, not a traceback."""

import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any

import numpy as np
import pytest
import torch

from data.cli.command import USER_ERROR, run_command
from data.cli.command_line import About
from data.cli.meaning import SavesMemory, marks
from evaluate import EvaluateOptions
from extract import ExtractOptions
from search import SearchOptions
from train_head import TrainOptions
from train_head.sweep import SweepOptions

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
