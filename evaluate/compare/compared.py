"""What a comparison shows: results grouped by seed, and the tests of each group against the base."""

from collections.abc import Sequence
from dataclasses import dataclass

from evaluate.compare.results import SeedGroup
from evaluate.compare.significance import Comparison, compare_with_base


@dataclass(frozen=True)
class Compared:
    """The contents of a table."""

    groups: Sequence[SeedGroup]
    base: SeedGroup | None
    tests: dict[str, Comparison]
    """By group label: every group but the base that has the same queries as the base. Empty without a base."""

    @classmethod
    def of(cls, groups: Sequence[SeedGroup], base: SeedGroup | None, seed: int) -> "Compared":
        """Test the groups against the base, which is one of them, if there is one. `seed`: of the paired bootstrap."""
        if base is None:
            return cls(groups, None, {})
        queries = base.first.ranks
        others = [g for g in groups if g is not base and all(result.ranks.same_queries(queries) for result in (*g.results, *base.results))]
        return cls(groups, base, dict(zip((g.label for g in others), compare_with_base(others, base, seed), strict=True)))
