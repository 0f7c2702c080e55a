"""Options of `python -m benchmarks.engines`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class EnginesOptions:
    """Measure FAISS, Milvus Lite and a server of Milvus side by side."""

    cache: Path = ROOT / "runs" / "demo" / "cache"
    """Cache of the demo set, which the synthetic videos imitate (make demo)."""
    engines: str = "faiss,lite,server"
    """What to measure, joined by commas. The server is started from the wheel `milvus`."""
    videos: int = 100_000
    """Videos of the gallery, each with 10 frames of 512 numbers."""
    lite_videos: int = 100_000
    """The same for Milvus Lite, which keeps everything in the memory of one process. If there are fewer, FAISS is measured with them
    too."""
    normal: bool = False
    """Make frames that are normal, without the clusters of real ones: the worst case for inverted lists."""
    enlarged: Path | None = None
    """Cache of a larger demo set: also measure what product codes lose on its frames (python -m experiments.fullsize). Default: only on
    synthetic frames."""
    codes: bool = True
    """Measure what product codes lose."""
    work: Path | None = None
    """Folder to keep the synthetic caches and the indexes in. Default: a temporary folder."""
    out: Path = ROOT / "runs" / "benchmarks" / "engines.json"
    """Output file (JSON)."""
