"""`python -m data.check`: what is present and what is missing of a data set, from annotations and file names alone."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data.base.errors import first_of
from data.base.quoting import visible
from data.cli.command import SOME_FAILED, run_command
from data.cli.command_line import About


@dataclass(frozen=True)
class CheckOptions:
    """Report what is present and what is missing of a data set. Reads annotations and file names only. Exits with status 3 if anything is
    missing."""

    videos: Annotated[Path, About.INPUT]
    """Folder of the video files."""
    annotations: Annotated[Path | None, About.INPUT] = None
    """Folder of the data set's annotation files. For `table`, the table file; leave it out for a plain folder of videos."""
    dataset: Annotated[str, About.INPUT] = "table"
    """Data set: msrvtt, didemo, vatex, msvd, lsmdc, activitynet, demo, or table (your own)."""
    split_by_hash: Annotated[str | None, About.INPUT] = None
    """TRAIN,VAL,TEST, such as 80,10,10: shares by which to divide a table's videos into the splits that it lacks, as extract does."""
    preset: Annotated[str | None, About.INPUT] = None
    """Split protocol of the data set: see python -m data.presets. Default: the data set's first."""
    json: Annotated[bool, About.OUTPUT] = False
    """Print the result as one JSON line on standard output."""


def check(options: CheckOptions) -> int:
    """Print the report and return the exit status. Raises UserError if annotations are missing or malformed."""
    from data.datasets import find_preset, read_dataset, shares_of
    from data.datasets.accounting import report, summary_line  # pandas loads late, so that --help answers at once

    preset = find_preset(options.dataset, options.preset, options.annotations)
    shares = None if options.split_by_hash is None else shares_of(options.split_by_hash)
    dataset = read_dataset(options.dataset, preset, options.annotations, options.videos, shares)
    found = report(options.dataset, dataset, preset, options.videos)
    if options.json:
        print(json.dumps(found))
    else:
        print(summary_line(dataset, preset, options.videos))
        for split, counts in found["splits"].items():
            videos = f"{counts['videos_expected']:,} expected, {counts['videos_listed']:,} listed, {counts['videos_present']:,} present"
            print(f"{split}: videos {videos}; captions {counts['captions_expected']:,} expected, {counts['captions_listed']:,} listed")
        for note in dataset.notes:
            print(f"note: {visible(note)}")
        for what, listed in (("missing", found["missing"]), ("empty caption of", found["empty_captions"])):
            for line in first_of([f"{what}: {video_id}" for video_id in listed], "--json lists all"):
                print(visible(line))
        print("complete" if found["complete"] else "incomplete: extract, train_head and evaluate will ask for --allow-missing")
    return 0 if found["complete"] else SOME_FAILED


if __name__ == "__main__":
    run_command(
        CheckOptions,
        check,
        prog="python -m data.check",
        status=int,
        examples=(
            "--videos videos --annotations captions.csv",
            "--dataset msrvtt --preset msrvtt-7k --videos MSRVTT/videos --annotations MSRVTT/annotations",
        ),
    )
