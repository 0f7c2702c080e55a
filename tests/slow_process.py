"""Processes that only meet; the second is slow to look who is there: `python -m tests.slow_process`."""

import os
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Options:
    """No options."""


def meet(_options: Options) -> None:
    """Join and part."""
    import torch

    from data import processes

    if os.environ["RANK"] == "1":
        look = processes._MeetingPoint._read

        def look_late(*given: Any) -> str:
            time.sleep(0.5)
            return look(*given)

        setattr(processes._MeetingPoint, "_read", look_late)  # noqa: B010 -- mypy refuses the assignment
    with processes.ProcessGroup.joined(torch.device("cpu"), time_limit=20):
        pass


if __name__ == "__main__":
    from data.command import run_command

    run_command(Options, meet, prog="slow_process")
