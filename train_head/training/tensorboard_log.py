"""Scalars of training for TensorBoard, where they are asked for."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from data.base.errors import UserError

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes figures of steps and epochs to a folder, where TensorBoard reads them; without a folder it writes nothing.

    Steps are counted from 1 over all epochs; an epoch's figures stand at its last step. `steps_done`: what the folder has of later steps
    was lost with the training that wrote it, and is not shown any more. As a context manager it closes the files.
    """

    def __init__(self, folder: Path | None, steps_done: int) -> None:
        self._writer: Any = None
        if folder is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder), purge_step=steps_done + 1)

    def __enter__(self) -> "TensorBoardLog":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """The figures after so many steps; what stands before the / of a name is the group it is shown in."""
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Put on disk what was written: a checkpoint is not to know more than the folder."""
        if self._writer is not None:
            self._writer.flush()


def require_tensorboard() -> None:
    """Raises UserError where the package is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: install it with pip install tensorboard, or leave the option out")
