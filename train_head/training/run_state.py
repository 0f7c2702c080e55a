"""Where a run stands between two steps. With the trainer's own state it is what a checkpoint holds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from data.metrics import Metrics
from train_head.training.checkpoint import load_checkpoint, save_checkpoint
from train_head.training.trainer import Trainer

_BEST = "best."
"""Prefix of the weights of the best epoch, among the tensors of a checkpoint."""


@dataclass
class RunState:
    """The epoch in progress, and what the finished ones gave. It saves itself to a checkpoint and restores itself from one."""

    epoch: int = 0
    """The epoch in progress; 0 measures the head before training."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the log, one an epoch."""
    record: dict[str, Any] = field(default_factory=dict)
    """What run.json says of the best epoch; empty before the first one ends."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best epoch, by name."""

    @classmethod
    def restore(cls, folder: Path, trainer: Trainer, check: Callable[[dict[str, Any]], None]) -> "RunState":
        """The state in the folder's checkpoint, with the trainer put where it was then; a new state where there is no checkpoint.

        `check` sees the values of the checkpoint before anything changes, and raises UserError where this run cannot go on with them.
        Raises UserError for a damaged checkpoint too.
        """
        found = load_checkpoint(folder)
        if found is None:
            return cls()
        tensors, values = found
        check(values)
        trainer.load_state(tensors, values["trainer"])
        best = {name.removeprefix(_BEST): value for name, value in tensors.items() if name.startswith(_BEST)}
        return cls(values["epoch"], values["rows"], values["record"], best)

    def save(self, folder: Path, trainer: Trainer, identity: Mapping[str, Any]) -> None:
        """Replace the folder's checkpoint by this state and the trainer's. `identity`: what a run that goes on must have in common."""
        tensors, values = trainer.state()
        tensors |= {_BEST + name: value for name, value in self.best.items()}
        state = {**identity, "epoch": self.epoch, "rows": self.rows, "record": self.record, "trainer": values}
        save_checkpoint(folder, f"{self.epoch}-{trainer.steps_done}", tensors, state)

    def improved_by(self, metrics: Metrics, split: str) -> bool:
        """Whether the epoch in progress has a higher text-to-video R@1 on this split than all before. Epoch 0 is no candidate."""
        if self.epoch == 0:
            return False
        return not self.record or metrics["text_to_video"]["R@1"] > self.record[split]["text_to_video"]["R@1"]

    def keep_best(self, record: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Make the epoch in progress the best one; the weights are copied."""
        self.record = record
        self.best = {name: value.detach().clone() for name, value in weights.items()}
