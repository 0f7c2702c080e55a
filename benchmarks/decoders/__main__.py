"""`python -m benchmarks.decoders`. Needs benchmarks/requirements.txt. docs/design/extraction.md reports its results."""

from benchmarks.decoders.options import DecodersOptions
from benchmarks.decoders.report import main
from data.cli.command import run_command

if __name__ == "__main__":
    run_command(DecodersOptions, main, prog="python -m benchmarks.decoders")
