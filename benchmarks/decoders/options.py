"""Options of `python -m benchmarks.decoders`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class DecodersOptions:
    """Compare decoders on the same frames of the same clips, with 1 and 2 workers."""

    videos: Path | None = None
    """Folder of videos to decode instead of the clips that are made: its files *.mp4, *.mkv and *.webm."""
    clips: int = 12
    """Clips of MSR-VTT's shape to make: 320 x 240, 10 to 25 s."""
    large: int = 2
    """Clips of 1280 x 720 and 6 s to make."""
    max_frames: int = 12
    """Frames to take of each video, chosen evenly from one a second."""
    repeats: int = 3
    """Timed rounds. Every round runs all decoders; medians are compared."""
    out: Path = ROOT / "runs" / "benchmarks" / "decoders.json"
    """Output file (JSON)."""
