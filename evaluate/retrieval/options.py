"""Options that search and serve share."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class RetrievalOptions:
    """What is searched, and with what."""

    cache: Path
    """Folder of the feature cache."""
    run: str
    """Folder of a run, or zero-shot:HEAD for a head without training: glccl, glim-global, glim-local, mean or xclip."""
    name: str | None = None
    """Search the videos of one source in the cache, by the name that extract gave it. Default: what all sources list."""
    all: bool = False
    """Search everything that is cached, also videos that are gone."""
    top: int = 10
    """Results of a query."""
    candidates: int | None = None
    """Score only so many videos of a query, which an index finds: for large galleries. Default: all are scored."""
    candidates_from: Literal["frames", "pooled"] = "frames"
    """Vectors of the index: those of all frames, the best frame of a video counting; or, cheaper, one a video, the mean of its frames."""
    index: Path | None = None
    """Folder to keep the index in, for the next time. Default: it is built each time."""
    model: str | None = None
    """CLIP by open_clip's name, or local-dir:PATH, where it is not where the cache was made. Default: as the cache was made."""
    pretrained: str | None = None
    """Weights of it: a file, say, that was moved. Default: as the cache was made; the digest must be the cache's in any case."""
    max_frames: int | None = None
    """Frames used of each video, chosen evenly. Default: as the run was trained; all that are cached for zero-shot."""
    memory_budget: float | None = None
    """GiB of memory for features and encoded videos; those beyond it are read or encoded at every query. Default: half of the machine's
    memory."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where CLIP and the head run; auto takes CUDA where there is one."""
    quiet: bool = False
    """No progress."""
