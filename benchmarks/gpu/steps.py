"""The steps of `benchmarks.gpu`, in their order. Functions are named, not imported, so that one that cannot be loaded stops no other."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from data.base.errors import UserError


@dataclass(frozen=True)
class Step:
    """A step: its name, the function `module:function` that takes a Place and returns an Outcome, and what it is about."""

    name: str
    function: str
    about: str
    share: float
    """How the minutes are divided: the step's share is this by the sum over all steps."""
    cuda_devices: int = 0
    """The least number of CUDA devices."""


MACHINE = "machine"
"""The step whose figures head the page. It is always run."""
CORRECTNESS = "benchmarks.gpu.correctness"
STEPS = (
    Step(MACHINE, "benchmarks.gpu.machine:facts", "The card, its driver and the versions of what computes", 1),
    Step("heads", f"{CORRECTNESS}.heads:heads", "Scores and gradients of every head against float64 on the CPU", 4),
    Step("evaluation", f"{CORRECTNESS}.evaluation:evaluation", "Metrics and ranks of evaluate against those of the CPU", 2),
    Step("training", f"{CORRECTNESS}.training:training", "Losses of train_head against those of the CPU, and --resume", 4),
    Step("finetuning", f"{CORRECTNESS}.finetuning:finetuning", "train_head --finetune, with and without --grad-checkpointing", 4),
    Step("memory", f"{CORRECTNESS}.memory:memory", "What the commands say when memory is exhausted", 3),
    Step("processes", f"{CORRECTNESS}.processes:sharing_one_device", "Two processes on one device (gloo) against one process", 3),
    Step(
        "processes-nccl",
        f"{CORRECTNESS}.processes:one_device_each",
        "Two processes on a device each (nccl) against one process",
        3,
        cuda_devices=2,
    ),
    Step("features", f"{CORRECTNESS}.encoding:features", "CLIP's features in float32 against those of the CPU", 1),
    Step("resizing", f"{CORRECTNESS}.encoding:resizing", "Pictures of --resize-on device against those of the CPU", 1),
    Step("encoders", "benchmarks.gpu.extraction:encoders", "Frames a second of the encoders", 5),
    Step("workers", "benchmarks.gpu.extraction:workers", "Extraction by the number of workers", 4),
    Step("decoding", "benchmarks.gpu.decoding:cuda_decoding", "Frames decoded on the card against those of the CPU", 3),
    Step("scoring", "benchmarks.gpu.scoring:matrices", "Pairs a second of the heads", 4),
    Step("full-size-training", "benchmarks.gpu.training:full_size", "Steps of training at MSR-VTT's size", 5),
)


def chosen(names: str, steps: Sequence[Step] = STEPS) -> list[Step]:
    """The steps of `--steps NAMES` and MACHINE, in their order. Raises UserError for a name that is none."""
    if names == "all":
        return list(steps)
    given = [name.strip() for name in names.split(",")]
    unknown = [name for name in given if name not in {step.name for step in steps}]
    if unknown:
        raise UserError(f"--steps {unknown[0] or repr(names)} is unknown: use all, or some of {','.join(step.name for step in steps)}")
    return [step for step in steps if step.name in (MACHINE, *given)]


def lacking(step: Step, device: torch.device) -> str:
    """What the step needs and this machine or --device lacks; empty if nothing."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 0
    return "" if devices >= step.cuda_devices else f"it needs {step.cuda_devices} CUDA devices, and there are {devices}"
