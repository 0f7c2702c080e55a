"""docs/design/ablations.md from the CSV of sweeps: `python -m experiments.ablations --runs runs/ablations/runs.csv`.

Every comparison is of runs that differ in one option alone, and paired: the same seeds on both sides. Nothing is judged by hand: the words
follow from the figures.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from data.base.errors import UserError
from data.base.whole_files import write_atomically
from data.base.writable import require_writable_file
from data.cli.command import run_command
from data.cli.command_line import About
from data.cli.meaning import Meaning, filled, options_with
from evaluate.bootstrap import LEVEL
from train_head.options import TrainOptions

ROOT = Path(__file__).parent.parent
FIGURES = ("t2v R@1", "t2v R@5", "v2t R@1", "RSum")
PAPERS_WEIGHT = 0.5
SEVERAL_SCORES = ("glccl", "glim-global", "glim-local", "xclip")


@dataclass(frozen=True)
class AblationOptions:
    """Write docs/design/ablations.md from the CSV of sweeps."""

    runs: Path = ROOT / "runs" / "ablations" / "runs.csv"
    """The CSV that python -m train_head.sweep wrote."""
    out: Path = ROOT / "docs" / "design" / "ablations.md"
    """File for the text."""
    split: str = "test"
    """Split whose figures are shown: test or val."""


@dataclass(frozen=True)
class Study:
    """One table: runs at the defaults of the sweep but for what `where` names, one row for each value of `varies`."""

    title: str
    varies: str
    where: dict[str, Any]
    base: Any
    """The value that the others are compared with."""
    claim: str
    """What the paper claims, in words; empty where it says nothing."""
    better: Any = None
    """The value that the claim calls better than `base` (or, where it is `base`, better than all others)."""


ETA = Study("The weight of the CSC loss", "csc_weight", {}, 0.0, "CSC at 0.5 is better than none", 0.5)

STUDIES = (
    Study("Heads", "head", {}, "glccl", "the whole of GLIM is better than its halves, and GLCCL than other heads", "glccl"),
    Study(
        "Scores",
        "scores",
        {},
        "all",
        "the four scores together are better than fewer",
        "all",
    ),
    ETA,
    Study("CSC with global scores alone", "csc_weight", {"head": "glim-global"}, 0.0, "CSC at 0.5 is better than none", 0.5),
    Study("CSC with local scores alone", "csc_weight", {"head": "glim-local"}, 0.0, "CSC at 0.5 is better than none", 0.5),
    Study("CSC with X-CLIP's scores", "csc_weight", {"head": "xclip"}, 0.0, "", None),
    Study("The data of the CSC loss", "csc_data", {}, "both", "both kinds of pairs are better than one", "both"),
    Study("Temporal encoder", "temporal", {}, "none", "a temporal encoder helps", "seq-transf"),
    Study("Start of the temporal encoder", "temporal_init", {}, "random", "", None),
    Study("Other captions of the same video", "mask_same_video", {}, False, "", None),
    Study("Number of frames", "max_frames", {}, "all", "", None),
)


def main(options: AblationOptions) -> Path:
    """Write the text and return its path. Raises UserError where there is no such CSV."""
    require_writable_file(options.out)
    if not options.runs.is_file():
        raise UserError(f"--runs {options.runs} is not there: write it with pipelines/ablate_csc.sh")
    table = pd.read_csv(options.runs)
    if f"{options.split} RSum" not in table:
        raise UserError(f"--split {options.split}: {options.runs} has no figures of it")
    if "training_cpu_seconds" not in table:
        raise UserError(f"{options.runs} is of a sweep that did not count CPU seconds: sweep again into another folder")
    table = _normal(table)
    figure = options.out.with_name(f"{options.out.stem}-csc-weight.svg")
    drawn = draw_weights(table, options.split, figure)
    write_atomically(options.out, "\n".join(_text(table, options.split, figure.name if drawn else None)) + "\n")
    print(options.out)
    return options.out


def _normal(table: pd.DataFrame) -> pd.DataFrame:
    """The options as `_defaults` writes them."""
    frames = table["max_frames"].map(lambda value: "all" if pd.isna(value) else str(int(value)))
    table = table.assign(max_frames=frames)
    # Heads without a temperature have none in the CSV, and differ in nothing by it.
    usual = {name: value for name, value in filled(TrainOptions, {}).items() if name in table}
    table = table.fillna(usual)
    # A head with one score has no CSC: its weight changes nothing.
    weight = _defaults(table)["csc_weight"]
    return table.assign(csc_weight=table["csc_weight"].where(table["head"].isin(SEVERAL_SCORES), weight))


def _defaults(table: pd.DataFrame) -> dict[str, Any]:
    """The method's options at their defaults: those that a sweep varies and the CSV has, but how long and how fast it trains."""
    names = set(options_with(TrainOptions, Meaning.VARIED)).difference(options_with(TrainOptions, About.OPTIMIZER)).intersection(table)
    defaults = {field.name: field.default for field in fields(TrainOptions) if field.name in names}
    # The CSV holds what a default stands for: the demo's CLIP has blocks that fit.
    chosen = filled(TrainOptions, defaults) | {"temporal": "seq-transf", "temporal_init": "clip"}
    return {name: "all" if value is None else value for name, value in chosen.items() if name in names}


