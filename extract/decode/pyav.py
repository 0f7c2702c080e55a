"""The second decoder, `--decoder pyav`: persistent worker processes that skip frames no wanted frame depends on.

A hung decoder can only be ended by killing its process, so each worker thread has its own process (extract/decode/pyav_worker.py).
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
    """The PyAV worker leaves this video to ffmpeg."""


def require_pyav() -> None:
    """Raise UserError if PyAV is not installed or cannot be imported."""
    try:
        importlib.import_module("av")
    except ImportError as error:
        raise UserError(f"--decoder pyav needs PyAV: pip install -r requirements-pyav.txt ({error})") from error


class PyavProcesses:
    """A pool of PyAV workers that grows with the number of concurrent calls. Without `close`, they run until this process ends."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[bytes]] = []

    def decode(
        self,
        path: Path,
        rule: Mapping[str, Any],
        choose: Callable[[int], Sequence[int]],
        take: Callable[[Image.Image], Picture],
        time_limit_s: float,
    ) -> tuple[list[Picture], list[int]]:
        """Decode the sampled frames that `choose` picks, given their number. Returns `take` of each picture, and the frames chosen.

        `rule` is the sampling rule in the worker's form. Raises NotPlain if ffmpeg should decode the video, and TimeoutError.
        """
        process = self._borrow()
        with killing_after(process, time_limit_s) as timed_out, self._processes.holding(process):
            try:
                count = _ask(process, {"path": os.path.abspath(path), **rule}).get("count")
                chosen = list(choose(count)) if count is not None else []
                pictures = _take(process, chosen, take) if count is not None else []
                _answer(process)  # the final line; a process that was killed sends none
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
        # -P keeps the worker's own folder out of sys.path. In a new session an interrupt from the terminal reaches
        # only the stage, which then ends the worker. The worker also ends by itself when its standard input closes.
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
    """Request the chosen frames and convert them as they arrive; fewer if the worker gives up."""
    _tell(process, chosen)
    assert process.stdout is not None
    return [take(image) for image in islice(read_ppm(process.stdout), len(chosen))]


def _end(process: "subprocess.Popen[bytes]") -> None:
    kill_group(process)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            # Data still buffered for the dead process is discarded.
            with suppress(BrokenPipeError):
                pipe.close()
