"""What an evaluation writes for other tools: the matrix of --save-scores and the run of --run-file, from the one pass that ranks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from data.base.errors import UserError
from data.base.progress import say
from data.compute.processes import ProcessGroup
from evaluate.folder import EVALUATION_PATTERNS
from evaluate.options import EvaluateOptions
from evaluate.scores.matrix import MatrixFiles
from evaluate.scores.saving import OPTION, SavedScores, chosen_matrices
from evaluate.scores.trec import RunFiles, SavedRuns
from train_head.heads import ALL_SCORES, Head
from train_head.scoring.pairs import Accumulator
from train_head.scoring.splits import Split

_MADE = (
    *("run", "preset", "sources", "split", "queries", "gallery", "counts"),
    *("captions_cut", "max_words", "captions_cut_by_head", "head_max_words"),
    *("trained_on", "train_videos", "selected_on", "protocol", "max_frames", "temperatures", "products"),
    *("cache_digest", "weights", "trained_with", "head_source", "provenance"),
)
"""Fields of metrics.json that NAME.json repeats."""


def check_exports(options: EvaluateOptions) -> None:
    """Raise UserError for options that do not go together, or files of a wrong name."""
    plain = EvaluateOptions(options.cache, options.run, options.out)
    if options.save_scores is None and (options.save_scores_of, options.save_scores_dtype) != (
        plain.save_scores_of,
        plain.save_scores_dtype,
    ):
        raise UserError("--save-scores-of and --save-scores-dtype go with --save-scores: add --save-scores NAME.npy")
    if options.run_file is None and options.run_depth != plain.run_depth:
        raise UserError("--run-depth goes with --run-file: add --run-file NAME.trec")
    if options.run_depth < 1:
        raise UserError(f"--run-depth {options.run_depth} must be at least 1")
    if options.save_scores is not None:
        files = MatrixFiles.named(options.save_scores, OPTION)
        # Only the JSON could have the name of a result.
        if files.made.parent.resolve() == options.out.resolve() and files.made.name in EVALUATION_PATTERNS:
            raise UserError(
                f"{OPTION} {options.save_scores}: {files.made.name} in {options.out} is a file of the results: choose another name"
            )
    if options.run_file is not None:
        RunFiles.named(options.run_file)


def require_writable_exports(options: EvaluateOptions) -> None:
    """Raise UserError if a file cannot be written."""
    if options.save_scores is not None:
        MatrixFiles(options.save_scores).require_writable(OPTION)
    if options.run_file is not None:
        RunFiles(options.run_file).require_writable()


class Exports:
    """The accumulators of the requested files. Without requests there are none."""

    def __init__(self, options: EvaluateOptions, head: Head, split: Split) -> None:
        """Raises UserError if --save-scores-of names a score that the head does not have."""
        self._options = options
        self._names = head.score_names()
        self._saved: SavedScores | None = None
        if options.save_scores is not None:
            of = options.save_scores_of
            self._chosen = chosen_matrices(of, self._names)
            files, dtype = MatrixFiles(options.save_scores), options.save_scores_dtype
            self._saved = SavedScores(files, split, self._chosen, dtype, each=of == ALL_SCORES)
        self._runs = None if options.run_file is None else SavedRuns(RunFiles(options.run_file), split, options.run_depth)
        self.accumulators: list[Accumulator] = [one for one in (self._saved, self._runs) if one is not None]
        """To be called after those that refuse scores that are NaN."""

    @contextmanager
    def opened(self, processes: ProcessGroup) -> Iterator[None]:
        """Hold the file of the matrix open, under a temporary name."""
        with ExitStack() as stack:
            if self._saved is not None:
                stack.enter_context(self._saved.opened(processes))
            yield

    def write(self, result: Mapping[str, Any]) -> None:
        """Give the files their names; `result`: the contents of metrics.json."""
        if self._runs is not None:
            self._runs.write(str(result["run"]))
        if self._saved is None:
            return
        moved = float(self._saved.rounding)
        if moved and not self._options.quiet:
            say(
                f"note: float16 moved scores by up to {moved:.3g}, so ranks from {self._options.save_scores} may differ: float32 keeps them"
            )
        about = {
            "scores": [[self._names[i] for i in places] for places in self._chosen],
            "shape": list(self._saved.shape),
            "dtype": self._options.save_scores_dtype,
            "rounding": moved,
        }
        self._saved.place(about | {name: result[name] for name in _MADE if name in result})
