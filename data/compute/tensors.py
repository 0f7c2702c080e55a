"""Read and write tensors as safetensors. Files are written atomically."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from data.base.whole_files import written_whole


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file. Raises OSError if it cannot be read, and SafetensorError if it is damaged."""
    # Read the bytes here: safetensors does not accept a path that is not UTF-8.
    return load(path.read_bytes())


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a file. Raises UserError if the disk is full."""
    with written_whole(path) as temporary:
        try:
            save_file(dict(tensors), temporary)
        except SafetensorError as error:
            # safetensors reports disk errors as SafetensorError.
            raise OSError(str(error)) from error
