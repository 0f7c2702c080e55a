"""Evaluation by the command itself: its scores, the ranks that follow from them, and the metrics that follow from those, in plain NumPy.

Shape suffixes: A texts, B videos, R rows, F frames, Q queries, E entries to rank, D joint dimension.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.gpu.correctness.caches import make_cache
from benchmarks.gpu.correctness.commands import Word, run
from benchmarks.gpu.place import Outcome, Place
from data.cache import FeatureCache
from evaluate.ranks import RANKS_FILES
from train_head.temperatures import KAPPA

SCALE = 100.0
"""The factor of untrained heads' scores."""
ZERO_SHOT = {"mean": 1.0, "glccl": 1 + 2 / KAPPA}
"""Untrained heads, and by how much they amplify the rounding of a cosine. A softmax at temperature kappa changes a weight by the factor
exp(rounding / kappa), above and below its fraction."""
RECALLS = (1, 5, 10)

Scores = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Evaluated:
    """The results of one evaluation: scores [A, B], the index of each text's video [A], and by direction the ranks and the metrics."""

    score_AB: Scores
    answer_A: NDArray[np.int64]
    ranks: Mapping[str, pd.DataFrame]
    metrics: Mapping[str, Mapping[str, float]]

    def directions(self, score_AB: Scores) -> dict[str, tuple[Scores, Scores]]:
        """By direction, these scores of the entries to rank [Q, E] and those of the answers [Q]. A video's texts are one entry."""
        videos = score_AB.shape[1]
        best_BB = np.stack([score_AB[self.answer_A == b].max(axis=0) for b in range(videos)])
        of_texts = score_AB, score_AB[np.arange(len(score_AB)), self.answer_A]
        return dict(zip(RANKS_FILES, (of_texts, (best_BB.T, best_BB.diagonal())), strict=True))

    def ranks_follow(self) -> bool:
        """Whether the ranks are those of the scores."""
        return all(
            np.array_equal(self.ranks[name]["best_rank"], 1 + (score_QE > own_Q[:, None]).sum(axis=1))
            and np.array_equal(self.ranks[name]["worst_rank"], (score_QE >= own_Q[:, None]).sum(axis=1))
            for name, (score_QE, own_Q) in self.directions(self.score_AB).items()
        )

    def metrics_follow(self) -> bool:
        """Whether the metrics are those of the ranks."""
        return all(
            self.metrics[name].keys() == of_ranks(self.ranks[name]).keys()
            and all(np.isclose(self.metrics[name][key], value, rtol=1e-12) for key, value in of_ranks(self.ranks[name]).items())
            for name in RANKS_FILES
        )

    def decided_by_rounding(self, exact_AB: Scores, rounding: float) -> dict[str, bool]:
        """By direction, whether each rank differs from that of these scores by the entries within rounding of its answer at most."""
        found = {}
        for name, (score_QE, own_Q) in self.directions(exact_AB).items():
            # Both scores of a comparison may have moved.
            close_QE = np.abs(score_QE - own_Q[:, None]) <= 2 * rounding
            surely_Q = ((score_QE > own_Q[:, None]) & ~close_QE).sum(axis=1)
            best_Q, worst_Q = self.ranks[name]["best_rank"].to_numpy(), self.ranks[name]["worst_rank"].to_numpy()
            # The answer itself is close.
            found[name] = bool((best_Q >= 1 + surely_Q).all() and (worst_Q <= surely_Q + close_QE.sum(axis=1)).all())
        return found


def of_ranks(table: pd.DataFrame) -> dict[str, float]:
    """The metrics of ranks. Ties have expected credit: a rank is equally likely anywhere from the best to the worst."""
    best_Q, worst_Q = table["best_rank"].to_numpy(), table["worst_rank"].to_numpy()
    recalls = {f"R@{k}": 100 * float(np.clip((k + 1 - best_Q) / (worst_Q - best_Q + 1), 0, 1).mean()) for k in RECALLS}
    middle_Q = (best_Q + worst_Q) / 2
    return recalls | {"MdR": float(np.median(middle_Q)), "MnR": float(middle_Q.mean())}


def cosines(cache: FeatureCache, captions: list[str], videos: list[str]) -> Scores:
    """The scores [A, B] of the untrained head `mean` in float64: of each sentence with the mean of the video's unit frames."""
    mean_BD = np.stack([unit(frames(cache, video)).mean(axis=0) for video in videos])
    score_AB: Scores = SCALE * unit(sentences(cache, captions)) @ unit(mean_BD).T
    return score_AB


