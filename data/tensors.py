"""Tensors on disk as safetensors, each file whole or not at all."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from data.sealed import written_whole


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the file. Raises UserError where the disk is full."""
    with written_whole(path) as temporary:
        try:
            save_file(dict(tensors), temporary)
        except SafetensorError as error:
            # The library has no errors of the disk among its own.
            raise OSError(str(error)) from error
