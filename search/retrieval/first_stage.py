"""The run of --candidates-run, which finds the candidates that another run scores: here and in `python -m evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data.base.errors import UserError
from data.cache import FeatureCache
from train_head.heads import Execution, Head
from train_head.run import RunOptions, load_head


@dataclass(frozen=True)
class FirstStage:
    """The run, as it was trained: --max-frames, --tau and --kappa do not change it."""

    name: str
    """The folder of the run, or zero-shot:HEAD."""
    head: Head
    record: dict[str, Any]
    """Contents of run.json."""
    trained_with: RunOptions

    @property
    def max_frames(self) -> int | None:
        """Frames used of each video; None for all."""
        return self.trained_with.max_frames


def load_first_stage(name: str, cache: FeatureCache, device: torch.device, execution: Execution) -> FirstStage:
    """Load the run of --candidates-run. Raises UserError if it does not exist or does not fit the cache."""
    try:
        head, record = load_head(name, cache, device, execution)
    except UserError as error:
        # The errors name --run, which is another one here.
        raise UserError(f"--candidates-run: {error}", error.listed, error.whole) from error
    return FirstStage(name, head, record, RunOptions.read(record, name))


def check_first_stage(run: str | None, candidates: object, index: Path | None, candidates_from: str) -> None:
    """Raise UserError for options that do not go with --candidates-run, whose value is `run`."""
    if run is None:
        return
    if candidates is None:
        raise UserError("--candidates-run needs a number of candidates: add one, such as --candidates 50")
    if index is not None or candidates_from != "frames":
        raise UserError("--index and --candidates-from find candidates with an index, --candidates-run with a run: leave one of them out")
