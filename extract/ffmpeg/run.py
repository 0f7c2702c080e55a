"""Run ffmpeg: the only file that starts it. It takes a graph of ffmpeg-python and, by default, the binary that pip installed."""

import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import ffmpeg
import imageio_ffmpeg

from data.base.errors import UserError
from data.base.whole_files import written_whole
from data.compute.memory import raise_if_exhausted
from extract.ffmpeg.log import LOG_BYTES, Log, is_error
from extract.ffmpeg.watchdog import Watchdog

SOURCE = "SOURCE"
"""Placeholder for the input file in a graph. ffmpeg-python does not accept every file name, so the path is substituted afterwards."""

TARGET = "TARGET"
"""Placeholder for the output file in a graph."""

CONSEQUENCES = re.compile(
    "Error opening (input|output) files?[: ]|Error opening input: Invalid argument|Task finished with error"
    "|Terminating thread with return code|Nothing was written into output file|Decode error rate|after EOF|before EOF"
)
"""Error lines that only follow from earlier ones and add nothing."""

PROGRAM_VARIABLE = "IMAGEIO_FFMPEG_EXE"
"""Environment variable that names another ffmpeg than the one that pip installed."""

START_LIMIT_S = 20.0
"""Seconds after which an ffmpeg that has not printed its version counts as hung."""

WATCHDOG = Watchdog()
"""One watchdog serves the whole process."""

Result = TypeVar("Result")


class FfmpegFailed(Exception):
    """ffmpeg failed. `reason` is one line; `last_words` the last error lines of the `log`, joined into one line, possibly empty."""

    def __init__(self, reason: str, log: str) -> None:
        self.reason, self.last_words, self.log = reason, last_words(log), log
        super().__init__(f"{reason}: {self.last_words}" if self.last_words else reason)


@dataclass(frozen=True)
class Running:
    """A running ffmpeg: its standard output and its log."""

    stdout: IO[bytes]
    log: Log


class Processes:
    """The running subprocesses, so that an interrupt can kill all of them: a decoder may hang. Each leads its own process group."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    @contextmanager
    def holding(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Register the process for the duration of the block. If this process is killed meanwhile, the watchdog kills it too."""
        with self._lock:
            self._running.add(process)
            if self._stopped:
                kill_group(process)
        try:
            with WATCHDOG.watching(process.pid):
                yield
        finally:
            with self._lock:
                self._running.discard(process)

    def stop(self) -> None:
        """Kill all running processes, and any that is registered later."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads its own session, with all its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def killing_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the process and its children if the block takes longer than `seconds`; the event is set if that happened."""
    timed_out = threading.Event()

    def kill() -> None:
        timed_out.set()
        kill_group(process)

    timer = threading.Timer(seconds, kill)
    timer.start()
    try:
        yield timed_out
    finally:
        timer.cancel()
        timer.join()  # the timer must not fire after the block: the process id may belong to another process by then


