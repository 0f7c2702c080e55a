"""`python -m data.import_features`: import features that another program made into a cache."""

import json
import sys
from pathlib import Path

from data.cli.command import run_command
from data.exchange.options import ImportOptions


def main(options: ImportOptions) -> Path:
    """Import the features and return the cache. Raises UserError if features, table or cache do not fit."""
    from data.exchange.importing import import_features  # numpy and pandas load late, so that --help answers at once

    done = import_features(options)
    if options.json:
        print(json.dumps({"cache": str(options.cache), **done._asdict()}))
        return options.cache
    verb = "to import" if options.dry_run else "imported"
    there = f"{done.videos_there:,} and {done.texts_there:,} were there"
    print(f"{options.cache}: {done.videos:,} videos and {done.texts:,} texts {verb}, {there}")
    if options.patches is not None:
        print(f"patch tokens of {done.patches:,} videos {verb}, those of {done.patches_there:,} were there")
    if options.fps is not None and done.videos_there:
        print(f"the {done.videos_there:,} videos that were there keep their times: to change them to --fps, add --replace", file=sys.stderr)
    if done.pruned:
        freed = f"{done.pruned['bytes'] / 2**20:.1f} MiB"
        print(f"dropped {done.pruned['videos']:,} videos and {done.pruned['texts']:,} texts that no source lists: {freed}", file=sys.stderr)
        if done.pruned["patches"]:
            print(f"dropped patch tokens of {done.pruned['patches']:,} videos that are not listed or have other frames", file=sys.stderr)
    return options.cache


if __name__ == "__main__":
    run_command(
        ImportOptions,
        main,
        prog="python -m data.import_features",
        examples=(
            "--frames frames/ --texts texts/ --table table.csv --cache cache",
            "--frames frames.h5 --texts texts.parquet --table table.csv --about clip.json --cache cache",
        ),
    )
