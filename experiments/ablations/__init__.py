"""docs/design/ablations.md from the CSV of the study: `python -m experiments.ablations`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.base.whole_files import write_atomically
from data.base.writable import require_writable_file

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class AblationOptions:
    """Write docs/design/ablations.md, with its pictures, from the CSV of the study."""

    runs: Path = ROOT / "docs" / "design" / "ablations.csv"
    """The CSV of all worlds (python -m experiments.study)."""
    out: Path = ROOT / "docs" / "design" / "ablations.md"
    """File for the text. Pictures go beside it."""
    split: Literal["test", "val"] = "test"
    """Split whose figures are shown."""


def main(options: AblationOptions) -> Path:
    """Write the page and return its path. Raises UserError if the CSV is missing, damaged or of runs that cannot be compared."""
    from experiments.ablations.pictures import draw_all
    from experiments.ablations.reading import read_worlds
    from experiments.ablations.text import page
    from experiments.ablations.verdicts import judge

    require_writable_file(options.out)
    verdicts = [judge(world, options.split) for world in read_worlds(options.runs, options.split)]
    pictures = draw_all(verdicts, options.split, options.out)
    write_atomically(options.out, "\n".join(page(verdicts, options.split, pictures)) + "\n")
    for one in verdicts:
        if undecided := one.undecided_groups():
            print(f"undecided on {one.world.name}: --only {','.join(undecided)}", file=sys.stderr)
    print(options.out)
    return options.out
