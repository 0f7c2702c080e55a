"""What every step of `benchmarks.gpu` is given and gives back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True)
class Place:
    """Where and how large a step runs.

    small: sizes that two cores finish in seconds, for tests and for machines without a GPU. The figures then say nothing about speed.
    folder: scratch of this step alone.
    """

    device: torch.device
    small: bool
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """What a step found: figures by name, as JSON values; whether each claim that it checked holds; and remarks for the page."""

    figures: dict[str, Any]
    holds: dict[str, bool] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    """What could not be checked here, such as a codec that the card does not decode."""
