"""Options of `python -m benchmarks.encoding`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class EncodingOptions:
    """Measure ways to encode pictures on a CPU, and how near their features are to those of float32."""

    models: str = "ViT-B-32,RN50,PE-Core-B-16"
    """CLIP models, by open_clip's names, separated by commas; their weights are random."""
    threads: int = 2
    """Threads of torch."""
    repeats: int = 2
    """Batches of each way; medians are compared."""
    compiled: str = "ViT-B-32"
    """Which of these models to compile with torch.compile as well, separated by commas; each takes a minute or two. Empty for none."""
    out: Path = ROOT / "runs" / "benchmarks" / "encoding.json"
    """Output file (JSON)."""
