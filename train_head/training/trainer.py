"""The steps of training: batches in random order, losses, updates.

Shape suffixes: A texts of a batch, B their videos (text a belongs to video a), F frames, D joint dimension, S scores of a pair.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from data.base.errors import UserError
from data.base.progress import Progress
from data.compute.device import budget_bytes
from data.compute.processes import ProcessGroup
from data.compute.staging import to_device
from data.metrics import Metrics
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Head
from train_head.losses import CDCR, LOSSES, contrastive_loss, csc_loss
from train_head.options import TrainOptions
from train_head.scoring.pairs import evaluate_pairs
from train_head.scoring.splits import Split
from train_head.settle import by_recipe
from train_head.training.gather import gather, gather_frames, gather_texts, share, sum_gradients
from train_head.training.optimisers import Named, make_optimiser

STEPS_PER_CHECK = 20
"""On a GPU, losses are read back only once in this many steps, because reading waits for the device."""

Log = Callable[[int, Mapping[str, float]], None]
"""Takes the number of a step, counted from 1 over all epochs, and its scalars."""


@dataclass
class Trainer:
    """Trains a head on cached features: optimiser, schedule and order of the batches. Features move to the head's device if they fit."""

    head: Head
    options: TrainOptions
    split: Split
    processes: ProcessGroup = field(default_factory=ProcessGroup)

    NOT_FINITE: ClassVar[str] = "delete the cache and run extract again"
    """The remedy for features that are not finite."""

    def __post_init__(self) -> None:
        options = self.options
        self.device = self.head.logit_scale.device
        self.texts, self.videos = self.split.texts.to(self.device), self.split.videos.to(self.device)
        self.extra_losses = (*self.head.extra_loss_names, *([CDCR] if options.cdcr else []))
        self.losses = (*LOSSES, *self.extra_losses)
        self.order = np.random.default_rng(options.seed)
        self.batch_size = fitting_batch(options.batch_size, len(self.split.videos.ids), self.processes.world_size)
        self.steps_an_epoch = len(self.split.answers) // self.batch_size
        kind, clip = by_recipe(options).optimizer, self.trained_clip()
        assert kind is not None
        self.trained = [parameter for _, parameter in (*self.head.named_parameters(), *clip)]
        self.optimiser, self.schedule = make_optimiser(
            kind,
            list(self.head.named_parameters()),
            clip,
            lr=options.lr,
            clip_lr=options.clip_lr if options.finetune else None,
            weight_decay=options.weight_decay,
            steps=self.steps_an_epoch * options.epochs,
        )
        self.begin_epoch()

    def trained_clip(self) -> Named:
        """The parameters of CLIP to train, with their names after `optimisers.CLIP`. Here CLIP is frozen."""
        return []

    @property
    def pairs_a_step(self) -> int:
        """The pairs that a step scores, in all processes."""
        return self.batch_size**2

    def prepare(self) -> None:
        """Do what the first step and the first validation need. All processes do it together."""

    def validation(self, split: Split) -> Split:
        """The validation split, re-encoded if CLIP is being trained."""
        return split

    def validation_metrics(self, select: Split) -> Metrics:
        """The metrics that choose the epoch."""
        return evaluate_pairs(self.head, select.texts, select.videos, select.answers, budget_bytes(self.options.memory_budget))

    @property
    def selected_by(self) -> str:
        """What to add to the words of run.json that say how the epoch is chosen."""
        return ""

    def record(self) -> dict[str, Any]:
        """Further entries of run.json."""
        return {}

    def log_columns(self) -> dict[str, Any]:
        """Further columns of log.csv."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """The weights that training changes, by name."""
        return self.head.state_dict()

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Restore `weights`."""
        self.head.load_state_dict(weights)

    def save_encoder(self, folder: Path) -> dict[str, Any]:
        """Save an encoder trained with the head to the run's folder; returns its entries for run.json. Here there is none."""
        return {}

    def begin_epoch(self) -> None:
        """Reset the epoch's sums, and keep the generator's state so that a resumed run draws the same order of captions."""
        self.steps_done = 0
        self.sums = torch.zeros(len(self.losses), dtype=torch.float64)
        self.order_before = self.order.bit_generator.state

    def run_epoch(
        self, epoch: int, checkpoint: Callable[[], None] = lambda: None, log: Log = lambda _step, _figures: None
    ) -> dict[str, float]:
        """Train for one epoch, or for the rest of it on resume, and return the mean losses. Drops the last incomplete batch.

        Calls `checkpoint` every `checkpoint_steps` steps and `log` for every step. Raises UserError, naming the batch, if features or a
        loss are not finite.
        """
        options = self.options
        self.head.train()
        used = self.steps_an_epoch * self.batch_size
        batches = self.order.permutation(len(self.split.answers))[:used].reshape(self.steps_an_epoch, -1)
        steps_per_check = STEPS_PER_CHECK if self.device.type != "cpu" else 1
        quiet = options.quiet or self.processes.rank > 0
        recent: list[Tensor] = []
        with Progress(f"epoch {epoch}/{options.epochs}", self.steps_an_epoch, "steps", quiet, initial=self.steps_done) as progress:
            for texts in batches[self.steps_done :]:
                recent.append(self.step(texts))
                self.steps_done += 1
                keep = self.steps_done % options.checkpoint_steps == 0
                if keep or self.steps_done % steps_per_check == 0 or self.steps_done == self.steps_an_epoch:
                    losses_NK = torch.stack(recent).cpu().double()
                    self._check(epoch, losses_NK, batches[self.steps_done - len(recent) : self.steps_done])
                    self._log(epoch, losses_NK, log)
                    # Added one by one, so that the sum's bits do not depend on how often losses are read back.
                    for losses_K in losses_NK:
                        self.sums += losses_K
                    recent.clear()
                if keep and self.steps_done < self.steps_an_epoch:
                    checkpoint()
                progress.update(note=f"loss {self.sums[0] / max(1, self.steps_done - len(recent)):.3f}")
        means = dict(zip(self.losses, (self.sums / self.steps_an_epoch).tolist(), strict=True))
        self.begin_epoch()
        return means

    def step(self, texts: NDArray[np.int64]) -> Tensor:
        """Take one step on the captions at these indices and their videos; returns the losses [K] on the device, in the order of `losses`.

        `texts` is the batch of all processes. Losses are NaN if a feature is not finite.
        """
        for_gradients, losses_K = self.losses_of(texts)
        self.optimiser.zero_grad()
        for_gradients.backward()
        sum_gradients(self.trained, self.processes)
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.schedule.step()
        self.head.clamp_scale()
        return losses_K

    def losses_of(self, texts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The loss whose gradients, summed over all processes, are those of the batch; and the losses [K] to log, as for `step`."""
        left_out_AB = self._same_video(texts) if self.options.mask_same_video else None
        scores_SAB, extra, finite = self._scores(texts, left_out_AB)
        contrastive = contrastive_loss(scores_SAB.mean(dim=0), left_out_AB)
        csc = torch.zeros_like(contrastive)
        if len(scores_SAB) > 1:
            csc = csc_loss(scores_SAB, data=self.options.csc_data, left_out_AB=left_out_AB)
        loss = contrastive + self.options.csc_weight * csc
        # All ranks compute the same extra losses, and the gradients of all ranks are summed.
        for_gradients = loss + sum(extra.values()) / self.processes.world_size if extra else loss
        extra_K = [extra[name] for name in self.extra_losses]
        losses_K = torch.stack([sum(extra_K, start=loss), contrastive, csc, *extra_K]).detach()
        return for_gradients, torch.where(finite, losses_K, torch.nan)

    def batches(self, texts: NDArray[np.int64]) -> tuple[TextBatch, VideoBatch]:
        """The features of the captions at these indices, and of their videos."""
        return TextBatch.gather(self.texts, texts, self.device), VideoBatch.gather(self.videos, self.split.answers[texts], self.device)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything the following steps depend on, as tensors and JSON values."""
        tensors = {f"weights.{name}": value for name, value in self.weights().items()}
        optimiser = self.optimiser.state_dict()
        for i, moments in optimiser["state"].items():
            tensors |= {f"optimiser.{i}.{name}": value for name, value in moments.items()}
        values = {
            "steps_done": self.steps_done,
            "sums": self.sums.tolist(),
            "order_before": self.order_before,
            "lr": [group["lr"] for group in optimiser["param_groups"]],
            "schedule": self.schedule.state_dict(),
        }
        # A copy by way of JSON, because later steps change these values in place.
        return tensors, json.loads(json.dumps(values))

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.load_weights({name.removeprefix("weights."): value for name, value in tensors.items() if name.startswith("weights.")})
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimiser."):
                _, i, name = key.split(".", 2)
                moments.setdefault(int(i), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        for group, lr in zip(groups, values["lr"], strict=True):
            group["lr"] = lr
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        self.schedule.load_state_dict(values["schedule"])
        self.order.bit_generator.state = values["order_before"]
        self.begin_epoch()
        self.steps_done, self.sums = values["steps_done"], torch.tensor(values["sums"], dtype=torch.float64)

    def _scores(self, texts: NDArray[np.int64], left_out_AB: Tensor | None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The scores of all captions of the batch with all their videos, the weighted extra losses, and whether all features are finite."""
        text_batch, video_batch = self.batches(texts[share(len(texts), self.processes)])
        finite = self.finite(text_batch, video_batch)
        longest = int(self.head.counted_frames(self.split.videos.frames.length_N[self.split.answers[texts]]).max())
        encoded_texts = self.head.encode_texts(text_batch)
        frames = gather_frames(self.head.apply_temporal(video_batch), longest, self.processes)
        scores_SAB = gather(self.head.scores(encoded_texts, self.head.encode_frames(frames)), self.processes, dim=1)
        extra = {}
        if self.extra_losses:
            most_words = int(self.split.texts.words.length_N[texts].max())
            all_texts = gather_texts(text_batch, most_words, self.processes)
            extra = self.head.extra_losses(all_texts, frames, left_out_AB)
            if self.options.cdcr:
                extra[CDCR] = self.options.cdcr * self.head.decorrelation(all_texts, frames)
        return scores_SAB, extra, gather(finite[None], self.processes).all()

    def _log(self, epoch: int, losses_NK: Tensor, log: Log) -> None:
        """Log the latest steps, and the learning rate of the next step."""
        last = (epoch - 1) * self.steps_an_epoch + self.steps_done
        for step, losses in enumerate(losses_NK.tolist(), last - len(losses_NK) + 1):
            log(step, {f"train/{name}": value for name, value in zip(self.losses, losses, strict=True)})
        log(last, {"train/lr": float(self.schedule.get_last_lr()[0])})

    def _same_video(self, texts: NDArray[np.int64]) -> Tensor:
        """True [A, B] where text a is another caption of video b, not the one paired with it.

        For captions of the videos 7, 7, 9: [[F, T, F], [T, F, F], [F, F, F]].
        """
        video_A = torch.from_numpy(self.split.answers[texts])
        return to_device((video_A[:, None] == video_A) & ~torch.eye(len(video_A), dtype=torch.bool), self.device)

    def _check(self, epoch: int, losses_NK: Tensor, batches: NDArray[np.int64]) -> None:
        for (loss, *_), texts in zip(losses_NK.tolist(), batches, strict=True):
            if not np.isfinite(loss):
                videos = [self.split.videos.ids[i] for i in self.split.answers[texts]]
                listed = [f"{video}: {self.split.texts.texts[a]}" for video, a in zip(videos, texts, strict=True)]
                broken = [(int(a), kinds) for a in self.suspects(texts) if (kinds := self.not_finite(*self.batches(np.array([a]))))]
                if broken:
                    names = [f"{self.split.videos.ids[self.split.answers[a]]}: {self.split.texts.texts[a]}" for a, _ in broken]
                    raise UserError(
                        f"{' and '.join(broken[0][1])} features are not finite of {names[0]!r}, epoch {epoch}: {self.NOT_FINITE}", names
                    )
                raise UserError(
                    f"the loss is {loss} in epoch {epoch}, on videos {', '.join(videos[:3])} and the others listed: train again with a "
                    "lower --lr",
                    listed,
                )

    def suspects(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The captions to look at, with their videos, if the loss of this batch is not finite."""
        return texts

    def finite(self, texts: TextBatch, videos: VideoBatch) -> Tensor:
        """Whether all features are finite; a scalar on the device."""
        return torch.stack([tensor.isfinite().all() for tensor in _features(texts, videos).values()]).all()

    def not_finite(self, texts: TextBatch, videos: VideoBatch) -> list[str]:
        """The kinds of features that are not finite."""
        return [kind for kind, tensor in _features(texts, videos).items() if not tensor.isfinite().all()]


def _features(texts: TextBatch, videos: VideoBatch) -> dict[str, Tensor]:
    patches = {} if videos.patch_BFMD is None else {"patch token": videos.patch_BFMD}
    return {"sentence": texts.sentence_AD, "word": texts.word_RD, "frame": videos.frame_BFD, **patches}


def fitting_batch(asked: int, videos: int, processes: int) -> int:
    """Captions per step: `asked`, but at most one per video, rounded down to a multiple of `processes`.

    In a larger batch, every step would have several captions of the same video, and count each as a negative of the others.

    >>> fitting_batch(128, 50, 4)
    48
    """
    fitting = min(asked, videos)
    return fitting - fitting % processes
