"""Several processes of one command, as a scheduler starts them that sets the variables of torch.distributed: each with its own status.

They are forked from a server that has loaded torch already, for loading it takes longer than most of what they are started for.
"""

import multiprocessing
import os
import runpy
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.conftest import ROOT

TIME_LIMIT = 300
PRELOADED = ["extract.stage", "train_head.stage", "evaluate.stage", "tyro"]


@dataclass
class Started:
    """A process, and the folder of what it says."""

    process: ForkServerProcess
    said: TemporaryDirectory[str]


def start(commands: Sequence[Sequence[str | Path]], **environment: str) -> list[Started]:
    """`python -m COMMAND` for each, the first as process 0."""
    # torch reads it when the server loads it, earlier than a command would set it.
    os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = str(len(commands))
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    started = []
    for rank, command in enumerate(commands):
        said = TemporaryDirectory()
        of_rank = {**shared, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        process = context.Process(target=_run, args=([str(word) for word in command], of_rank, Path(said.name)))
        process.start()
        started.append(Started(process, said))
    return started


def finish(started: Sequence[Started]) -> list[tuple[int | None, str, str]]:
    """The status, standard output and standard error of each; the status of one that was killed is that of its signal, negative."""
    done = []
    try:
        for one in started:
            one.process.join(TIME_LIMIT)
            folder = Path(one.said.name)
            done.append((one.process.exitcode, (folder / "output").read_text(), (folder / "error").read_text()))
    finally:
        for one in started:
            one.process.kill()
            one.said.cleanup()
    return done


def _run(command: Sequence[str], environment: Mapping[str, str], said: Path) -> None:
    """Be that command."""
    for stream, name in ((sys.stdout, "output"), (sys.stderr, "error")):
        with (said / name).open("w") as file:
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(ROOT)
    os.environ.update(environment)
    sys.argv = list(command)
    runpy.run_module(command[0], run_name="__main__", alter_sys=True)


def launch(processes: int, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """`torchrun -m ...` with so many processes, or plain Python for one."""
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
    return subprocess.run(
        [sys.executable, "-m", *(torchrun if processes > 1 else []), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
    )


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
