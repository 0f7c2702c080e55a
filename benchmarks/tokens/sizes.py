"""The size of patch tokens on disk, by arithmetic from the counts of the data sets' presets."""

from typing import Any

from data.datasets import preset_named
from extract.encode.clip import Shape

PRESETS = ("msrvtt-9k", "didemo", "vatex")
FRAMES = 12
FEW = 4
FLOAT16 = 2

Row = dict[str, Any]


def sizes(shape: Shape) -> list[Row]:
    """Bytes of the frames' features and of patch tokens, all of them and FEW a frame, in float16 at FRAMES frames a video."""
    rows: list[Row] = []
    for name in PRESETS:
        preset = preset_named(name)
        assert preset is not None
        videos = sum(count.videos or 0 for count in preset.expected.values())
        feature = videos * FRAMES * shape.dimension * FLOAT16
        rows.append(
            {"preset": name, "videos": videos, "frames": feature, "patches": feature * shape.patches, f"patches:{FEW}": feature * FEW}
        )
    return rows
