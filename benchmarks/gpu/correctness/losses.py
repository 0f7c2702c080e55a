"""Losses of training, step by step, on any device, and how far rounding may move them.

Later steps amplify the rounding of earlier ones, so that the bound comes from training itself: on the CPU, from weights changed at random
by up to K * 2^-24 of themselves, with K the most products in one sum. It is three times the worst of DRAWS draws.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from data.compute.processes import ProcessGroup
from train_head import TrainOptions
from train_head.settle import settled
from train_head.stage import TrainingData, build_head, load, make_trainer
from train_head.training.trainer import Trainer

DRAWS = 3
Losses = NDArray[np.float64]


def trainer_of(options: TrainOptions, data: TrainingData, device: torch.device, share: float = 0.0, draw: int = 0) -> Trainer:
    """A trainer before its first step. `share`: change every weight of the head at random by up to this share of itself."""
    torch.manual_seed(options.seed)
    head = build_head(options, data.cache)
    generator = torch.Generator().manual_seed(draw)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(1 + share * (2 * torch.rand(parameter.shape, generator=generator) - 1))
    return make_trainer(head.to(device), settled(options, data.cache), data, ProcessGroup())


def take_steps(trainer: Trainer, steps: int) -> Losses:
    """The loss of each step. Batches depend on the seed alone."""
    order, texts = np.random.default_rng(trainer.options.seed), len(trainer.split.answers)
    taken = [trainer.step(order.permutation(texts)[: trainer.batch_size]) for _ in range(steps)]
    return torch.stack(taken)[:, 0].cpu().double().numpy()


@dataclass(frozen=True)
class LossesOnCpu:
    """The losses of the CPU and how far rounding may move each."""

    loss_N: Losses
    bound_N: Losses

    @classmethod
    def of(cls, options: TrainOptions, data: TrainingData, steps: int, longest_sum: int) -> "LossesOnCpu":
        """Train on the CPU DRAWS + 1 times."""
        cpu, share = torch.device("cpu"), longest_sum * 2.0**-24
        on_cpu = replace(options, device="cpu")
        loss_N = take_steps(trainer_of(on_cpu, data, cpu), steps)
        moved = [np.abs(take_steps(trainer_of(on_cpu, data, cpu, share, draw), steps) - loss_N) for draw in range(DRAWS)]
        # Rounding that has moved one step may move every later one as much.
        return cls(loss_N, np.maximum.accumulate(3 * np.max(moved, axis=0) + share * np.abs(loss_N)))

    def holds(self, loss_N: Losses) -> bool:
        """Whether all losses are within the bounds."""
        return bool((np.abs(loss_N - self.loss_N) <= self.bound_N).all())

    def figures(self, loss_N: Losses) -> dict[str, float]:
        """The first and the last loss, and the largest differences."""
        moved_N = np.abs(loss_N - self.loss_N)
        return {
            "first loss": float(loss_N[0]),
            "last loss": float(loss_N[-1]),
            "last loss on the CPU": float(self.loss_N[-1]),
            "largest difference, relative": float((moved_N / np.abs(self.loss_N)).max()),
            "largest difference by its bound": float((moved_N / self.bound_N).max()),
            "widest bound, relative": self.widest,
        }

    @property
    def widest(self) -> float:
        """The largest bound, relative to its loss."""
        return float((self.bound_N / np.abs(self.loss_N)).max())


def load_data(options: TrainOptions) -> TrainingData:
    """The splits, in memory of the CPU."""
    return load(replace(options, device="cpu"))
