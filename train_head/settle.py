"""Decide the training options whose default depends on the head."""

from dataclasses import replace

from train_head.heads import HEADS
from train_head.options import TrainOptions
from train_head.temperatures import KAPPA, TAU


def settled(options: TrainOptions) -> TrainOptions:
    """The options with the values that their defaults stand for, as runs record them. A temperature that the head lacks stays None."""
    usual = {"tau": TAU, "kappa": KAPPA}
    chosen = {name: usual[name] for name in HEADS[options.head].TEMPERATURES if getattr(options, name) is None}
    return replace(options, **chosen)  # type: ignore[arg-type]
