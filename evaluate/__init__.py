"""The third stage: score all text-video pairs of a split and report retrieval metrics."""

from pathlib import Path

from evaluate.options import EvaluateOptions

__all__ = ["EvaluateOptions", "main"]


def main(options: EvaluateOptions) -> Path:
    """Evaluate a run on a split and return the folder of results. See evaluate.stage.evaluate."""
    from evaluate.stage import evaluate  # torch loads here, so that --help answers at once

    return evaluate(options)
