"""Options of `python -m benchmarks.tokens`."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class TokensOptions:
    """Measure the rate and the size of patch tokens and, with --trained, which of them to keep."""

    model: str = "ViT-B-32"
    """CLIP model of the rate and the sizes, by open_clip's name; its weights are random."""
    videos: int = 200
    """Videos to extract."""
    seconds: int = 4
    """Length of each, which is the number of its sampled frames."""
    repeats: int = 3
    """Rounds of the rate; every round runs all alternatives."""
    trained: str | None = None
    """A trained CLIP with a class token, such as local-dir:FOLDER of python -m demo.train_clip --config benchmarks/tokens/vit: compare the
    measures of patch tokens on the demo's videos."""
    demo_videos: int = 200
    """Videos of the demo to compare the measures on."""
    out: Path = ROOT / "runs" / "benchmarks" / "tokens.json"
    """Output file (JSON)."""
