"""The facts about an extraction that later commands read back, as a versioned value.

The provenance beside it records more, but for people only: renaming an option there does not make a cache unreadable.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data.base.version import require_known

VERSION = 1
"""Incremented when a field of `Extraction` changes its name or meaning."""
ATTRIBUTE = "extraction"
LOCAL_DIR = "local-dir:"
"""Prefix of a model that is a folder."""


@dataclass(frozen=True)
class Extraction:
    """Where to find the CLIP and the videos of a cache. Only the cache's settings decide the features.

    model, pretrained: open_clip's names, or files or folders by their absolute paths. `model` is None if no extraction made the cache;
        `pretrained` is None also if the model brings its own weights.
    seed: the seed of random weights.
    videos: the folder of the video files.
    """

    model: str | None = None
    pretrained: str | None = None
    seed: int = 0
    videos: str | None = None

    @classmethod
    def of(cls, model: str | None, pretrained: str | None, seed: int, videos: Path) -> "Extraction":
        """The facts about an extraction with these options. Paths are made absolute, so later commands may start in any folder."""
        if model is not None and model.startswith(LOCAL_DIR):
            model = f"{LOCAL_DIR}{Path(model.removeprefix(LOCAL_DIR)).absolute()}"
        if pretrained is not None and Path(pretrained).exists():
            pretrained = str(Path(pretrained).absolute())
        return cls(model, pretrained, seed, str(videos.absolute()))


def write_extraction(extraction: Extraction, attributes: Any) -> None:
    """Write the extraction as an attribute of a file."""
    attributes[ATTRIBUTE] = json.dumps({"version": VERSION, **asdict(extraction)})


def read_extraction(attributes: Mapping[str, Any], file: object) -> Extraction:
    """Read the extraction from the attributes of `file`. Raises UserError if a newer version of this program wrote it."""
    if ATTRIBUTE not in attributes:
        return _of_provenance(json.loads(attributes["provenance"]))
    value: dict[str, Any] = json.loads(attributes[ATTRIBUTE])
    require_known(value.pop("version"), VERSION, f"the extraction recorded in {file}")
    return Extraction(**value)


def _of_provenance(provenance: Mapping[str, Any]) -> Extraction:
    """The extraction of a cache made before VERSION 1, which recorded it only among the options of the provenance."""
    options = provenance.get("options", {})
    return Extraction(options.get("model"), options.get("pretrained"), options.get("seed", 0), options.get("videos"))
