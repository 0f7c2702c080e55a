"""Stage two: train a head on the cache. The method itself is in glim.py, losses.py, kernels/plain.py and kernels/fused.py."""

from pathlib import Path

from train_head.options import TrainOptions

__all__ = ["TrainOptions", "main"]


def main(options: TrainOptions) -> Path:
    """Train a head and return the run's folder. See `train_head.stage.train`."""
    from train_head.stage import train  # loads torch, which --help must not wait for

    return train(options)
