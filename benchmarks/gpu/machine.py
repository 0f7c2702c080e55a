"""The step that says what computes: the card, the driver, the processor and the versions."""

import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.place import Outcome, Place


def facts(place: Place) -> Outcome:
    """The figures that the page begins with."""
    return Outcome({**_card(place.device), **_versions(), **_processor()})


def _card(device: torch.device) -> dict[str, Any]:
    if device.type != "cuda":
        return {"card": f"none: {device.type}"}
    card = torch.cuda.get_device_properties(device)
    return {
        "card": card.name,
        "cards": torch.cuda.device_count(),
        "memory, GiB": round(card.total_memory / 2**30, 1),
        "compute capability": f"{card.major}.{card.minor}",
        "multiprocessors": card.multi_processor_count,
        "driver": _driver(),
        "CUDA of torch": torch.version.cuda,
        "cuDNN": torch.backends.cudnn.version(),
    }


def _driver() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "unknown: nvidia-smi is missing"
    asked = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60).stdout.split()
    return found[0] if found else "unknown: nvidia-smi does not answer"


def _versions() -> dict[str, Any]:
    return {"torch": torch.__version__, "Python": platform.python_version(), "system": platform.platform()}


def _processor() -> dict[str, Any]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": names[0] if names else platform.processor(), "cores": cores, "threads of torch": torch.get_num_threads()}
