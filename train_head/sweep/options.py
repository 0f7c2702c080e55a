"""Options of `python -m train_head.sweep`, and the grid of runs they describe.

Every option marked VARIED in train_head/options.py becomes an option of the sweep, whose text lists several values. A new one is swept
without a change here.
"""

import dataclasses
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import tyro

from data.base.errors import UserError
from data.cli.command_line import About, help_texts
from data.cli.meaning import DeviceName, Meaning, NoneAs, SavesMemory, marks, options_with
from train_head.options import TrainOptions


@dataclass(frozen=True)
class Sweep:
    """Train every combination of the given values with every seed, over one loaded cache. Separate values by commas."""

    cache: Annotated[Path, About.INPUT]
    """Folder of the feature cache."""
    out: Annotated[Path, About.OUTPUT]
    """Folder for runs.csv and the runs. Runs with a row in it are not trained again."""
    seeds: Annotated[int, About.OPTIMIZER] = 5
    """Number of seeds per combination: 0, 1, ..."""
    report_on: Annotated[Literal["test", "val"], About.INPUT] = "test"
    """Split to measure the best epoch of every run on. It does not choose the epoch."""
    evaluate: Annotated[bool, About.OUTPUT] = False
    """Evaluate each trained run with python -m evaluate, on the same split and without a report, into OUT/RUN/results. Then
    python -m evaluate.compare OUT makes a table of the results."""
    candidates_run: Annotated[str | None, About.LOSS] = None
    """For joint and tight: a run, or zero-shot:HEAD, that ranks every split first. They then train on hard negatives, and re-rank its best
    to choose the epoch and to measure it. Other heads train and score as always. Without it, tight trains on all pairs of a batch and
    scores all pairs, and joint is refused."""
    hard_negatives: Annotated[int | None, About.LOSS] = None
    """With --candidates-run: hard negatives of each caption and of each video in a step. Default: 15."""
    candidates: Annotated[int | None, About.LOSS] = None
    """With --candidates-run: how many of its best are drawn from for every caption and every video, and re-ranked on every split. Default:
    50."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol. Needed only if the cache serves several."""
    name: Annotated[str | None, About.INPUT] = None
    """Source in the cache, by the name that extract gave it. Default: all sources with captions, together."""
    allow_missing: Annotated[bool, About.INPUT] = False
    """Continue without the captions and videos whose features are missing."""
    memory_budget: Annotated[float | None, About.MACHINE, SavesMemory("a smaller --memory-budget")] = None
    """GiB of features to keep in memory per split. Default: half of the machine's memory."""
    device: Annotated[DeviceName, About.MACHINE] = "auto"
    """Device to train on. auto takes CUDA if available, else the CPU. mps is for GPUs of Apple, and untested."""
    processes: Annotated[int | None, About.MACHINE, SavesMemory("fewer --processes")] = None
    """Runs to train in parallel. Does not affect results. Default: one per core; 1 on a GPU."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""

    of: ClassVar[type[TrainOptions]] = TrainOptions
    """The options of each run."""


@dataclass(frozen=True)
class _Kind:
    """How to write the values of an option: as one of `choices`, or as anything that the type `other` can parse."""

    choices: Mapping[str, Any]
    other: type[int] | type[float] | type[str] | None

    @classmethod
    def of(cls, options_type: type[Any], name: str) -> "_Kind":
        """From the option's annotation."""
        hint = get_type_hints(options_type)[name]
        kinds = {hint} if get_origin(hint) is Literal else {*get_args(hint)} or {hint}
        choices: dict[str, Any] = {}
        if type(None) in kinds:
            choices[next((mark.text for mark in marks(options_type)[name] if isinstance(mark, NoneAs)), "none")] = None
        if bool in kinds:
            choices |= {"no": False, "yes": True}
        for kind in kinds:
            if get_origin(kind) is Literal:
                choices |= {str(choice): choice for choice in get_args(kind)}
        return cls(choices, next((kind for kind in (int, float, str) if kind in kinds), None))

    def read(self, text: str) -> Any:
        """Parse a value. Raises KeyError or ValueError if `text` is not one."""
        return self.choices[text] if text in self.choices or self.other is None else self.other(text)

    def written(self, value: Any) -> str:
        """Format a value so that `read` can parse it."""
        return next((text for text, choice in self.choices.items() if choice == value), str(value))

    def metavar(self) -> str:
        """The values in --help, such as {clip,random}, or {all}|INT."""
        named = ["{" + ",".join(self.choices) + "}"] if self.choices else []
        return "|".join([*named, *([self.other.__name__.upper()] if self.other else [])])


def _default(options_type: type[Any], name: str) -> Any:
    return next(field.default for field in dataclasses.fields(options_type) if field.name == name)


def sweep_options(of: type[TrainOptions]) -> type[Any]:
    """The options of a sweep over runs with the options `of`: those of `Sweep`, and the VARIED options of `of`.

    >>> sweep_options(TrainOptions)(cache=Path("runs/cache"), out=Path("runs/sweep"), csc_weight="0,0.5", head="glccl,mean")
    """
    texts = help_texts(of)
    members: list[Any] = []
    for name in options_with(of, Meaning.VARIED):
        kind = _Kind.of(of, name)
        box = [mark for mark in marks(of)[name] if isinstance(mark, About | SavesMemory)]
        argument = tyro.conf.arg(help=texts.get(name, ""), metavar=f"{kind.metavar()},...")
        members.append((name, Annotated[str, *box, argument], dataclasses.field(default=kind.written(_default(of, name)))))
    return dataclasses.make_dataclass("SweepOptions", members, bases=(Sweep,), namespace={"of": of, "__doc__": Sweep.__doc__}, frozen=True)


SweepOptions = sweep_options(TrainOptions)
"""The options of `python -m train_head.sweep`."""


def expand(options: Sweep) -> list[TrainOptions]:
    """The options of every run of the grid. Raises UserError for a value that its option does not accept."""
    if options.seeds < 1:
        raise UserError(f"--seeds {options.seeds} must be at least 1")
    names = options_with(options.of, Meaning.VARIED)
    values = [_values(options, name) for name in names]
    shared = options.of(
        cache=options.cache,
        out=options.out,
        preset=options.preset,
        name=options.name,
        allow_missing=options.allow_missing,
        memory_budget=options.memory_budget,
        device=options.device,
        quiet=True,
    )
    return [
        replace(shared, **dict(zip(names, combination, strict=True)), seed=seed)
        for combination in itertools.product(*values)
        for seed in range(options.seeds)
    ]


def _values(options: Sweep, name: str) -> list[Any]:
    """The distinct values of an option of the sweep, parsed as options of a run."""
    kind, given = _Kind.of(options.of, name), str(getattr(options, name))
    found: list[Any] = []
    for text in given.split(","):
        try:
            value = kind.read(text)
        except (KeyError, ValueError) as error:
            takes = ", ".join([*kind.choices, *(["numbers"] if kind.other else [])])
            raise UserError(
                f"--{name.replace('_', '-')} {given}: {text!r} is not one of its values ({takes}); separate values by commas"
            ) from error
        if value not in found:
            found.append(value)
    return found