def unit(row_RD: Scores) -> Scores:
    """The rows divided by their norms."""
    unit_RD: Scores = row_RD / np.linalg.norm(row_RD, axis=1, keepdims=True)
    return unit_RD


def sentences(cache: FeatureCache, captions: list[str]) -> Scores:
    """Sentence features [A, D] as float64."""
    sentence_AD: Scores = cache.texts(captions).sentences.gather(range(len(captions)))[0].double().numpy()
    return sentence_AD


def frames(cache: FeatureCache, video: str) -> Scores:
    """Frame features [F, D] as float64."""
    frame_FD: Scores = cache.videos([video]).frames.gather([0])[0].double().numpy()
    return frame_FD


def evaluation(place: Place) -> Outcome:
    """Scores, ranks and metrics of untrained heads.

    The ranks must be exactly those of the scores, and the metrics those of the ranks. The scores of `mean` are compared with cosines in
    float64, and on a device those of every head with the scores that the same command gives on the CPU.
    """
    videos, dimension = (40, 32) if place.small else (1000, 512)
    cache = make_cache(place.folder / "cache", videos, dimension)
    figures: dict[str, dict[str, Any]] = {}
    holds: dict[str, bool] = {}
    for head, amplified in ZERO_SHOT.items():
        # Roundings of a sum add up as a random walk: eight of its standard deviations.
        rounding = 8 * dimension**0.5 * 2.0**-24 * amplified * SCALE
        ours = evaluated(cache.path, head, place.device.type, place.folder)
        references = {}
        if head == "mean":
            texts, galleries = (ours.ranks[name] for name in RANKS_FILES)
            references["float64"] = cosines(cache, texts["caption"].tolist(), galleries["video_id"].tolist())
        if place.device.type != "cpu":
            references["the CPU"] = evaluated(cache.path, head, "cpu", place.folder).score_AB
        figures[head], claims = compare(ours, references, rounding)
        holds |= {f"{head}: {claim}": held for claim, held in claims.items()}
    return Outcome({"heads": figures, "videos": videos, "D": dimension}, holds)


def compare(ours: Evaluated, references: Mapping[str, Scores], rounding: float) -> tuple[dict[str, Any], dict[str, bool]]:
    """Figures and claims of one evaluation, against the scores of others."""
    holds = {"the ranks are those of the scores": ours.ranks_follow(), "the metrics are those of the ranks": ours.metrics_follow()}
    figures: dict[str, Any] = {"rounding": rounding, "R@1, text to video": ours.metrics["text_to_video"]["R@1"]}
    for name, score_AB in references.items():
        moved = float(np.abs(ours.score_AB - score_AB).max())
        figures[f"largest difference of scores from {name}"] = moved
        holds[f"scores differ from those of {name} by rounding alone"] = moved <= rounding
        decided = ours.decided_by_rounding(score_AB, rounding)
        holds[f"ranks differ from those of {name} where rounding decides them alone"] = all(decided.values())
    return figures, holds


def evaluated(cache: Path, head: str, device: str, folder: Path) -> Evaluated:
    """Evaluate an untrained head with `python -m evaluate`."""
    out, scores = folder / f"{head}-{device}", folder / f"{head}-{device}.npy"
    words: list[Word] = ["--cache", cache, "--run", f"zero-shot:{head}", "--out", out, "--save-scores", scores, "--no-report", "--quiet"]
    run("evaluate", *words, "--device", device)
    return read(out, scores)


def read(out: Path, scores: Path) -> Evaluated:
    """The results in this folder. Captions of the steps' cache end with the id of their video."""
    ranks = {direction: pd.read_parquet(out / name) for direction, name in RANKS_FILES.items()}
    of_texts, of_videos = (ranks[direction] for direction in RANKS_FILES)
    place_of = {name: i for i, name in enumerate(of_videos["video_id"])}
    answer_A = np.array([place_of[caption.split()[-1]] for caption in of_texts["caption"]], dtype=np.int64)
    record = json.loads((out / "metrics.json").read_text())
    return Evaluated(np.load(scores), answer_A, ranks, {direction: record[direction] for direction in RANKS_FILES})
