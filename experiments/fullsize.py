"""The demo's world at the size of MSR-VTT, rendered and extracted: `python -m experiments.fullsize --out runs/fullsize`.

Run again, it goes on where it stopped: both steps skip the videos that are done, and say the time left.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data.base.writable import require_writable_folder
from data.cli.command import SOME_FAILED, run_command
from data.cli.command_line import About
from data.cli.meaning import DeviceName
from data.compute.device import find_device
from demo import generate
from extract.options import ExtractOptions
from extract.stage import Outcome, extract

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class FullsizeOptions:
    """Render the demo's world with as many videos as MSR-VTT has, and extract the features."""

    out: Annotated[Path, About.OUTPUT] = ROOT / "runs" / "fullsize"
    """Folder for videos/, annotations/ and cache/."""
    train: Annotated[int, About.INPUT] = 8500
    """Number of training videos. With --val it makes the 9,000 of MSR-VTT's usual protocol."""
    val: Annotated[int, About.INPUT] = 500
    """Number of validation videos."""
    test: Annotated[int, About.INPUT] = 1000
    """Number of test videos."""
    device: Annotated[DeviceName, About.MACHINE] = "auto"
    """Device to extract on."""
    quiet: Annotated[bool, About.OUTPUT] = False
    """Show no progress."""


def main(options: FullsizeOptions) -> Outcome:
    """Render and extract what is missing. Raises UserError for what the user can fix."""
    require_writable_folder(options.out)
    # Before the rendering, which takes an hour.
    find_device(options.device)
    generate.main(
        generate.GenerateOptions(out=options.out, train=options.train, val=options.val, test=options.test, quiet=options.quiet),
    )
    outcome = extract(
        ExtractOptions(
            dataset="demo",
            videos=options.out / "videos",
            annotations=options.out / "annotations",
            cache=options.out / "cache",
            model=f"local-dir:{ROOT / 'demo' / 'clip'}",
            device=options.device,
            quiet=options.quiet,
        )
    )
    print(f"the study: python -m experiments.study --world fullsize --cache {outcome.cache}", file=sys.stderr)
    return outcome


if __name__ == "__main__":
    run_command(
        FullsizeOptions,
        main,
        prog="python -m experiments.fullsize",
        status=lambda outcome: SOME_FAILED if outcome.failed else 0,
    )
