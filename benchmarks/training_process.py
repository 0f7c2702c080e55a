"""A training process for `benchmarks.training`: `torchrun -m benchmarks.training_process CACHE STEPS`.

Each process is pinned to its own core and uses one thread. Rank 0 prints the median seconds of a step after warm-up.
"""

import os
import statistics
import sys
import time
from pathlib import Path

import torch

from benchmarks.training import WARM_UP_STEPS, TrainingOptions, cycle, make_trainer
from data.cache import FeatureCache
from data.compute.device import budget_bytes
from data.compute.processes import ProcessGroup
from train_head.scoring.splits import load_split

PROCESS_TIMEOUT_S = 60.0


def main(cache_path: str, steps: str) -> None:
    """Train as one of the processes that torchrun started, or as a single process."""
    cores = sorted(os.sched_getaffinity(0))
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    os.sched_setaffinity(0, {cores[rank % len(cores)]})
    torch.set_num_threads(1)
    cache = FeatureCache(Path(cache_path))
    with ProcessGroup.joined(torch.device("cpu"), PROCESS_TIMEOUT_S, in_step=True) as processes:
        split = load_split(cache, "train", None, budget_bytes(None))
        trainer = make_trainer(cache, split, TrainingOptions(device="cpu"), temporal="seq-transf", processes=processes)
        batches = cycle(len(split.answers))
        seconds = []
        for _ in range(WARM_UP_STEPS + int(steps)):
            texts = next(batches)
            start = time.perf_counter()
            trainer.step(texts)
            seconds.append(time.perf_counter() - start)
        if rank == 0:
            print(statistics.median(seconds[WARM_UP_STEPS:]))


if __name__ == "__main__":
    main(*sys.argv[1:])
