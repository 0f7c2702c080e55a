"""Training on hard negatives: the wrong videos and captions that a first stage ranks highest.

A head with a Transformer for every pair cannot afford all pairs of a batch, and it will only ever see what a first stage hands on. So every
caption of a batch is scored with its video and with N wrong videos, drawn from the K that the first stage ranks highest; and its video with
N wrong captions likewise. With y_0 the score of the true pair and y_1 ... y_N those of the wrong ones, the loss is the mean of

    - log( exp(y_0) / (exp(y_0) + ... + exp(y_N)) )

over both directions. A video and a caption that it has, word for word, are no wrong pair: neither its own captions nor those that several
videos share. Where they leave fewer than N wrong ones, the sum is shorter. EDJE and VEDJE train with hard negatives too; this loss is ours.

Every step draws from a generator seeded by the run's seed and the number of the step, so that a resumed run draws as an uninterrupted one,
and every process as the others. Processes share the captions: each scores the pairs of its own, and gradients are summed.

Shape suffixes: A captions of a batch, B videos of the split, K candidates, N negatives, P pairs, C columns: the true entry and N wrong
ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from data.compute.device import budget_bytes
from data.compute.staging import to_device
from data.metrics import Metrics
from train_head.batches import TextBatch, VideoBatch
from train_head.heads import Head, PairwiseHead
from train_head.scoring.answers import Answers
from train_head.scoring.candidates import Candidates
from train_head.scoring.cost import check_first_pass, check_reranking
from train_head.scoring.rerank import score_pairs
from train_head.scoring.splits import Split
from train_head.scoring.two_stage import FirstPass
from train_head.training.first_stage import FirstStage
from train_head.training.gather import share
from train_head.training.trainer import Trainer


@dataclass(frozen=True)
class Pools:
    """The entries to draw negatives from, best of the first stage first: videos of every text [A, K], texts of every video [B, K]."""

    video_AK: NDArray[np.int64]
    text_BK: NDArray[np.int64]

    @classmethod
    def of(cls, candidates: Candidates, answers: Answers, k: int) -> "Pools":
        """The best K that are wrong, of at least K + `Answers.most_texts` candidates; fewer if there are not as many.

        Right ones are the last of a row, where captions that several videos share leave fewer wrong ones.
        """
        texts, videos = candidates.video_AK, candidates.text_BK
        right_AK = answers.right(np.arange(len(texts))[:, None], texts)
        right_BK = answers.right(videos, np.arange(len(videos))[:, None])

        def wrong(entry_QK: NDArray[np.int64], right_QK: NDArray[np.bool_], count: int) -> NDArray[np.int64]:
            return np.take_along_axis(entry_QK, np.argsort(right_QK, axis=1, kind="stable")[:, :count], axis=1)

        of_text, of_video = answers.pool_sizes(k)
        return cls(wrong(texts, right_AK, of_text), wrong(videos, right_BK, of_video))


def few_candidates(k: int, train: Split, select: Split) -> str:
    """What to say where splits have fewer than K videos or captions to draw from or to re-rank; empty if they have as many."""
    of_text, of_video = Answers(train.texts.texts, train.answers, len(train.videos.ids)).pool_sizes(k)
    counts = {
        "wrong videos of a training caption": of_text,
        "wrong captions of a training video": of_video,
        "videos to re-rank in validation": min(k, len(select.videos.ids)),
        "captions to re-rank in validation": min(k, len(select.answers)),
    }
    fewer = [f"{what}, {count:,}" for what, count in counts.items() if count < k]
    return f"note: --candidates {k:,} is more than there are: {'; '.join(fewer)}" if fewer else ""


def step_pairs(batch: int, negatives: int) -> int:
    """The pairs that a step scores: every caption with its video, N wrong videos, and its video with N wrong captions."""
    return batch * (1 + 2 * negatives)


def check_reranked_validation(head: Head, select: Split, k: int, times: int, quiet: bool) -> None:
    """Say what it takes to re-rank the validation split this many times, or raise UserError if that is too much."""
    what = f"validation, {times:,} time{'' if times == 1 else 's'}"
    check_reranking(head, select, k, what, "use fewer --epochs or --candidates", quiet, times=times)


@dataclass(kw_only=True)
class HardNegativeTrainer(Trainer):
    """A trainer whose steps score each caption and each video with its hard negatives alone."""

    first: FirstStage

    def __post_init__(self) -> None:
        assert self.options.hard_negatives is not None
        assert self.options.candidates is not None
        self.negatives, self.k = self.options.hard_negatives, self.options.candidates
        self.budget = budget_bytes(self.options.memory_budget)
        self.drawn = 0
        """Steps whose negatives were drawn."""
        super().__post_init__()
        self.answers = Answers(self.split.texts.texts, self.split.answers, len(self.split.videos.ids))

    @property
    def pairs_a_step(self) -> int:
        return step_pairs(self.batch_size, self.negatives)

    def check_costs(self, select: Split, times: int) -> None:
        """Say what the first stage and all validations take, or raise UserError if that is too much."""
        first, quiet = self.first, self.options.quiet
        for split in (first.train, first.select):
            check_first_pass(first.run.head, split, quiet, self.processes)
        if self.processes.rank == 0:
            check_reranked_validation(self.head, select, self.k, times, quiet)

    def prepare(self) -> None:
        train, select = self.first.train, self.first.select
        count, quiet = self.k + self.answers.most_texts, self.options.quiet
        found = FirstPass.of(self.first.run.head, train, count, self.budget, quiet, self.processes)
        self.pools = Pools.of(found.candidates, self.answers, self.k)
        self.selecting = FirstPass.of(self.first.run.head, select, self.k, self.budget, quiet, self.processes)

    def validation_metrics(self, select: Split) -> Metrics:
        """Those of re-ranking the candidates of the first stage."""
        nearest_A = self.selecting.candidates.video_AK[:, 0]
        score_P = score_pairs(self.head, select.texts, select.videos, self.selecting.pairs, nearest_A, self.budget)
        return self.selecting.metrics(score_P)

    @property
    def selected_by(self) -> str:
        return f", re-ranking the {self.k:,} best of {self.first.run.name}"

    def record(self) -> dict[str, Any]:
        run = self.first.run
        return {
            "first_stage": {
                "run": run.name,
                "weights_sha256": run.weights_sha256,
                "max_frames": run.max_frames,
                "candidates": self.k,
                "hard_negatives": self.negatives,
                self.options.select_on: self.selecting.metrics(),
            }
        }

    def log_columns(self) -> dict[str, Any]:
        return {"candidates": self.k}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        return tensors, {**values, "drawn": self.drawn}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        super().load_state(tensors, values)
        self.drawn = values["drawn"]

    def draw(self, texts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Draw the next step's negatives: N videos for each of these captions, and N captions for each of their videos [A, N].

        A row of a pool is drawn from without replacement, and its wrong entries first.
        """
        random = np.random.default_rng([self.options.seed, self.drawn])
        self.drawn += 1
        videos = self.split.answers[texts]
        video_AK, text_AK = self.pools.video_AK[texts], self.pools.text_BK[videos]

        def some(pool_AK: NDArray[np.int64], right_AK: NDArray[np.bool_]) -> NDArray[np.int64]:
            order_AK = random.permuted(np.broadcast_to(np.arange(pool_AK.shape[1]), pool_AK.shape), axis=1)
            right_AK = np.take_along_axis(right_AK, order_AK, axis=1)
            order_AK = np.take_along_axis(order_AK, np.argsort(right_AK, axis=1, kind="stable"), axis=1)
            return np.take_along_axis(pool_AK, order_AK[:, : self.negatives], axis=1)

        return (
            some(video_AK, self.answers.right(texts[:, None], video_AK)),
            some(text_AK, self.answers.right(text_AK, videos[:, None])),
        )

    def suspects(self, texts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Those of all videos with features that are not finite: any may be a negative."""
        answers, found = self.split.answers, []
        for video in np.unique(answers):
            own = np.flatnonzero(answers == video)
            if self.not_finite(TextBatch.gather(self.texts, own, self.device), VideoBatch.gather(self.videos, [video], self.device)):
                found.append(own)
        return np.concatenate([texts[:0], *found])

    def losses_of(self, texts: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        wrong_videos_AN, wrong_texts_AN = self.draw(texts)
        own = share(len(texts), self.processes)
        score_2AC, finite = self._scores_of(texts[own], wrong_videos_AN[own], wrong_texts_AN[own])
        target_A = score_2AC.new_zeros(score_2AC.shape[1], dtype=torch.int64)
        entropies = [cross_entropy(score_AC, target_A, reduction="sum") for score_AC in score_2AC]
        # This process's share of the mean over all captions of the batch; the gradients of all processes are summed.
        loss = sum(entropies, start=score_2AC.new_zeros(())) / (2 * len(texts))
        whole = torch.where(finite, loss.detach(), torch.nan)
        self.processes.sum(whole)
        return loss, torch.stack([whole, whole, torch.zeros_like(whole)])

    def _scores_of(
        self, texts: NDArray[np.int64], wrong_videos_AN: NDArray[np.int64], wrong_texts_AN: NDArray[np.int64]
    ) -> tuple[Tensor, Tensor]:
        """The scores [2, A, C] of captions with their videos, then with wrong videos (text to video) or of their videos with wrong captions
        (video to text); and whether all features are finite."""
        assert isinstance(self.head, PairwiseHead)
        videos = self.split.answers[texts]
        right_A1 = texts[:, None], videos[:, None]
        to_video = (np.broadcast_to(right_A1[0], wrong_videos_AN.shape), wrong_videos_AN)
        to_text = (wrong_texts_AN, np.broadcast_to(right_A1[1], wrong_texts_AN.shape))
        text_P, video_P = (np.concatenate([part.ravel() for part in parts]) for parts in zip(right_A1, to_video, to_text, strict=True))
        # Every text and every video passes through its projections once, however many pairs it is in.
        text_ids, text_places = np.unique(text_P, return_inverse=True)
        video_ids, video_places = np.unique(video_P, return_inverse=True)
        text_batch = TextBatch.gather(self.texts, text_ids, self.device)
        video_batch = VideoBatch.gather(self.videos, video_ids, self.device)
        score_P = self.head.pair_scores(
            self.head.encode_texts(text_batch),
            self.head.encode_videos(video_batch),
            torch.from_numpy(text_places),
            torch.from_numpy(video_places),
        )
        count = len(texts)
        true_A1, video_AN, text_AN = (part.view(count, -1) for part in score_P.split([count, to_video[1].size, to_text[1].size]))
        right_2AN = (self.answers.right(*pair) for pair in (to_video, to_text))
        video_AN, text_AN = (
            score_AN.masked_fill(to_device(torch.from_numpy(right_AN), self.device), -torch.inf)
            for score_AN, right_AN in zip((video_AN, text_AN), right_2AN, strict=True)
        )
        score_2AC = torch.stack([torch.cat([true_A1, video_AN], dim=1), torch.cat([true_A1, text_AN], dim=1)])
        return score_2AC, self.finite(text_batch, video_batch)
