"""Check the training options that are right or wrong for any cache."""

import math

from data.base.errors import UserError, check_seed
from data.cli.meaning import AtLeast, Meaning, marks, options_with
from train_head.heads import (
    ALL_SCORES,
    HEADS,
    PairwiseHead,
    check_temporal,
    chosen_scores,
    has_decorrelation,
    head_class,
    is_own,
    pairwise_heads,
)
from train_head.options import TrainOptions
from train_head.settle import HARD_NEGATIVES
from train_head.temperatures import given_temperatures

RECIPE_HEADS = ("glccl", "glim-global", "glim-local", "mean", "tight", "xclip")
"""The heads that --recipe goes with: those of CLIP4Clip, and of systems whose figures were made with its optimiser."""

WHY_NOT = {
    "finetune": "candidates come from cached features, and CLIP changes",
    "mask_same_video": "captions of the same video are never hard negatives",
    "cdcr": "it needs the videos of a batch in the order of the captions",
}
"""Why an option does not go with --candidates-run."""


def check_options(options: TrainOptions) -> None:
    """Raise UserError for options that are wrong for any cache."""
    offered = head_class(options.head).offered(options.head)
    if options.scores != ALL_SCORES and len(offered) == 1:
        raise UserError(f"--scores {options.scores}: head {options.head} has one score; leave the option out")
    chosen_scores(options.scores, offered)
    check_temporal(options.head, head_class(options.head), options.temporal)
    if options.temporal == "seq-lstm" and options.temporal_init == "clip":
        raise UserError("--temporal-init clip: --temporal seq-lstm starts at random, because CLIP has no LSTM: leave --temporal-init out")
    for name, found in marks(type(options)).items():
        value = getattr(options, name)
        if value is None:
            continue
        for least in (mark.value for mark in found if isinstance(mark, AtLeast)):
            if not least <= value < math.inf:
                number = "a number of " if isinstance(value, float) else ""
                raise UserError(f"--{name.replace('_', '-')} {value} must be {number}at least {least}")
    given_temperatures(options.head, head_class(options.head).TEMPERATURES, {"tau": options.tau, "kappa": options.kappa})
    _check_candidates(options)
    if options.cdcr and not has_decorrelation(options.head):
        why = "defines no method decorrelation" if is_own(options.head) else "reads no words"
        raise UserError(f"--cdcr {options.cdcr:g}: head {options.head} {why}: leave the option out, or use a head such as wti")
    check_seed(options.seed)
    _check_authors(options)
    if options.finetune and head_class(options.head).READS_PATCHES:
        raise UserError(
            f"--finetune: head {options.head} reads patch tokens, which are cached and would stay those of the old CLIP: leave it out"
        )
    defaults = type(options)(options.cache, options.out)
    finetuning = options_with(type(options), Meaning.FINETUNING)
    unread = [f"--{name.replace('_', '-')}" for name in finetuning if getattr(options, name) != getattr(defaults, name)]
    if unread and not options.finetune:
        verb, those = ("go", "them") if len(unread) > 1 else ("goes", "it")
        raise UserError(f"{' and '.join(unread)} {verb} with --finetune: add --finetune, or leave {those} out")


def _check_candidates(options: TrainOptions) -> None:
    """Raise UserError if a head needs --candidates-run, or an option does not go with it."""
    kind = head_class(options.head)
    if options.candidates_run is None:
        if issubclass(kind, PairwiseHead) and kind.HARD_NEGATIVES_ONLY:
            raise UserError(
                f"head {options.head} is trained on the candidates of another run: add --candidates-run RUN, such as --candidates-run "
                "zero-shot:mean"
            )
        for name in HARD_NEGATIVES:
            if getattr(options, name) is not None:
                raise UserError(f"--{name.replace('_', '-')} goes with --candidates-run: add it, or leave this out")
        return
    if not issubclass(kind, PairwiseHead):
        raise UserError(
            f"--candidates-run: head {options.head} shares its work between pairs and is trained on all pairs of a batch: leave the option "
            f"out, or use head {' or '.join(pairwise_heads())}"
        )
    for name, given in (("finetune", options.finetune), ("mask_same_video", options.mask_same_video), ("cdcr", options.cdcr)):
        if given:
            raise UserError(f"--{name.replace('_', '-')} does not go with --candidates-run: {WHY_NOT[name]}; leave one of them out")
    chosen = {name: usual if getattr(options, name) is None else getattr(options, name) for name, usual in HARD_NEGATIVES.items()}
    negatives, candidates = chosen["hard_negatives"], chosen["candidates"]
    if negatives > candidates:
        raise UserError(
            f"--hard-negatives {negatives} are drawn from the {candidates} best of --candidates: use --hard-negatives {candidates} or "
            f"less, or --candidates {negatives} or more"
        )


def _check_authors(options: TrainOptions) -> None:
    """Raise UserError if --recipe or --padding asks for what the head's authors are not known to do."""
    if options.recipe is not None and options.head not in RECIPE_HEADS:
        raise UserError(
            f"--recipe {options.recipe}: the figures of head {options.head} are not known to come from its optimiser: leave it out, "
            f"or use head {', '.join(RECIPE_HEADS)}"
        )
    # A class of one's own may inherit from a head, and need not treat padding as that head's authors do.
    if options.padding == "authors" and (is_own(options.head) or head_class(options.head).AUTHORS_PADDING == "unknown"):
        known = [name for name, kind in HEADS.items() if kind.AUTHORS_PADDING != "unknown"]
        raise UserError(
            f"--padding authors: how the authors of head {options.head} treat padding is not known: leave the option out, or use head "
            f"{', '.join(known)}"
        )
