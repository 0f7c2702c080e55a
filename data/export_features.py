"""`python -m data.export_features CACHE OUT`: export the features of a cache to safetensors, npz or Parquet."""

import json

from data.cli.command import run_command
from data.exchange.options import ExportOptions


def main(options: ExportOptions) -> None:
    """Write the features. Raises UserError if the cache is missing or damaged, or if OUT holds files."""
    from data.exchange.exporting import export_features  # numpy and pandas load late, so that --help answers at once

    done = export_features(options)
    if options.json:
        print(json.dumps({"out": str(options.out), **done}))
    else:
        tokens = f", patch tokens of {done['patches']:,} videos" if done["patches"] else ""
        print(f"{options.out}: {done['videos']:,} videos and {done['texts']:,} texts{tokens}, {done['bytes'] / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_command(
        ExportOptions,
        main,
        prog="python -m data.export_features",
        examples=("runs/cache features", "--form parquet runs/cache.h5 features"),
    )
