"""A command whose process number $VICTIM is killed when all have begun: `python -m tests.lost_process evaluate|extract|train_head ...`."""

import os
import runpy
import signal
import sys
from typing import Any

BEGUN = {"evaluate": "agree", "extract": "barrier", "train_head": "sum"}
"""The first collective operation of each command: before its work begins, or in its first step."""


def kill_when_begun(command: str) -> None:
    """Let the victim die after its first collective operation."""
    from data.compute.processes import ProcessGroup

    collective = getattr(ProcessGroup, BEGUN[command])

    def die_afterwards(group: ProcessGroup, *arguments: Any) -> None:
        collective(group, *arguments)
        if group.rank == int(os.environ["VICTIM"]):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(ProcessGroup, BEGUN[command], die_afterwards)


if __name__ == "__main__":
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # torch is loaded here earlier than the command would set this
    kill_when_begun(sys.argv[1])
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
