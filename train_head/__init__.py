"""Stage two: train a head on the cache. The method itself is in glim.py, plain.py, fused.py and losses.py."""

from pathlib import Path

from train_head.options import TrainOptions

__all__ = ["TrainOptions", "main"]


def main(options: TrainOptions) -> Path:
    """Train a head; returns the run's folder. See train_head.stage.train."""
    from train_head.stage import train  # torch loads here, so that --help answers at once

    return train(options)
