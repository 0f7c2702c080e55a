"""A process that outlives its parent for a moment, to end what the parent started and was killed too soon to end itself.

SIGKILL leaves no time to clean up. So a small process is told which groups of processes run, on a pipe whose other end only the parent
holds; when that end closes, whatever way the parent went, it kills the groups that are left. That works on any system with pipes. Linux can
send a signal when a parent dies, but counts the thread that started the process as its parent.
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
    """The process, started when there is first something to watch; one is enough for each of ours."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._parent = 0

    @contextmanager
    def watching(self, group: int) -> Iterator[None]:
        """Have this group of processes killed if this process ends before the block does."""
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
            # Somebody may have killed it. That is no reason to stop working.
            with suppress(BrokenPipeError):
                os.write(self._process.stdin.fileno(), f"{line}\n".encode())

    def _start(self) -> None:
        # In a session of its own: what ends the processes of a terminal must not end it with them.
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
    """Read groups that begin (+ID) and end (-ID); when there are no more lines, kill those that have not ended."""
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        groups.add(group) if line.startswith(b"+") else groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    # A scheduler sends these to all processes of a job, and this one has to stay until the others are gone.
    for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    kill_what_is_left(sys.stdin.buffer)
