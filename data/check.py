"""`python -m data check`: what of a data set is there and what is missing, from annotations and names of files alone."""

import json
from dataclasses import dataclass
from pathlib import Path

from data.accounting import report, summary_line
from data.command import SOME_FAILED
from data.datasets import find_preset, read_dataset
from data.errors import first_of


@dataclass(frozen=True)
class CheckOptions:
    """Say what of a data set is there and what is missing. Reads annotations and names of files only; ends with status 3 where it is not
    whole."""

    videos: Path
    """Folder of the video files."""
    annotations: Path | None = None
    """Folder of the data set's annotation files; for `table` the CSV or Parquet file, or none for a plain folder of videos."""
    dataset: str = "table"
    """Data set: msrvtt, didemo, vatex, msvd, lsmdc, activitynet, demo, or table (your own)."""
    preset: str | None = None
    """Split protocol of the data set: see python -m data presets. Default: the data set's first."""
    json: bool = False
    """The result as one JSON line on standard output."""


def check(options: CheckOptions) -> int:
    """Print what there is and return the exit status. Raises UserError where annotations are missing or malformed."""
    preset = find_preset(options.dataset, options.preset, options.annotations)
    dataset = read_dataset(options.dataset, preset, options.annotations, options.videos)
    found = report(options.dataset, dataset, preset, options.videos)
    if options.json:
        print(json.dumps(found))
    else:
        print(summary_line(dataset, preset, options.videos))
        for split, counts in found["splits"].items():
            videos = f"{counts['videos_expected']:,} expected, {counts['videos_listed']:,} listed, {counts['videos_present']:,} present"
            print(f"{split}: videos {videos}; captions {counts['captions_expected']:,} expected, {counts['captions_listed']:,} listed")
        for note in dataset.notes:
            print(f"note: {note}")
        for what, listed in (("missing", found["missing"]), ("empty caption of", found["empty_captions"])):
            for line in first_of([f"{what}: {video_id}" for video_id in listed], "--json lists all"):
                print(line)
        print("all of it is there" if found["complete"] else "not whole: extract, train_head and evaluate will ask for --allow-missing")
    return 0 if found["complete"] else SOME_FAILED
