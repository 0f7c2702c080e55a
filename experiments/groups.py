"""The groups of runs of the study: which settings are compared, and with which one.

`experiments.study` trains them, and `experiments.ablations` makes a table of each.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data.base.errors import UserError
from train_head.heads import head_class
from train_head.options import TrainOptions
from train_head.settle import settled_like

Setting = Mapping[str, Any]
"""The training options that differ from the defaults."""

HEAD_NAMES = ("glccl", "glim-global", "glim-local", "mean", "xclip", "dp", "ti", "wti", "meanmaxsim", "xpool", "tmass", "glscl")
MORE_HEADS = ("tmvm-frames", "tmvm", "ts2")
BY_CANDIDATES = {"candidates_run": "zero-shot:glccl", "candidates": 20, "hard_negatives": 3}
"""Fewer than the defaults, by which a run of `tight` would take the time of a dozen runs of `glccl`."""


@dataclass(frozen=True)
class Group:
    """Settings that are compared with each other; one table of docs/design/ablations.md."""

    name: str
    """For --only of the study."""
    title: str
    column: str
    """Heading of the column of settings."""
    settings: Mapping[str, Setting]
    """By the label of their row."""
    base: str
    """Label of the setting that the others are compared with in the table."""


def _varied(option: str, values: Iterable[Any], **others: Any) -> dict[str, Setting]:
    """Settings that differ in the value of one option."""
    return {_label(value): {**others, option: value} for value in values}


def _label(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _csc(head: str) -> Group:
    title = {
        "glim-global": "CSC with global scores alone",
        "glim-local": "CSC with local scores alone",
        "xclip": "CSC with X-CLIP's scores",
    }
    return Group(f"csc-{head}", title[head], f"CSC weight in {head}", _varied("csc_weight", (0.0, 0.5), head=head), "0")


GROUPS = (
    Group("csc-weight", "Weight of the CSC loss", "CSC weight", _varied("csc_weight", (0.0, 0.1, 0.3, 0.5, 0.7, 1.0)), "0"),
    Group("heads", "Heads", "head", _varied("head", (*HEAD_NAMES, *MORE_HEADS)), "glccl"),
    _csc("glim-global"),
    _csc("glim-local"),
    _csc("xclip"),
    Group(
        "csc-data", "Pairs through which CSC's gradient flows", "CSC pairs", _varied("csc_data", ("both", "positive", "negative")), "both"
    ),
    Group("temporal", "Temporal encoder", "temporal encoder", _varied("temporal", ("none", "seq-transf", "seq-lstm")), "none"),
    Group(
        "scores",
        "Scores",
        "scores",
        _varied("scores", ("all", "video-sentence", "word-frame", "video-sentence+word-frame")),
        "all",
    ),
    Group("tau", "Temperature of the guidance", "tau", _varied("tau", (0.5, 1.0, 2.5, 5.0, 10.0, 25.0)), "5"),
    Group(
        "recipe",
        "Optimiser and padding",
        "recipe",
        {
            "AdamW with masked padding": {},
            "BertAdam with masked padding": {"optimizer": "bert-adam"},
            "AdamW with padding that counts": {"padding": "authors"},
            "BertAdam with padding that counts": {"optimizer": "bert-adam", "padding": "authors"},
        },
        "AdamW with masked padding",
    ),
    Group("start", "Start of the temporal encoder", "start", _varied("temporal_init", ("clip", "random")), "random"),
    Group(
        "same-video", "Other captions of the same video", "they are", {"negatives": {}, "left out": {"mask_same_video": True}}, "negatives"
    ),
    Group("kappa", "Temperature of the interaction", "kappa", _varied("kappa", (0.003, 0.01, 0.03, 0.1)), "0.01"),
    Group("frames", "Number of frames", "frames", {**_varied("max_frames", (2, 4, 8, 12)), "all": {}}, "all"),
    Group(
        "candidates",
        "Heads that read a text with a video, by candidates",
        "head",
        {"glccl": {}, "tight": {"head": "tight", **BY_CANDIDATES}, "joint": {"head": "joint", **BY_CANDIDATES}},
        "glccl",
    ),
)
"""In the order of importance, in which they are trained."""


def chosen_groups(only: str) -> list[Group]:
    """The groups that --only names, in the order of GROUPS; all for an empty text.

    Names are separated by commas. A name may be followed by settings of which alone the group then consists, `csc-weight:0:0.5`. Raises
    UserError for what is not there.
    """
    if not only.strip():
        return list(GROUPS)
    entries = [entry for entry in only.split(",") if entry.strip()]
    if not entries:
        raise UserError(f"--only {only} names no group: use some of {', '.join(group.name for group in GROUPS)}")
    groups = {group.name: group for group in GROUPS}
    named: dict[str, list[str]] = {}
    for entry in entries:
        name, *labels = (part.strip() for part in entry.split(":"))
        if name not in groups:
            raise UserError(f"--only {name or entry.strip()} is no group of the study: use some of {', '.join(groups)}")
        settings = groups[name].settings
        if unknown := [label for label in labels if label not in settings]:
            raise UserError(f"--only {name}:{unknown[0]} is no setting of the group: use some of {', '.join(settings)}")
        named.setdefault(name, []).extend(labels or settings)
    return [
        replace(group, settings={label: setting for label, setting in group.settings.items() if label in named[group.name]})
        for group in GROUPS
        if group.name in named
    ]


def runs_of(group: Group, shared: TrainOptions, seeds: int) -> Iterator[TrainOptions]:
    """The options of every run of a group: all seeds of a setting, then the next setting. Groups may have runs in common."""
    for setting in group.settings.values():
        for seed in range(seeds):
            yield replace(shared, **setting, seed=seed)


def reads_patches(setting: Setting) -> bool:
    """Whether the head of a setting reads patch tokens, which not every cache has."""
    return head_class(setting.get("head", "glccl")).READS_PATCHES


def resolved(setting: Setting) -> TrainOptions:
    """The options of a setting with the values that their defaults stand for, where CLIP's blocks fit the features."""
    return settled_like(TrainOptions(Path(), Path(), **setting), {})
