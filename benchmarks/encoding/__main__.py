"""`python -m benchmarks.encoding`. docs/design/extraction.md reports its results."""

from benchmarks.encoding.options import EncodingOptions
from benchmarks.encoding.ways import main
from data.cli.command import run_command

if __name__ == "__main__":
    run_command(EncodingOptions, main, prog="python -m benchmarks.encoding")
