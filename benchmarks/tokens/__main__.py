"""`python -m benchmarks.tokens`. docs/design/extraction.md reports its results."""

from benchmarks.tokens.options import TokensOptions
from benchmarks.tokens.report import main
from data.cli.command import run_command

if __name__ == "__main__":
    run_command(TokensOptions, main, prog="python -m benchmarks.tokens")
