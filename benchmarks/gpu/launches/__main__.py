"""Prints what every head launches on a CUDA device, and where it waits for it: `python -m benchmarks.gpu.launches`.

The last line is JSON. No GPU is needed or used: see `benchmarks.gpu.launches.fake_cuda`.
"""

import argparse
import json

from benchmarks.gpu.launches.counts import every_count


def main() -> None:
    argparse.ArgumentParser(prog="python -m benchmarks.gpu.launches", description=__doc__).parse_args()
    counts = every_count()
    for name, of_work in counts.items():
        for work, figures in of_work.items():
            print(f"{name:<12} {work:<24}", *(f"{figure:>6} {what}" for what, figure in figures.items()))
    print(json.dumps(counts))


if __name__ == "__main__":
    main()