def run_ffmpeg(
    graph: Any,
    *,
    source: Path | None = None,
    target: Path | None = None,
    feed: bytes | None = None,
    read: Callable[[Running], Result],
    time_limit_s: float,
    processes: Processes | None = None,
    showinfo: str = "",
) -> tuple[Result, str]:
    """Run the graph in a subprocess. Returns what `read` makes of its standard output, and its log (standard error).

    `source` replaces SOURCE in the graph, and `target` TARGET. `feed` is written to standard input. `processes` lets another thread kill
    ffmpeg. `showinfo` is the name of the showinfo filter in the graph. Raises FfmpegFailed if ffmpeg ends with an error, or is still
    running after `time_limit_s` seconds and is killed with its children; UserError if it cannot be started.
    """
    command = graph.global_args("-nostdin" if feed is None else "-hide_banner", "-nostats", "-loglevel", "repeat+level+info").compile(
        cmd=find_ffmpeg()
    )
    # The prefix file: keeps ffmpeg from reading a colon or a leading dash in the name as syntax.
    files = {name: f"file:{os.path.abspath(path)}" for name, path in ((SOURCE, source), (TARGET, target)) if path is not None}
    command = [files.get(argument, argument) for argument in command]
    # stderr goes to a file: a pipe that nobody reads fills up and blocks the process.
    with _log_file() as log_file:
        process = _start(command, subprocess.DEVNULL if feed is None else subprocess.PIPE, log_file)
        assert process.stdout is not None
        running = Running(process.stdout, Log(log_file, showinfo))
        with _ended(process), killing_after(process, time_limit_s) as timed_out, (processes or Processes()).holding(process):
            if feed is not None:
                _write_all(process, feed)
            result = read(running)
            process.stdout.close()
            status = process.wait()
        log = running.log.text()
    if timed_out.is_set():
        raise FfmpegFailed(f"still running after {time_limit_s:.0f} s", log)
    if status != 0:
        raise FfmpegFailed(f"ffmpeg ended with status {status}", log)
    return result, log


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """End the process and close its output however the block is left."""
    try:
        yield
    finally:
        if process.poll() is None:
            kill_group(process)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def find_ffmpeg() -> str:
    """Path of ffmpeg: the one that the user names, else pip's, else the system's. Raises UserError if there is none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise UserError(f"no ffmpeg is installed: pip install imageio-ffmpeg, or set {PROGRAM_VARIABLE} to one") from error


def require_ffmpeg(time_limit_s: float = START_LIMIT_S) -> None:
    """Raise UserError if there is no ffmpeg, or if the program does not answer like one."""
    program = find_ffmpeg()
    process = _start([program, "-version"], subprocess.DEVNULL, subprocess.DEVNULL)
    assert process.stdout is not None
    with _ended(process), killing_after(process, time_limit_s) as timed_out, Processes().holding(process):
        answer = process.stdout.read(LOG_BYTES)
        process.stdout.close()
        status = process.wait()
    if timed_out.is_set():
        raise unusable(program, f"does not answer within {time_limit_s:g} s")
    if not answer.startswith(b"ffmpeg version"):
        raise unusable(program, "is not ffmpeg" if status == 0 else f"ends with status {status} when asked for its version")


def unusable(program: str, why: str) -> UserError:
    """The error for an ffmpeg that does not work, with the remedy."""
    named = os.environ.get(PROGRAM_VARIABLE)
    remedy = f"set {PROGRAM_VARIABLE} to one that works, or unset it" if named else f"reinstall imageio-ffmpeg, or set {PROGRAM_VARIABLE}"
    return UserError(f"ffmpeg cannot be used: {program} {why}; {remedy}")


def _log_file() -> IO[bytes]:
    """An unnamed temporary file. Raises UserError if none can be created."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UserError(f"cannot create a temporary file ({error.strerror}): make room, or set TMPDIR to another folder") from error


def _start(command: list[str], stdin: int, stderr: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program in a new session. Raises UserError if it cannot be started."""
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
    except OSError as error:
        raise_if_exhausted(error)
        program = command[0]
        why = "is a folder" if os.path.isdir(program) else f"cannot be started ({error.strerror})"
        raise unusable(program, why) from error


def last_words(log: str) -> str:
    """The last error lines of ffmpeg's log, joined into one line; empty if there are none."""
    errors = [line for line in log.splitlines() if is_error(line)]
    causes = [line for line in errors if not CONSEQUENCES.search(line)] or errors
    return "; ".join(re.sub(r"^(\[[^]]*\] )+", "", line).strip() for line in causes[-2:])


def encode_video(path: Path, frames: bytes, width: int, height: int, fps: int) -> None:
    """Write raw RGB frames as H.264 in MP4; the file appears whole or not at all. Raises UserError if ffmpeg fails."""
    source = ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)
    encoding = {"format": "mp4", "vcodec": "libx264", "pix_fmt": "yuv420p", "preset": "veryfast", "crf": 20, "threads": 1}
    with written_whole(path) as temporary:
        try:
            graph = source.output(str(temporary), **encoding).overwrite_output()
            run_ffmpeg(graph, feed=frames, read=lambda running: running.stdout.read(), time_limit_s=600)
        except FfmpegFailed as error:
            raise UserError(f"{path} cannot be written with {find_ffmpeg()}: {error}") from error


def _write_all(process: subprocess.Popen[bytes], feed: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(feed)
        process.stdin.close()
    except BrokenPipeError:
        pass  # ffmpeg gave up first; its exit status and log say why
