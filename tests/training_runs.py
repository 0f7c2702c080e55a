"""Training of any head, training that is interrupted, and what it has logged."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch import Tensor

from train_head.heads import PairwiseHead, head_class
from train_head.training.trainer import Trainer


def first_stage_of(head: str) -> dict[str, Any]:
    """The options that this head needs to be trained: those of a first stage, or none."""
    kind = head_class(head)
    alone = issubclass(kind, PairwiseHead) and kind.HARD_NEGATIVES_ONLY
    return {"candidates_run": "zero-shot:mean", "hard_negatives": 1} if alone else {}


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Interrupt training at its step of this number, as late as can be: the weights are changed, nothing is counted yet."""
    whole: Callable[[Trainer, np.ndarray], Tensor] = Trainer.step
    done = 0

    def interrupted(self: Trainer, texts: np.ndarray) -> Tensor:
        nonlocal done
        losses = whole(self, texts)
        done += 1
        if done == step:
            raise KeyboardInterrupt
        return losses

    monkeypatch.setattr(Trainer, "step", interrupted)


def logged(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "log.csv").drop(columns="seconds")
