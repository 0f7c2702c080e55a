"""The progress of a run over epochs. A checkpoint holds this and the trainer's state."""

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
    """The epoch in progress and the results of the finished ones. Saves itself to a checkpoint and restores itself from one."""

    epoch: int = 0
    """The epoch in progress; 0 measures the head before training."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Rows of the log, one per epoch."""
    record: dict[str, Any] = field(default_factory=dict)
    """The entries of run.json for the best epoch; empty until epoch 1 ends."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The weights of the best epoch, by name."""

    @classmethod
    def restore(cls, folder: Path, trainer: Trainer, check: Callable[[dict[str, Any]], None]) -> "RunState":
        """Restore the state and the trainer from the folder's checkpoint. Without a checkpoint, return a new state.

        `check` gets the checkpoint's values before anything is restored; it raises UserError if this run cannot continue from them.
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
        """Replace the folder's checkpoint by this state and the trainer's. `identity` holds the values that a resumed run must match."""
        tensors, values = trainer.state()
        tensors |= {_BEST + name: value for name, value in self.best.items()}
        state = {**identity, "epoch": self.epoch, "rows": self.rows, "record": self.record, "trainer": values}
        save_checkpoint(folder, f"{self.epoch}-{trainer.steps_done}", tensors, state)

    def improved_by(self, metrics: Metrics, split: str) -> bool:
        """Whether the epoch in progress has the highest text-to-video R@1 on this split so far. Epoch 0 never counts."""
        if self.epoch == 0:
            return False
        return not self.record or metrics["text_to_video"]["R@1"] > self.record[split]["text_to_video"]["R@1"]

    def keep_best(self, record: dict[str, Any], weights: Mapping[str, Tensor]) -> None:
        """Record the epoch in progress as the best one. Copies the weights."""
        self.record = record
        self.best = {name: value.detach().clone() for name, value in weights.items()}
