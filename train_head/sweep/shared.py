"""What the runs of a sweep share that read the same features: loaded, and checked before the first of them is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from data.base.errors import UserError
from data.base.progress import say
from data.cache import FeatureCache
from data.cache.mapped import map_texts, map_videos
from data.compute.device import budget_bytes
from train_head.compiling import announce_compiling, compile_loops
from train_head.heads import Head, head_class
from train_head.options import TrainOptions
from train_head.run import check_fits
from train_head.scoring.cost import check_cost, check_first_pass, check_reranking, flops_a_pair
from train_head.scoring.splits import Split, load_split
from train_head.scoring.two_stage import FirstPass
from train_head.settle import start_lines
from train_head.stage import TrainingData, batches_line, build_head, check_validation, load
from train_head.sweep.options import Sweep
from train_head.training.cost import say_step_cost
from train_head.training.first_stage import FirstStage, as_read
from train_head.training.hard_negatives import check_reranked_validation, few_candidates, step_pairs
from train_head.training.trainer import fitting_batch


@dataclass(frozen=True)
class Shared:
    """The splits, and where the runs go."""

    out: Path
    budget: int
    """Bytes of encoded videos to hold at once."""
    device: torch.device
    loaded: TrainingData
    report: Split
    """The split of --report-on."""
    first: FirstPass | None
    """What the first stage of --candidates-run says of that split."""

    def mapped(self, folder: Path) -> "Shared":
        """The same with its features in files of `folder`, which other processes map into memory."""

        def mapped(split: Split, name: str) -> Split:
            own = folder / name
            own.mkdir()
            return replace(split, texts=map_texts(split.texts, own), videos=map_videos(split.videos, own))

        def mapped_like(split: Split, whole: Split, whole_mapped: Split, name: str) -> Split:
            """A split of the first stage, whose features may be those of another split that is mapped."""
            if split.texts is not whole.texts or split.videos.frames is not whole.videos.frames:
                return mapped(split, name)
            patches = None if split.videos.patches is None else whole_mapped.videos.patches
            return replace(split, texts=whole_mapped.texts, videos=replace(whole_mapped.videos, patches=patches))

        loaded, first = self.loaded, self.loaded.first
        train, select = mapped(loaded.train, "train"), mapped(loaded.select, "select")
        if first is not None:
            first = FirstStage(
                first.run,
                mapped_like(first.train, loaded.train, train, "first-train"),
                mapped_like(first.select, loaded.select, select, "first-select"),
            )
        return replace(self, loaded=replace(loaded, train=train, select=select, first=first), report=mapped(self.report, "report"))


def load_shared(options: Sweep, cache: FeatureCache, device: torch.device, runs: Sequence[TrainOptions]) -> Shared:
    """Load the splits for runs that read the same features and all or none of which have a first stage, and score the report's candidates.

    Says what the runs cost. Raises UserError for what the user can fix.
    """
    one = runs[0]
    budget, patches = budget_bytes(options.memory_budget), head_class(one.head).READS_PATCHES
    report = load_split(
        cache, options.report_on, options.preset, budget, one.max_frames, options.allow_missing, options.name, patches=patches
    )
    loaded = load(one)
    for line in dict.fromkeys(line for run in runs for line in start_lines(run, cache, quiet=True)):
        say(line)
    _say_batches(runs, loaded.train)
    with announce_compiling(options.quiet):
        # Compile once here; the processes then load the loops from disk.
        for run in {run.head: run for run in runs}.values():
            head = build_head(run, cache).to(device)
            # All splits of all heads, before the first run: the report's would else be refused after a training.
            for split in (loaded.train, loaded.select, report):
                check_fits(head, split)
            compile_loops(head, loaded.train)
            _check_costs(run, head, loaded, report, options.quiet)
        found = None if loaded.first is None else _first_pass(one, loaded.first, report, budget, options.quiet, cache)
    return Shared(options.out, budget, device, loaded, report, found)


def _check_costs(run: TrainOptions, head: Head, loaded: TrainingData, report: Split, quiet: bool) -> None:
    """Say what a run's steps take and its scoring, or raise UserError if that is too much."""
    batch, times = fitting_batch(run.batch_size, len(loaded.train.videos.ids), 1), run.epochs + 1
    pairs = None if run.hard_negatives is None else step_pairs(batch, run.hard_negatives)
    say_step_cost(head, loaded.train, batch, len(loaded.train.answers) // batch * run.epochs, pairs=pairs)
    if run.candidates is None:
        check_validation(replace(run, quiet=quiet), loaded.select, head, times)
        texts, videos = len(report.answers), len(report.videos.ids)
        what = f"scoring {texts:,} x {videos:,} pairs of split {report.name!r} after each run"
        remedy = f"name fewer videos as split {report.name!r}" + (", or use --report-on val" if report.name == "test" else "")
        check_cost(head, report.texts, report.videos, what, flops_a_pair(head, report) * texts * videos, remedy, quiet)
    else:
        check_reranked_validation(head, loaded.select, run.candidates, times, quiet)
        what = f"re-ranking split {report.name!r} after each run,"
        check_reranking(head, report, run.candidates, what, "use fewer --candidates", quiet)


def _first_pass(run: TrainOptions, first: FirstStage, report: Split, budget: int, quiet: bool, cache: FeatureCache) -> FirstPass:
    """Find the candidates of the split to report."""
    assert run.candidates is not None
    if few := few_candidates(run.candidates, first.train, first.select):
        say(few)
    split = as_read(first.run, run, cache, report)
    check_fits(first.run.head, split)
    for scored in (first.train, first.select, split):
        check_first_pass(first.run.head, scored, quiet)
    return FirstPass.of(first.run.head, split, run.candidates, budget, quiet)


def _say_batches(runs: Sequence[TrainOptions], train: Split) -> None:
    """Say that a batch larger than the split is reduced. Raises UserError for several such sizes, which would give the same runs."""
    larger = {run.batch_size: run for run in runs if run.batch_size > len(train.videos.ids)}
    if len(larger) > 1:
        raise UserError(
            f"--batch-size {' and '.join(map(str, larger))} are more than the {len(train.videos.ids)} training videos and would be the "
            "same: name one of them"
        )
    for asked, run in larger.items():
        say(batches_line(run, train, fitting_batch(asked, len(train.videos.ids), 1)))
