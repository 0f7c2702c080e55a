"""`python -m evaluate` with blocks, bins and shards so small that a small test set has several: `python -m tests.small_blocks ...`."""

import evaluate.two_stage.index
import evaluate.two_stage.rerank
import train_head.pairs
from data.command import run_command
from evaluate import EvaluateOptions, main


def small_main(options: EvaluateOptions) -> object:
    """Blocks of two videos, bins of four, shards of two or three."""
    train_head.pairs.FRAMES_A_BLOCK = 24
    evaluate.two_stage.index.SHARD_VECTORS = 25
    return main(options)


if __name__ == "__main__":
    run_command(EvaluateOptions, small_main, prog="python -m tests.small_blocks")
