"""Processes that only join and leave; the second is slow to read the store: `python -m tests.slow_process`."""

import os
import time
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Options:
    """No options."""


def join_and_leave(_options: Options) -> None:
    """Join and leave."""
    import torch

    from data.compute import processes

    look = processes._Rendezvous._read

    def look_late(*given: Any) -> str:
        time.sleep(0.5 * (os.environ["RANK"] == "1"))
        return look(*given)

    with (
        patch.object(processes._Rendezvous, "_read", look_late),
        processes.ProcessGroup.joined(torch.device("cpu"), time_limit=20),
    ):
        pass


if __name__ == "__main__":
    from data.cli.command import run_command

    run_command(Options, join_and_leave, prog="slow_process")
