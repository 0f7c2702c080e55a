"""Commands run in a real terminal, and what stands on it."""

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path


def on_a_terminal(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None, columns: int = 200
) -> tuple[int, str, str]:
    """Status, standard output, and what the command wrote to the terminal that is its standard error, a line for each drawing of a bar.

    The terminal has so many `columns`; 0 is one that does not say.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL, env={**os.environ, **(environment or {})}
    )
    os.close(theirs)
    shown = bytearray()
    while True:
        try:
            # Linux says EIO where the other end is closed, others say nothing.
            part = os.read(ours, 2**16)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)
    output, _ = process.communicate()
    lines = shown.decode().replace("\r", "\n").split("\n")
    return process.returncode, output.decode(), "\n".join(line for line in lines if line.strip())
