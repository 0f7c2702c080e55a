"""`python -m evaluate` with blocks, bins and shards so small that a small test set has several: `python -m tests.small_blocks ...`."""

import search.index.vectors
import train_head.scoring.pairs
from data.cli.command import run_command
from evaluate import EvaluateOptions, main


def small_main(options: EvaluateOptions) -> object:
    """Blocks of two videos, bins of four, shards of two or three."""
    train_head.scoring.pairs.FRAMES_PER_BLOCK = {"cpu": 24}
    search.index.vectors.SHARD_VECTORS = 25
    return main(options)


if __name__ == "__main__":
    run_command(EvaluateOptions, small_main, prog="python -m tests.small_blocks")
