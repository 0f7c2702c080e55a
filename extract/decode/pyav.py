"""The second way to decode, `--decoder pyav`: in processes that stay, and skipping what no wanted frame is made from.

A decoder that hangs can only be ended with its process, so each worker thread has one of its own (extract/decode/pyav_worker.py).
"""

import importlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from data.base.errors import UserError
from extract.decode.ppm import read_ppm
from extract.ffmpeg.run import Processes, kill_group, killing_after

WORKER = Path(__file__).with_name("pyav_worker.py")

Picture = TypeVar("Picture")


class NotPlain(Exception):
    """PyAV's process leaves this video to ffmpeg."""


def require_pyav() -> None:
    """Raises UserError where PyAV is not installed, or does not work here."""
    try:
        importlib.import_module("av")
    except ImportError as error:
        raise UserError(f"--decoder pyav needs PyAV: pip install -r requirements-pyav.txt ({error})") from error


class PyavProcesses:
    """Processes that decode, as many as threads ask at once. Close it, or they stay until this process ends."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []

    def decode(
        self,
        path: Path,
        asked: Mapping[str, Any],
        choose: Callable[[int], Sequence[int]],
        take: Callable[[Image.Image], Picture],
        time_limit_s: float,
    ) -> tuple[list[Picture], list[int]]:
        """What `take` makes of the sampled frames that `choose` chooses by their number, and which they are.

        `asked`: the rule of sampling, as the worker takes it.

        Raises NotPlain where ffmpeg should decode it, and TimeoutError.
        """
        process = self._borrow()
        with killing_after(process, time_limit_s) as timed_out, self._processes.holding(process):
            try:
                count = _ask(process, {"path": os.path.abspath(path), **asked}).get("count")
                chosen = list(choose(count)) if count is not None else []
                pictures = _take(process, chosen, take) if count is not None else []
                _answer(process)  # that it is done; from a process that was killed nothing comes
            except (BrokenPipeError, EOFError) as error:
                _end(process)
                if timed_out.is_set():
                    raise TimeoutError from error
                raise NotPlain from error
            except BaseException:
                _end(process)
                raise
        if timed_out.is_set():
            _end(process)
            raise TimeoutError
        self._give_back(process)
        if not chosen or len(pictures) < len(chosen):
            raise NotPlain
        return pictures, chosen

    def close(self) -> None:
        with self._lock:
            while self._idle:
                _end(self._idle.pop())

    def _borrow(self) -> "subprocess.Popen[bytes]":
        with self._lock:
            if self._idle:
                return self._idle.pop()
        # -P: else the worker's own folder would come first where modules are looked for. A session of its own, so that an interrupt from
        # the terminal ends the stage, and the stage ends this; it also ends by itself when the other end of its standard input closes.
        return subprocess.Popen(
            [sys.executable, "-P", str(WORKER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=2**20, start_new_session=True
        )

    def _give_back(self, process: "subprocess.Popen[bytes]") -> None:
        with self._lock:
            self._idle.append(process)


def _ask(process: "subprocess.Popen[bytes]", what: Any) -> dict[str, Any]:
    _tell(process, what)
    return _answer(process)


def _tell(process: "subprocess.Popen[bytes]", what: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(what).encode() + b"\n")
    process.stdin.flush()


def _answer(process: "subprocess.Popen[bytes]") -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise EOFError
    found: dict[str, Any] = json.loads(line)
    return found


def _take(process: "subprocess.Popen[bytes]", chosen: list[int], take: Callable[[Image.Image], Picture]) -> list[Picture]:
    """The pictures as they come; fewer where the worker gives up on the way."""
    _tell(process, chosen)
    assert process.stdout is not None
    return [take(image) for image in islice(read_ppm(process.stdout), len(chosen))]


def _end(process: "subprocess.Popen[bytes]") -> None:
    kill_group(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            # What was not sent yet is of no use to a process that is gone.
            with suppress(BrokenPipeError):
                pipe.close()
