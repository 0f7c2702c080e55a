"""`python -m benchmarks.gpu`. The last line of the output is JSON."""

from benchmarks.gpu.options import GpuOptions
from benchmarks.gpu.report import main, status
from data.cli.command import run_command

if __name__ == "__main__":
    run_command(GpuOptions, main, prog="python -m benchmarks.gpu", status=status)
