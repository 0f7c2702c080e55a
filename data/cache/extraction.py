"""What later commands read of the extraction that made a cache: a value with a version.

The provenance beside it says more, and is for people: an option may be renamed there without a cache becoming unreadable.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from data.base.version import require_known

VERSION = 1
"""Goes up when a field of `Extraction` changes its name or meaning."""
ATTRIBUTE = "extraction"


@dataclass(frozen=True)
class Extraction:
    """Where the CLIP and the videos of a cache were found. What decides the features is in the cache's settings, and only there.

    `model` and `pretrained` are open_clip's names, files or folders, as given to extract; `seed` is that of random weights. `model` is None
    where no extraction made the cache, `pretrained` also where the model brings its own weights. `videos` is the folder of the video files.
    """

    model: str | None = None
    pretrained: str | None = None
    seed: int = 0
    videos: str | None = None


def write_extraction(extraction: Extraction, attributes: Any) -> None:
    """Write it as one of the attributes of a file."""
    attributes[ATTRIBUTE] = json.dumps({"version": VERSION, **asdict(extraction)})


def read_extraction(attributes: Mapping[str, Any], file: object) -> Extraction:
    """Read it from the attributes of `file`. Raises UserError where a newer version of this program wrote it."""
    if ATTRIBUTE not in attributes:
        return _of_provenance(json.loads(attributes["provenance"]))
    value: dict[str, Any] = json.loads(attributes[ATTRIBUTE])
    require_known(value.pop("version"), VERSION, f"the extraction recorded in {file}")
    return Extraction(**value)


def _of_provenance(provenance: Mapping[str, Any]) -> Extraction:
    """The extraction of a cache made before version 1: those kept it only in the options of their provenance."""
    options = provenance.get("options", {})
    return Extraction(options.get("model"), options.get("pretrained"), options.get("seed", 0), options.get("videos"))
