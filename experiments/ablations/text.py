"""The text of docs/design/ablations.md. Its words follow from the figures; nothing is judged by hand."""

from collections.abc import Iterator, Sequence

from experiments.ablations.claims import AGREEMENT, CLAIMS, DISAGREEMENT, MARGIN, RATIO
from experiments.ablations.paired import quantile
from experiments.ablations.reading import World
from experiments.ablations.tables import claim_sentence, claims_table, contrast_table, cost_table, group_table, kinds_table
from experiments.ablations.verdicts import Verdict, WorldVerdicts
from experiments.groups import GROUPS, Group

CONTRAST = {MARGIN, AGREEMENT, DISAGREEMENT, RATIO}
BY_KIND = ("heads", "temporal", "frames")
"""The groups that are also shown by kind of caption."""
SETS = {"demo": "the demo set", "fullsize": "the same world at the size of MSR-VTT"}


def page(verdicts: Sequence[WorldVerdicts], split: str, pictures: dict[str, str]) -> Iterator[str]:
    """The lines of the page. `pictures`: Markdown of the pictures that were drawn, by the group they belong to, or by "claims"."""
    worlds = [one.world for one in verdicts]
    yield from ("# Ablations", "")
    yield "Which claims of the paper hold on the demo set, and on a set of MSR-VTT's size, by repeated training."
    yield ""
    yield "Written by `python -m experiments.ablations` from `ablations.csv`; not by hand. [How to run the study](../guide/ablations.md)."
    for world in worlds:
        yield from ("", _runs_sentence(world))
    yield from ("", "## Claims", "")
    yield from (f"- {_counts_sentence(one)}" for one in verdicts)
    yield ""
    yield (
        f"A difference is the mean over seeds of the first setting's figure less the second's at the same seed, on {split}. All intervals "
        "of a set hold together with a probability of at least 95%: each has the level 1 - 0.05 / m, where m is the number of different "
        "comparisons of the set in this table (Student's t with Bonferroni's correction: "
        "[Dunn 1961](https://doi.org/10.1080/01621459.1961.10482090))."
    )
    yield ""
    yield (
        "- **held**: for every comparison of the claim, the whole interval lies on the side that is claimed;\n"
        "- **refuted**: for one of them, it lies on the other side;\n"
        "- **undecided**: neither;\n"
        "- **not measured**: the set has no runs for any of them."
    )
    yield ""
    yield (
        "A verdict is about this world, not about natural videos. Seeds stand for the order of captions and random starts alone: all runs "
        "of a set share its cache and its splits. *Recipe* marks choices of the published recipe that the paper does not defend in words."
    )
    yield from claims_table(verdicts, CLAIMS)
    yield from _picture(pictures, "claims")
    yield from ("", "## Groups of runs", "")
    yield (
        "Means ± standard deviations over seeds. Unlike above, each interval here is a 95% interval of its own: on average, one of twenty "
        "misses its value."
    )
    measured = [group for group in GROUPS if any(_is_measured(world, group) for world in worlds)]
    for group in measured:
        yield from _group([world for world in worlds if _is_measured(world, group)], verdicts, group, split)
        yield from _picture(pictures, group.name)
        if group.name == "csc-weight":
            yield from _contrast(verdicts, group, split)
    heads = next(group for group in GROUPS if group.name == "heads")
    yield from _cost([world for world in worlds if world.of_group(heads)], heads)
    lacking = [group.title for group in GROUPS if group not in measured]
    if lacking:
        yield from ("", "## Not measured", "", f"The CSV has no two settings of: {'; '.join(lacking)}.")


def _runs_sentence(world: World) -> str:
    first = world.rows.iloc[0]
    left_out = [(world.dropped, "older, of the same setting and seed"), (world.unknown, "of settings that no group has")]
    said = ", ".join(f"{count} {which}" for count, which in left_out if count)
    line = (
        f"**{world.name}** ({SETS.get(world.name, 'a set of its own')}): {len(world.rows) - world.unknown} runs on "
        f"{first['train_videos']:,} training videos, learning rate {first['lr']:g}, {first['epochs']:g} epochs of batches of "
        f"{first['batch_size']:g}; the epoch is chosen on val. Figures are of {first['queries']:,} captions and "
        f"{first['gallery']:,} videos."
    )
    return f"{line} Left out: {said}." if said else line


