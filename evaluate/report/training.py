"""The training curve of a run, from its log: the losses and the validation metrics of every epoch, the kept one marked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.base.errors import one_line
from data.metrics import RECALL_NAMES, RECALL_SUM, TEXT_TO_VIDEO
from evaluate.report.plots import FIRST, HEIGHT, INK, SECOND, Plot, render
from train_head.losses import LOSSES
from train_head.run import LOG_FILE, ZERO_SHOT

EPOCH = "epoch"
CHOSEN_BY = f"{TEXT_TO_VIDEO} {RECALL_NAMES[0]}"
"""The column of the log that chooses the epoch."""
CSC = LOSSES[-1]
"""The column of the CSC loss."""
_STYLES = ((FIRST, "-"), (SECOND, "--"), (INK, ":"), (FIRST, "-."), (SECOND, ":"), (INK, "--"))


@dataclass(frozen=True)
class TrainingLog:
    """The log of a run: one row per epoch, from epoch 0, which is the head before training."""

    rows: pd.DataFrame
    losses: Sequence[str]
    """The columns of losses: their sum first, then its parts."""
    kept: int
    """The epoch whose weights the run has."""
    split: str
    """The split that chose it."""

    def at(self, column: str) -> float:
        """A value of the kept epoch."""
        return float(self.rows.loc[self.rows[EPOCH] == self.kept, column].iloc[0])


def read_log(run: str, record: Mapping[str, Any]) -> TrainingLog | str:
    """The log of a run, or a sentence that says why there is none. `record`: the contents of run.json."""
    path = Path(run) / LOG_FILE
    if run.startswith(ZERO_SHOT):
        return "This head was not trained, so there is no training curve."
    if not path.is_file():
        return f"There is no training curve, because {path} is not there."
    try:
        rows = pd.read_csv(path)
        columns = list(rows.columns)
        # Between the epoch and the metrics: the losses of every head, then those of this one.
        losses = columns[columns.index(EPOCH) + 1 : columns.index(CHOSEN_BY)]
        log = TrainingLog(rows[[EPOCH, *losses, CHOSEN_BY, RECALL_SUM]].astype(float), losses, record["best_epoch"], record["selected_on"])
    except (OSError, ValueError, KeyError) as error:
        return f"There is no training curve, because {path} cannot be read ({one_line(error)})."
    if not _is_whole(rows, log):
        return f"There is no training curve, because {path} is damaged: numbers or epochs are missing."
    if not (log.rows[EPOCH] == log.kept).any() or log.kept < 1 or log.losses[: len(LOSSES)] != list(LOSSES):
        return f"There is no training curve, because {path} does not have the losses of epoch {log.kept}, which the run kept."
    return log


def _is_whole(rows: pd.DataFrame, log: TrainingLog) -> bool:
    """Whether the epochs follow one another, and all numbers are there and finite: training stops at a loss that is not. Epoch 0 has no
    losses."""
    trained = log.rows[EPOCH] > 0
    numbers = (log.rows[[EPOCH, CHOSEN_BY, RECALL_SUM]], log.rows[trained])
    in_order = bool((log.rows[EPOCH].diff()[1:] == 1).all())
    return in_order and bool(rows[trained].notna().to_numpy().all()) and all(np.isfinite(found.to_numpy()).all() for found in numbers)


def draw_training(folder: Path, log: TrainingLog) -> Plot:
    """Draw the log, and write it into `folder` as the other plots."""
    trained = log.rows[log.rows[EPOCH] > 0]
    shown = [name for name in log.losses if not (trained[name] == 0).all()]
    names = {RECALL_SUM: f"{RECALL_SUM} on {log.split}", CHOSEN_BY: f"text to video {RECALL_NAMES[0]} on {log.split} (%)"}

    def draw(figure: Figure) -> None:
        panels = figure.subplots(3, 1, sharex=True)
        for name, (colour, style) in zip(shown, _repeated(len(shown)), strict=True):
            _line(panels[0], trained[EPOCH], trained[name], name, colour, style)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
        panels[0].set_ylabel("mean loss")
        for panel, (column, label) in zip(panels[1:], names.items(), strict=True):
            _line(panel, log.rows[EPOCH], log.rows[column], label, SECOND, "-")
            panel.plot(log.kept, log.at(column), "o", color=INK, markersize=6, fillstyle="none", markeredgewidth=1.6)
            panel.set_ylabel(label.replace(" on ", "\non "))
        for panel in panels:
            panel.axvline(log.kept, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
        panels[-1].set_xlabel("epoch")
        panels[-1].xaxis.get_major_locator().set_params(integer=True)

    best = trained.iloc[int(trained[RECALL_SUM].to_numpy().argmax())]
    most = "" if best[EPOCH] == log.kept else f" {RECALL_SUM} is highest in epoch {best[EPOCH]:.0f}, at {best[RECALL_SUM]:.1f}."
    caption = (
        f"Mean losses of each epoch, and the metrics on {log.split} after it; epoch 0 is the head before training. The dotted line marks "
        f"epoch {log.kept}, which was kept because its text-to-video {RECALL_NAMES[0]} is the highest: {log.at(CHOSEN_BY):.1f}, with "
        f"{RECALL_SUM} {log.at(RECALL_SUM):.1f}.{most}"
    )
    numbers = "; ".join(
        f"epoch {row[EPOCH]:.0f}: {', '.join(f'{name} {row[name]:.3f}' for name in shown if row[EPOCH] > 0)}"
        f"{', ' if row[EPOCH] > 0 else ''}{RECALL_SUM} {row[RECALL_SUM]:.1f}"
        for _, row in log.rows.iterrows()
    )
    return render(folder, "training", "Training curve", caption, f"{numbers}.", draw, 1.75 * HEIGHT)


def _line(axes: Axes, x: "pd.Series[float]", y: "pd.Series[float]", label: str, colour: str, style: str) -> None:
    axes.plot(x, y, style, color=colour, label=label, marker="." if len(x) < 30 else None)


def _repeated(count: int) -> list[tuple[str, str]]:
    return [_STYLES[i % len(_STYLES)] for i in range(count)]
