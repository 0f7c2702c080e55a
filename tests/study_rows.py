"""Made-up rows of the study, whose figures are known."""

from pathlib import Path
from typing import Any

import pandas as pd

BASE: dict[str, Any] = {
    "head": "glccl",
    "scores": "all",
    "temporal": "seq-transf",
    "temporal_init": "clip",
    "csc_weight": 0.5,
    "csc_data": "both",
    "mask_same_video": False,
    "max_frames": None,
    "lr": 1e-3,
    "epochs": 5,
    "batch_size": 128,
    "test t2v R@1": 1.0,
    "test t2v R@5": 2.0,
    "test v2t R@1": 3.0,
    "queries": 1000,
    "gallery": 500,
    "parameters": 7,
    "training_seconds": 100.0,
    "training_cpu_seconds": 3.0,
    "scoring_seconds": 20.0,
    "scoring_cpu_seconds": 0.5,
    "device": "cpu",
    "threads": 1,
    "train_videos": 1000,
    "commit": "abcdef0123",
}
"""A run of glccl at its defaults."""


def rows(world: str, sums: list[float], **different: Any) -> list[dict[str, Any]]:
    """The runs of a setting with these sums of recalls, by seed; a column may have a list of values too."""
    given = {name: value if isinstance(value, list) else [value] * len(sums) for name, value in different.items()}
    return [
        {"world": world, "run": f"{world}-{different}-{seed}", "seed": seed, **BASE, "test RSum": total}
        | {name: values[seed] for name, values in given.items()}
        for seed, total in enumerate(sums)
    ]


def written(path: Path, *groups: list[dict[str, Any]]) -> Path:
    """A CSV of these rows."""
    pd.DataFrame([row for group in groups for row in group]).to_csv(path, index=False)
    return path
