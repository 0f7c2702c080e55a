"""A command whose process number $VICTIM is killed when all have begun: `python -m tests.lost_process evaluate|extract ...`."""

import os
import runpy
import signal
import sys
from collections.abc import Mapping
from typing import Any


def kill_when_begun() -> None:
    """Let the victim die where processes agree on their work."""
    from data.processes import ProcessGroup

    agree = ProcessGroup.agree

    def agree_and_die(group: ProcessGroup, facts: Mapping[str, Any]) -> None:
        agree(group, facts)
        if group.rank == int(os.environ["VICTIM"]):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(ProcessGroup, "agree", agree_and_die)  # noqa: B010


if __name__ == "__main__":
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # torch is loaded here earlier than the command would set this
    kill_when_begun()
    command = sys.argv.pop(1)
    runpy.run_module(command, run_name="__main__", alter_sys=True)
