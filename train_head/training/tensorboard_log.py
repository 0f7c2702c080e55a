"""Training scalars for TensorBoard, with --tensorboard."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from data.base.errors import UserError

TENSORBOARD_FOLDER = "tensorboard"


class TensorBoardLog:
    """Writes scalars of steps and epochs to a folder for TensorBoard. Without a folder it writes nothing.

    Steps count from 1 over all epochs; the scalars of an epoch belong to its last step. On resume, TensorBoard hides scalars of steps after
    `steps_done`: they come from steps that will be repeated. Leaving the context closes the files.
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
        """Write scalars for a step. TensorBoard groups names by their part before the /, as in train/loss."""
        if self._writer is not None:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)

    def flush(self) -> None:
        """Flush to disk, so that a checkpoint is never ahead of the folder."""
        if self._writer is not None:
            self._writer.flush()


def require_tensorboard() -> None:
    """Raise UserError if the package tensorboard is not installed."""
    if find_spec("tensorboard") is None:
        raise UserError("--tensorboard needs the package tensorboard: install it with pip install tensorboard, or leave the option out")
