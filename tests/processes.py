"""Several processes of one command, as a scheduler starts them that sets the variables of torch.distributed: each with its own status."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT

TIME_LIMIT = 300


def start(commands: Sequence[Sequence[str | Path]], **environment: str) -> list[subprocess.Popen[str]]:
    """`python -m COMMAND` for each, the first as process 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": str(len(commands)),
        "LOCAL_WORLD_SIZE": str(len(commands)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **shared, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank, command in enumerate(commands)
    ]


def finish(processes: Sequence[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """The status, standard output and standard error of each."""
    try:
        return [(process.wait(TIME_LIMIT), *process.communicate()) for process in processes]
    finally:
        for process in processes:
            process.kill()
