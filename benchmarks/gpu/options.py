"""Options of `python -m benchmarks.gpu`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class GpuOptions:
    """Check the results and measure the speed of all stages on this machine's GPU. Needs no network and no data."""

    minutes: float = 8.0
    """Time for all steps together. Every step has a share of it as its limit; time that a step leaves goes to the later ones."""
    out: Path = ROOT / "runs" / "benchmarks" / "gpu"
    """Folder for gpu.md, steps.jsonl and the steps' logs."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Device to check. cpu tries the steps on a machine without a GPU."""
    small: bool = False
    """Small sizes that two cores finish in seconds. The figures then say nothing about speed."""
    steps: str = "all"
    """Steps to run, joined by commas."""
