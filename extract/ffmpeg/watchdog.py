"""A helper process that kills the subprocesses of its parent if the parent is killed.

SIGKILL leaves the parent no time to clean up. So the parent tells the watchdog, through a pipe, which process groups are running. When the
pipe closes, however the parent ended, the watchdog kills the groups that are left. This works on any system with pipes. Linux can send a
signal when a parent dies, but takes the thread that started the process for its parent.
"""

import atexit
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress


class Watchdog:
    """Handle of the watchdog process, which starts with the first group to watch. Each process needs only one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0

    @contextmanager
    def watching(self, group: int) -> Iterator[None]:
        """Have this process group killed if this process ends before the block does."""
        self._tell(f"+{group}")
        try:
            yield
        finally:
            self._tell(f"-{group}")

    def _tell(self, line: str) -> None:
        with self._lock:
            if self._process is None or self._parent != os.getpid():
                self._start()
            assert self._process is not None
            assert self._process.stdin is not None
            # If somebody killed the watchdog, the work goes on without it.
            with suppress(BrokenPipeError):
                os.write(self._process.stdin.fileno(), f"{line}\n".encode())

    def _start(self) -> None:
        # In a new session, so that signals from the terminal do not reach it.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._parent = os.getpid()
        atexit.register(self._end)

    def _end(self) -> None:
        if self._process is not None and self._parent == os.getpid():
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait()
            self._process = None


def kill_what_is_left(lines: Iterable[bytes]) -> None:
    """Read which groups start (+ID) and end (-ID); at the end of the input, kill those that have not ended."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        groups.add(group) if line.startswith(b"+") else groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    # A scheduler sends these signals to all processes of a job, and the watchdog must outlive the others.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    kill_what_is_left(sys.stdin.buffer)
