"""A grid of training runs over one loaded cache: `python -m train_head.sweep`."""

from pathlib import Path

from train_head.sweep.options import Sweep, SweepOptions, expand, sweep_options

__all__ = ["Sweep", "SweepOptions", "expand", "main", "sweep_options"]


def main(options: Sweep) -> Path:
    """Train every missing run of the grid and return runs.csv. See `train_head.sweep.runs.sweep`."""
    from train_head.sweep.runs import sweep  # loads torch, which --help must not wait for

    return sweep(options)
