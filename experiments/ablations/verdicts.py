"""Whether each claim is held, refuted or undecided in a world, by the intervals of its comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from experiments.ablations.claims import CLAIMS, Claim, Comparison
from experiments.ablations.paired import Difference, differences, interval
from experiments.ablations.reading import World
from experiments.groups import GROUPS


class Verdict(StrEnum):
    """What the intervals say of a claim."""

    HELD = "held"
    REFUTED = "refuted"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Compared:
    """A comparison in a world."""

    comparison: Comparison
    difference: Difference | None
    """The better setting less the other; None where no seed has both."""

    @property
    def verdict(self) -> Verdict:
        """HELD if the whole interval lies on the side that is claimed, REFUTED if on the other."""
        if self.difference is None:
            return Verdict.NOT_MEASURED
        low, high = self.difference.low, self.difference.high
        if self.comparison.figure.less_is_better:
            low, high = -high, -low
        return Verdict.HELD if low > 0 else Verdict.REFUTED if high < 0 else Verdict.UNDECIDED


@dataclass(frozen=True)
class Judged:
    """A claim in a world."""

    claim: Claim
    compared: tuple[Compared, ...]

    @property
    def verdict(self) -> Verdict:
        """That of all comparisons if they agree; REFUTED if one is; else UNDECIDED."""
        found = {compared.verdict for compared in self.compared}
        return Verdict.REFUTED if Verdict.REFUTED in found else found.pop() if len(found) == 1 else Verdict.UNDECIDED


@dataclass(frozen=True)
class WorldVerdicts:
    """All claims in a world, in the order of CLAIMS."""

    world: World
    judged: tuple[Judged, ...]
    comparisons: int
    """The intervals that hold together."""

    @property
    def seeds(self) -> int:
        """The seeds of the comparison that has most."""
        return max((one.difference.pairs for judged in self.judged for one in judged.compared if one.difference is not None), default=0)

    def counted(self) -> dict[Verdict, int]:
        """How many claims have each verdict."""
        found = [judged.verdict for judged in self.judged]
        return {verdict: found.count(verdict) for verdict in Verdict}

    def undecided_groups(self) -> list[str]:
        """The groups with undecided comparisons, in the order of GROUPS."""
        found = {one.comparison.group for judged in self.judged for one in judged.compared if one.verdict == Verdict.UNDECIDED}
        return [group.name for group in GROUPS if group.name in found]


def judge(world: World, split: str, claims: Sequence[Claim] = CLAIMS) -> WorldVerdicts:
    """Judge all claims in a world."""
    groups = {group.name: group for group in GROUPS}
    paired: dict[Comparison, list[float]] = {}
    for comparison in (comparison for claim in claims for comparison in claim.comparisons):
        settings = groups[comparison.group].settings
        paired[comparison] = differences(
            world.of(settings[comparison.better]), world.of(settings[comparison.than]), comparison.figure, split
        )
    # One pair has no interval, which could miss.
    comparisons = sum(len(values) > 1 for values in paired.values())

    def compared(comparison: Comparison) -> Compared:
        values = paired[comparison]
        return Compared(comparison, interval(values, comparisons) if values else None)

    judged = tuple(Judged(claim, tuple(compared(comparison) for comparison in claim.comparisons)) for claim in claims)
    return WorldVerdicts(world, judged, comparisons)
