"""The steps of training: batches in random order, losses, optimiser, schedule.

Shape suffixes: A texts of a batch, B their videos (text a belongs to video a), S scores of a pair.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler, SequentialLR

from data.errors import UserError
from data.progress import Progress
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Head
from train_head.losses import contrastive_loss, csc_loss
from train_head.options import TrainOptions
from train_head.splits import Split

WARM_UP = 0.1
STEPS_A_LOOK = 20
"""The losses are looked at once in so many steps: to look is to wait for the device."""
LOSSES = ("loss", "contrastive", "csc")


@dataclass
class Trainer:
    """Optimiser, schedule and order of the batches. Features go to the head's device where they fit."""

    head: Head
    options: TrainOptions
    split: Split

    def __post_init__(self) -> None:
        options = self.options
        self.device = self.head.logit_scale.device
        self.texts, self.videos = self.split.texts.to(self.device), self.split.videos.to(self.device)
        self.order = np.random.default_rng(options.seed)
        self.steps_an_epoch = len(self.split.answers) // options.batch_size
        matrices = [p for p in self.head.parameters() if p.ndim >= 2]
        others = [p for p in self.head.parameters() if p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98), eps=1e-6)
        self.schedule = _schedule(self.optimiser, self.steps_an_epoch * options.epochs)

    def run_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training captions, the last incomplete batch left out; mean losses.

        Raises UserError where a loss is not finite.
        """
        options = self.options
        self.head.train()
        batches = self.order.permutation(len(self.split.answers))[: self.steps_an_epoch * options.batch_size].reshape(
            self.steps_an_epoch, -1
        )
        sums = torch.zeros(len(LOSSES), dtype=torch.float64)
        recent: list[Tensor] = []
        with Progress(f"epoch {epoch}/{options.epochs}", self.steps_an_epoch, "steps", options.quiet) as progress:
            for step, texts in enumerate(batches, 1):
                recent.append(self.step(texts))
                if step % STEPS_A_LOOK == 0 or step == self.steps_an_epoch:
                    losses = torch.stack(recent).cpu().double()
                    self._check(epoch, losses, batches[step - len(recent) : step])
                    sums += losses.sum(dim=0)
                    recent.clear()
                progress.update(note=f"loss {sums[0] / max(1, step - len(recent)):.3f}")
        return dict(zip(LOSSES, (sums / self.steps_an_epoch).tolist(), strict=True))

    def step(self, texts: NDArray[np.int64]) -> Tensor:
        """One step on the captions with these indices and their videos; the losses, in the order of LOSSES, on the device."""
        text_batch, video_batch = self.batches(texts)
        scores_SAB = self.head.scores(self.head.encode_texts(text_batch), self.head.encode_videos(video_batch))
        contrastive = contrastive_loss(scores_SAB.mean(dim=0))
        csc = csc_loss(scores_SAB, data=self.options.csc_data) if len(scores_SAB) > 1 else torch.zeros_like(contrastive)
        loss = contrastive + self.options.csc_weight * csc
        self.optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.head.clamp_scale()
        return torch.stack([loss, contrastive, csc]).detach()

    def batches(self, texts: NDArray[np.int64]) -> tuple[TextBatch, VideoBatch]:
        """The features of the captions with these indices, and of their videos."""
        return TextBatch.gather(self.texts, texts, self.device), VideoBatch.gather(self.videos, self.split.answers[texts], self.device)

    def _check(self, epoch: int, losses: Tensor, batches: NDArray[np.int64]) -> None:
        for (loss, *_), texts in zip(losses.tolist(), batches, strict=True):
            if not np.isfinite(loss):
                videos = [self.split.videos.ids[i] for i in self.split.answers[texts]]
                raise UserError(
                    f"the loss is {loss} in epoch {epoch}: look at the features of videos {', '.join(videos[:5])}, ..., or lower --lr"
                )


def _schedule(optimiser: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """Linear warm-up over the first tenth, then a cosine to zero."""
    warm_up = max(1, round(WARM_UP * steps))
    rise = LambdaLR(optimiser, lambda step: (step + 1) / warm_up)
    fall = CosineAnnealingLR(optimiser, T_max=max(1, steps - warm_up))
    return SequentialLR(optimiser, [rise, fall], milestones=[warm_up])