def _text(table: pd.DataFrame, split: str, figure: str | None) -> Iterator[str]:
    first = table.iloc[0]
    yield "# Ablations on the demo set"
    yield ""
    yield "Written by `python -m experiments.ablations` from the CSV of `pipelines/ablate_csc.sh`; not by hand."
    yield ""
    yield (
        f"{len(table)} runs on {first['train_videos']:,} training videos, learning rate "
        f"{' and '.join(f'{lr:g}' for lr in sorted(set(table['lr'])))}, {' and '.join(map(str, sorted(set(table['epochs']))))} epochs of "
        f"batches of {' and '.join(map(str, sorted(set(table['batch_size']))))}; the epoch is chosen on val. Figures are of {split} "
        f"({first['queries']:,} captions, {first['gallery']:,} videos), mean ± standard deviation over the seeds named. A difference is "
        "paired (same seed on both sides), with its 95% interval by Student's t; where that holds 0, no difference was shown. Seeds "
        "stand for the order of captions and random starts alone: all runs share one cache and one test split. Many intervals are "
        "shown: one in twenty misses its value by chance."
    )
    for study in STUDIES:
        if _is_measured(table, study):
            yield from _study(table, study, split)
            if study == ETA:
                yield from _best_weight(table, split, figure)
    yield from _cost(table)
    lacking = [study.title for study in STUDIES if not _is_measured(table, study)]
    if lacking:
        yield from ("", "## Not measured", "", f"The CSV has no two values of what these would compare: {'; '.join(lacking)}.")


def _groups(table: pd.DataFrame, study: Study) -> dict[Any, pd.DataFrame]:
    """The runs of a study by the value that varies, each by its seed."""
    fixed = {name: value for name, value in (_defaults(table) | study.where).items() if name != study.varies}
    rows = table
    for name, value in fixed.items():
        rows = rows[rows[name] == value]
    return {value: group.set_index("seed").sort_index() for value, group in rows.groupby(study.varies, sort=True)}


def draw_weights(table: pd.DataFrame, split: str, path: Path) -> bool:
    """Draw RSum against the weight of the CSC loss, the paper's Fig. 4, where there are two weights at least; says whether there are."""
    groups = _groups(table, ETA)
    if len(groups) < 2:
        return False
    import matplotlib as mpl
    from matplotlib.figure import Figure

    # The same bytes from the same runs: names within the file from a fixed salt, and no date.
    with mpl.rc_context({"svg.hashsalt": "ablations", "svg.fonttype": "none"}):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for weight, group in groups.items():
            axes.plot([weight] * len(group), group[f"{split} RSum"], "o", color="0.7", markersize=4)
        sums = [group[f"{split} RSum"].tolist() for group in groups.values()]
        deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in sums]
        axes.errorbar(list(groups), [statistics.mean(values) for values in sums], deviations, fmt="-s", color="C0", capsize=3)
        axes.set_xlabel("weight of the CSC loss (grey: runs; bars: standard deviation over seeds)")
        axes.set_ylabel(f"RSum, {split}")
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
    return True


def _best_weight(table: pd.DataFrame, split: str, figure: str | None) -> Iterator[str]:
    """Which weight is best, and whether that is the paper's; with the figure."""
    groups = _groups(table, ETA)
    if figure is None or PAPERS_WEIGHT not in groups:
        return
    means = {weight: group[f"{split} RSum"].mean() for weight, group in groups.items()}
    best = max(means, key=lambda weight: means[weight])
    yield from ("", f"![RSum against the weight of the CSC loss]({figure})", "")
    if best == PAPERS_WEIGHT:
        yield f"The claim that weights about {PAPERS_WEIGHT:g} are best: holds for the mean, which is largest there."
        return
    paired = (groups[best][f"{split} RSum"] - groups[PAPERS_WEIGHT][f"{split} RSum"]).dropna().tolist()
    low = _interval(paired)[0] if paired else float("-inf")
    verdict = "does not hold (a better weight was measured)" if low > 0 else "is not decided"
    said = f", by {_said_interval(paired)}" if paired else ""
    yield f"The claim that weights about {PAPERS_WEIGHT:g} are best: {verdict}. The mean is largest at {best:g}{said}."


def _is_measured(table: pd.DataFrame, study: Study) -> bool:
    """Whether there is something to compare with its base."""
    groups = _groups(table, study)
    return study.base in groups and len(groups) > 1


