"""MSVD (Chen and Dolan 2011): lists of ids, and captions as captions_msvd.json {id: [captions]} or raw-captions.pkl {id: [[tokens]]}.

Repeated captions of a video count as often as they appear, as in the field.
"""

import io
import pickle
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from data.datasets.files import check_caption, check_captions, check_video_id, read_bytes, read_json, require_file
from data.datasets.folders import Sought, VideoFolder
from data.datasets.types import SPLITS, Count, Dataset, Preset, assemble, listed_rows

CAPTION_FILES = ("captions_msvd.json", "raw-captions.pkl")

PRESETS = (
    Preset(
        "msvd",
        {split: f"{split}_list.txt" for split in SPLITS},
        {"train": Count(1200, 48_774), "val": Count(100, 4_290), "test": Count(670, 27_763)},
        batch_size=300,
    ),
)


def read_msvd(preset: Preset, annotations: Path, videos: Path) -> Dataset:
    """Read SPLIT_list.txt and the captions from the folder `annotations`. Videos are ID with any suffix, anywhere under `videos`."""
    source = require_file(annotations, CAPTION_FILES)
    content = read_json(source) if source.suffix == ".json" else _unpickle(source)
    if not isinstance(content, dict):
        raise UserError(f"{source} is not a JSON object of video ids")
    captions = {}
    for key, value in content.items():
        place = f"{source}, video {check_video_id(key, str(source))}"
        captions[key] = check_captions(value, place) if source.suffix == ".json" else _join(value, place)
    folder = VideoFolder(videos)
    return assemble(
        preset, listed_rows(preset, annotations, captions, source), annotations, folder, lambda video_id: Sought(stems=(video_id,))
    )


def _join(value: Any, place: str) -> list[str]:
    """Join lists of tokens into captions."""
    if not isinstance(value, list) or not all(isinstance(tokens, list) for tokens in value):
        raise UserError(f"{place}: not a list of lists of tokens")
    joined = []
    for number, tokens in enumerate(value, start=1):
        words = [check_caption(token, f"{place}, caption {number}") for token in tokens]
        joined.append(check_caption(" ".join(words), f"{place}, caption {number}"))
    return joined


class _PlainValues(pickle.Unpickler):
    """Loads only lists, dictionaries, strings and numbers, which need no import. Any import in a pickle could run arbitrary code."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a file of captions does not need")


def _unpickle(path: Path) -> Any:
    content = read_bytes(path)
    try:
        return _PlainValues(io.BytesIO(content)).load()
    # A damaged pickle can raise any of these, because opcodes act on whatever is on the stack.
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError, MemoryError) as error:
        reason = ascii(" ".join(str(error).split()))[1:-1][:200]
        raise UserError(f"{path} cannot be read as a pickle of plain values: {reason or type(error).__name__}") from error
