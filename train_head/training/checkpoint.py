"""Checkpoints of unfinished training: tensors as safetensors and the rest as JSON, always of the same step."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from data.base.errors import not_as_written, one_line
from data.base.whole_files import write_json
from data.compute.tensors import read_tensors, write_tensors

CHECKPOINT_FILE = "checkpoint.json"
_TENSORS = "checkpoint-*.safetensors"
_UNFINISHED = ".checkpoint-*.tmp"
"""Left behind by a process that was killed while writing."""


def save_checkpoint(folder: Path, name: str, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Replace the folder's checkpoint. `name` must differ from the previous checkpoint's.

    checkpoint.json names its file of tensors and is renamed into place last. So the folder holds a complete checkpoint even if the process
    is killed at any moment.
    """
    path = folder / f"checkpoint-{name}.safetensors"
    # Cloned, because safetensors refuses tensors that share memory.
    write_tensors(path, {key: value.detach().cpu().clone() for key, value in tensors.items()})
    write_json(folder / CHECKPOINT_FILE, {"tensors": path.name, **state})
    for old in (*folder.glob(_TENSORS), *folder.glob(_UNFINISHED)):
        if old != path:
            old.unlink()


def load_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Load the folder's checkpoint; None if there is none. Raises UserError if it is damaged."""
    path = folder / CHECKPOINT_FILE
    if not path.is_file():
        return None
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return read_tensors(folder / state["tensors"]), state
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        line = f"{path} or its tensors are damaged ({one_line(error)}): delete {folder} and train again"
        raise not_as_written(folder, error, line) from error


def drop_checkpoint(folder: Path) -> None:
    """Delete the folder's checkpoint once the run is finished."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    for pattern in (_TENSORS, _UNFINISHED):
        for path in folder.glob(pattern):
            path.unlink()