def _study(table: pd.DataFrame, study: Study, split: str) -> Iterator[str]:
    groups = _groups(table, study)
    base = groups[study.base]
    yield from ("", f"## {study.title}", "")
    yield f"| {study.varies.replace('_', ' ')} | seeds | " + " | ".join(FIGURES) + f" | RSum against {_said(study.base)} |"
    yield "| --- " * (len(FIGURES) + 3) + "|"
    intervals: dict[Any, tuple[float, float]] = {}
    for value, group in groups.items():
        cells = [_spread(group[f"{split} {figure}"].tolist()) for figure in FIGURES]
        difference = "" if value == study.base else "no seeds in common"
        paired = (group[f"{split} RSum"] - base[f"{split} RSum"]).dropna().tolist()
        if value != study.base and paired:
            intervals[value] = _interval(paired)
            difference = _said_interval(paired)
        yield f"| {_said(value)} | {len(group)} | " + " | ".join(cells) + f" | {difference} |"
    commits = {value: sorted({str(commit)[:7] for commit in group["commit"]}) for value, group in groups.items()}
    if len({tuple(of_value) for of_value in commits.values()}) > 1:
        runs = ", ".join(f"{_said(value)} by {' and '.join(of_value)}" for value, of_value in commits.items())
        yield from ("", f"These runs were made by different commits ({runs}): a difference may hold a change of the code as well.")
    if study.claim:
        yield from ("", _verdict(study, intervals))


def _verdict(study: Study, intervals: dict[Any, tuple[float, float]]) -> str:
    """Where the claim holds by RSum and where not."""
    holds: list[str] = []
    fails: list[str] = []
    open_: list[str] = []
    # What is compared with the base: the better value alone, or all where the base is the better one.
    for value, interval in intervals.items():
        if study.better not in (study.base, value):
            continue
        low, high = (-interval[1], -interval[0]) if study.better == study.base else interval
        (holds if low > 0 else fails if high < 0 else open_).append(_said(study.base if study.better != study.base else value))
    parts = []
    for words, against in (("holds", holds), ("does not hold (the opposite was measured)", fails), ("is not decided", open_)):
        if against:
            parts.append(f"{words} against {', '.join(against)}")
    return f"The claim that {study.claim}: " + ("; ".join(parts) if parts else "not measured") + "."


def _cost(table: pd.DataFrame) -> Iterator[str]:
    default = {name: value for name, value in _defaults(table).items() if name != "head"}
    rows = table
    for name, value in default.items():
        rows = rows[rows[name] == value]
    yield from ("", "## What each head costs", "")
    threads = " and ".join(str(count) for count in sorted(set(rows["threads"])))
    yield (
        f"Medians over the runs above, {threads} thread(s) on {' and '.join(sorted(set(rows['device'])))}, with the temporal encoder, in "
        "seconds in which a core worked for the run, in which other work on the machine shows less than by the clock. Training has its "
        "evaluations on val in it, and the first run of a process its compilation; scoring is that of all pairs of the split shown, with "
        "features encoded again. The halves of GLCCL are made by the same compiled pass as the whole, so they cost as much. "
        "Heads were run one after the other: `python -m benchmarks.training` times steps of all heads in turn (scoring.md)."
    )
    columns = ("head", "seeds", "parameters", "training, CPU seconds", "against glccl", "scoring, CPU ms a query", "against glccl")
    yield from ("", f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|")
    costs = {head: _medians(group) for head, group in rows.groupby("head")}
    for head, (training, scoring) in costs.items():
        own = rows[rows["head"] == head]
        cells = [str(head), str(len(own)), f"{int(own['parameters'].iloc[0]):,}"]
        base = costs.get("glccl")
        for value, of_base, digits in ((training, base and base[0], 1), (scoring, base and base[1], 2)):
            cells += [f"{value:.{digits}f}", f"{value / of_base:.2f}" if of_base else "not measured"]
        yield f"| {' | '.join(cells)} |"


def _medians(runs: pd.DataFrame) -> tuple[float, float]:
    """CPU seconds of training, and CPU milliseconds of scoring a query."""
    queries = runs["scoring_cpu_seconds"] / runs["queries"]
    return statistics.median(runs["training_cpu_seconds"]), 1000 * statistics.median(queries)


def _said(value: Any) -> str:
    names = {"True": "left out", "False": "counted as others"}
    return names.get(str(value), f"{value:g}" if isinstance(value, float) else str(value))


def _spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def _interval(differences: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of a mean of paired differences; of one alone, everything."""
    from scipy.stats import t

    n, mean = len(differences), statistics.mean(differences)
    if n < 2:
        return float("-inf"), float("inf")
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * statistics.stdev(differences) / n**0.5
    return mean - half, mean + half


def _said_interval(differences: Sequence[float]) -> str:
    if len(differences) < 2:
        return f"{differences[0]:+.1f} (one seed)"
    low, high = _interval(differences)
    return f"{statistics.mean(differences):+.1f} [{low:+.1f}, {high:+.1f}]"


if __name__ == "__main__":
    run_command(AblationOptions, main, prog="python -m experiments.ablations")
