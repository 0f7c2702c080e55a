"""Runs the commands of the documentation in forks of one process that has loaded everything: `python -m tests.fork_server SOCKET`.

The client is this file, run by its path: `python -I -S tests/fork_server.py SOCKET -m MODULE ARGUMENTS`, or `-` in place of `-m MODULE`
for a script on standard input. It sends its arguments, folder, environment and standard streams, forwards signals, and exits with the
status of the fork. Start the server with OMP_NUM_THREADS=1: threads of OpenMP do not survive a fork.
"""

import json
import os
import signal
import socket
import sys

PRELOADED = (
    "extract.stage",
    "train_head.stage",
    "train_head.sweep",
    "search.searcher",
    "search.serve.app",
    "evaluate.stage",
    "evaluate.report.page",
    "evaluate.compare.curves",
    "demo.generate",
)


def serve(path: str) -> None:
    """Answer clients until killed."""
    _load()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                _answer(connection)
                os._exit(0)
            connection.close()


def _load() -> None:
    """Import what commands need, and score a pair once, which loads the compiled loops: forks have them already."""
    import importlib

    import torch

    from extract.encode.library import open_clip
    from train_head.glim import glim_scores

    for module in PRELOADED:
        importlib.import_module(module)
    open_clip()
    row_mask = torch.ones(1, 2, dtype=torch.bool)
    with torch.no_grad():
        glim_scores(torch.ones(1, 8), torch.ones(1, 2, 8), row_mask, torch.ones(1, 2, 8), row_mask)


def _answer(connection: socket.socket) -> None:
    """One command, in a fork of this fork, whose process id and status go to the client."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    content, streams, _, _ = socket.recv_fds(connection, 2**20, 3)
    child = os.fork()
    if child == 0:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        _run(**json.loads(content))
    for stream in streams:
        os.close(stream)
    connection.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    connection.sendall(str(os.waitstatus_to_exitcode(status)).encode())


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """Be the command; ends the process."""
    import runpy
    import traceback

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # The streams that were opened when this process began are buffered for other files.
    sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w")))  # noqa: SIM115
    status = 0
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = arguments
            exec(compile(sys.stdin.read(), "a snippet", "exec"), {"__name__": "__main__"})
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def ask(path: str, arguments: list[str]) -> int:
    """Have a command run, with the streams, folder and environment of this process; its status."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        what = {"arguments": arguments, "folder": os.getcwd(), "environment": dict(os.environ)}
        socket.send_fds(connection, [json.dumps(what).encode()], [0, 1, 2])
        answer = connection.makefile()
        child = int(answer.readline())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda given, _frame: os.kill(child, given))
        return int(answer.read())


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