def _counts_sentence(one: WorldVerdicts) -> str:
    counts = one.counted()
    pairs = [compared.difference.pairs for judged in one.judged for compared in judged.compared if compared.difference is not None]
    said = [f"{count} {verdict}" for verdict, count in counts.items() if count or verdict != Verdict.NOT_MEASURED]
    line = f"On {one.world.name}, by {one.comparisons} comparisons: {', '.join(said)}."
    seeds = min((count for count in pairs if count > 1), default=0)
    if seeds and counts[Verdict.UNDECIDED]:
        narrower = quantile(2 * seeds, one.comparisons) / quantile(seeds, one.comparisons) / 2**0.5
        line += f" With {2 * seeds} seeds in place of {seeds} and the same spread, the intervals would be {narrower:.2f} times as wide."
    return line


def _is_measured(world: World, group: Group) -> bool:
    """Whether there is something to compare with its base."""
    runs = world.of_group(group)
    return group.base in runs and len(runs) > 1


def _group(worlds: Sequence[World], verdicts: Sequence[WorldVerdicts], group: Group, split: str) -> Iterator[str]:
    yield from ("", f"### {group.title}")
    yield from group_table(worlds, group, split)
    for world in worlds:
        yield from _commits(world, group)
    yield from _claims_of([one for one in verdicts if one.world in worlds], group, contrast=False)
    if group.name in BY_KIND:
        lines = list(kinds_table(worlds, group, split))
        if lines:
            yield from ("", "Text-to-video R@1 by what a caption is about:", *lines)


def _claims_of(verdicts: Sequence[WorldVerdicts], group: Group, contrast: bool) -> Iterator[str]:
    """What was found of the claims about a group: those about margins and variances, or the others."""
    for place, claim in enumerate(CLAIMS):
        figures = {comparison.figure for comparison in claim.comparisons if comparison.group == group.name}
        measured = [one for one in verdicts if one.judged[place].verdict != Verdict.NOT_MEASURED]
        if figures and measured and contrast == bool(figures & CONTRAST):
            found = [f"on {one.world.name} {claim_sentence(one.judged[place], group)}" for one in measured]
            yield from ("", f"*{claim.words}*: {'; '.join(found)}.")


def _commits(world: World, group: Group) -> Iterator[str]:
    """A warning where settings were trained by different commits."""
    runs = world.of_group(group)
    commits = {label: sorted({str(commit)[:7] for commit in own["commit"]}) for label, own in runs.items() if "commit" in own}
    if len({tuple(of_setting) for of_setting in commits.values()}) > 1:
        listed = ", ".join(f"{label} by {' and '.join(of_setting)}" for label, of_setting in commits.items())
        yield ""
        yield (f"The runs on {world.name} were made by different commits ({listed}): a difference may hold a change of the code as well.")


def _contrast(verdicts: Sequence[WorldVerdicts], group: Group, split: str) -> Iterator[str]:
    lines = list(contrast_table([one.world for one in verdicts], group, "0", "0.5", split))
    if not lines:
        return
    yield from ("", "### What CSC does to answers and hard negatives", "")
    yield (
        "The margin is the retrieval score of a caption's best answer less that of its hardest negative, the video with the highest score "
        "that is no answer; the variance is that of a pair's four scores, and the ratio that of answers divided by that of hard negatives. "
        "Scores are those before the logit scale."
    )
    yield from lines
    yield from _claims_of(verdicts, group, contrast=True)


def _cost(worlds: Sequence[World], heads: Group) -> Iterator[str]:
    if not worlds:
        return
    counts = sorted({count for world in worlds for count in world.rows["threads"]})
    threads = f"{' and '.join(f'{count:g}' for count in counts)} thread{'s' * (counts != [1])}"
    devices = " and ".join(sorted({device for world in worlds for device in world.rows["device"]}))
    yield from ("", "## What each head costs", "")
    yield (
        f"Medians over seeds, {threads} on {devices}, with the temporal encoder. Times are CPU seconds of the run, which other work on the "
        "machine affects less than seconds by the clock. Training includes the evaluations on val, and in the first run of a process the "
        "compilation. Scoring is of all pairs of the split, and encodes the features again. The halves of GLCCL use the same compiled pass "
        "as the whole, so they cost about as much. The heads did not take turns: `python -m benchmarks.training` times their steps in turn "
        "([scoring](scoring.md))."
    )
    yield from cost_table(worlds, heads)


def _picture(pictures: dict[str, str], name: str) -> Iterator[str]:
    if name in pictures:
        yield from ("", pictures[name])
