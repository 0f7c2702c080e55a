"""A command whose process number $VICTIM is killed when all have begun: `python -m tests.lost_process evaluate|extract|train_head ...`."""

import os
import runpy
import signal
import sys
from typing import Any

BEGUN = {"evaluate": "agree", "extract": "meet", "train_head": "sum"}
"""Where processes of a command meet before their work begins, or in its first step."""


def kill_when_begun(command: str) -> None:
    """Let the victim die when it has met the others."""
    from data.compute.processes import ProcessGroup

    meet = getattr(ProcessGroup, BEGUN[command])

    def meet_and_die(group: ProcessGroup, *arguments: Any) -> None:
        meet(group, *arguments)
        if group.rank == int(os.environ["VICTIM"]):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(ProcessGroup, BEGUN[command], meet_and_die)


if __name__ == "__main__":
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # torch is loaded here earlier than the command would set this
    kill_when_begun(sys.argv[1])
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
