"""Processes that only meet; the second is slow to look who is there: `python -m tests.slow_process`."""

import os
import time
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch


@dataclass(frozen=True)
class Options:
    """No options."""


def meet(_options: Options) -> None:
    """Join and part."""
    import torch

    from data.compute import processes

    look = processes._MeetingPoint._read

    def look_late(*given: Any) -> str:
        time.sleep(0.5 * (os.environ["RANK"] == "1"))
        return look(*given)

    with (
        patch.object(processes._MeetingPoint, "_read", look_late),
        processes.ProcessGroup.joined(torch.device("cpu"), time_limit=20),
    ):
        pass


if __name__ == "__main__":
    from data.cli.command import run_command

    run_command(Options, meet, prog="slow_process")
