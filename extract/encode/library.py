"""Import open_clip, the only file that does: its models by name, what it raises, and how it is kept silent."""

import importlib
import logging
import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError

from data.base.errors import UserError

OF_A_CONFIGURATION = (
    *(RuntimeError, OSError, ImportError, AssertionError, AttributeError, ArithmeticError),
    *(IndexError, KeyError, TypeError, ValueError),
)
"""What open_clip and timm raise for an invalid configuration: they do not validate its values."""
OF_A_FILE = (*OF_A_CONFIGURATION, EOFError, StopIteration, SafetensorError, pickle.UnpicklingError, zipfile.BadZipFile)
"""What they raise for a file without weights, or with the weights of another network."""


def open_clip() -> ModuleType:
    """Import open_clip, even if torchvision cannot load its compiled operators.

    Only image transforms need torchvision. Next to a CPU-only torch, the usual torchvision wheel cannot load its compiled operators, and
    its import fails because it registers Python implementations for operators that are not declared. In that case their schemas are
    declared here so that the import succeeds; nothing ever calls them.

    Raises UserError if open_clip is not installed. Training and evaluation on cached features do not need it.
    """
    try:
        return _import_open_clip()
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is not installed, and every CLIP needs it: pip install -r requirements.txt") from error


def _import_open_clip() -> ModuleType:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
        library = torch.library.Library("torchvision", "FRAGMENT")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        torchvision: Any = importlib.import_module("torchvision")
        torchvision.operator_schemas = library  # keep a reference: a Library undeclares its operators when it is freed
    return importlib.import_module("open_clip")


def torchvision_functional() -> ModuleType:
    """torchvision's transforms of tensors. Raises UserError as `open_clip` does."""
    open_clip()
    return importlib.import_module("torchvision.transforms.v2.functional")


def list_models() -> list[str]:
    """Names of all open_clip architectures."""
    return list(open_clip().list_models())


def tags_of(name: str) -> dict[str, Mapping[str, Any]]:
    """open_clip's description of each set of pretrained weights of an architecture, by tag."""
    library = open_clip()
    return {tag: library.get_pretrained_cfg(name, tag) for tag in library.list_pretrained_tags_by_model(name)}


@contextmanager
def silent() -> Iterator[None]:
    """Disable logging: open_clip logs what it then raises, and a download logs every attempt."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
