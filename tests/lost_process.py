"""`python -m evaluate` whose process number $VICTIM is killed when all have begun: `python -m tests.lost_process ...`."""

import os
import signal
from collections.abc import Mapping
from typing import Any

from data.command import run_command
from evaluate import EvaluateOptions, main


def main_until_killed(options: EvaluateOptions) -> object:
    from data.processes import ProcessGroup  # as late as the command itself

    agree = ProcessGroup.agree

    def agree_and_die(group: ProcessGroup, facts: Mapping[str, Any]) -> None:
        agree(group, facts)
        if group.rank == int(os.environ["VICTIM"]):
            os.kill(os.getpid(), signal.SIGKILL)

    setattr(ProcessGroup, "agree", agree_and_die)  # noqa: B010
    return main(options)


if __name__ == "__main__":
    run_command(EvaluateOptions, main_until_killed, prog="python -m tests.lost_process")
