"""A grid of training runs over one loaded cache: `python -m train_head.sweep`."""

from pathlib import Path

from train_head.sweep.options import Sweep, SweepOptions, expand, sweep_options

__all__ = ["Sweep", "SweepOptions", "expand", "main", "sweep_options"]


def main(options: Sweep) -> Path:
    """Train every run of the grid that is missing; returns runs.csv. See train_head.sweep.runs.sweep."""
    from train_head.sweep.runs import sweep  # torch loads here, so that --help answers at once

    return sweep(options)
