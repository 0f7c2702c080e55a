"""Options of `python -m benchmarks.serving`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class ServingOptions:
    """Measure requests a second, waiting times, busy cores and memory of the server."""

    videos: int = 10_000
    """Videos in the gallery."""
    frames: int = 12
    """Frames per video."""
    heads: str = "glccl,mean"
    """Untrained heads to measure, joined by commas."""
    clients: str = "1,2,4,8,16"
    """Numbers of clients that ask at the same time, joined by commas."""
    requests: int = 300
    """Requests for each number of clients."""
    repeats: int = 1
    """Rounds over all numbers of clients. The figures are medians."""
    memory_requests: int = 10_000
    """Requests of the largest number of clients before memory is measured again; 0 to leave that out."""
    out: Path = ROOT / "runs" / "benchmarks" / "serving.json"
    """Output file (JSON)."""
