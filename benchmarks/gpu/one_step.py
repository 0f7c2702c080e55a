"""Runs one step and writes what it found: `python -m benchmarks.gpu.one_step MODULE:FUNCTION DEVICE full|small FOLDER RESULT`."""

import importlib
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.place import Outcome, Place
from data.base.errors import one_line


def json_figure(value: Any) -> Any:
    """The value with numbers that JSON lacks, NaN and infinities, as text."""
    if isinstance(value, dict):
        return {str(key): json_figure(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [json_figure(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def run(function: str, place: Place) -> Outcome:
    """Import the step's function and call it."""
    module, _, name = function.partition(":")
    outcome: Outcome = getattr(importlib.import_module(module), name)(place)
    return outcome


def main(function: str, device: str, size: str, folder: str, result: str) -> None:
    """Write RESULT: the outcome as JSON, or the error as {"error": its last line}, which is then raised."""
    try:
        found = asdict(run(function, Place(torch.device(device), size == "small", Path(folder))))
    except Exception as error:
        Path(result).write_text(json.dumps({"error": f"{type(error).__name__}: {one_line(error)}"}), encoding="utf-8")
        raise
    Path(result).write_text(json.dumps(json_figure(found), allow_nan=False), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
