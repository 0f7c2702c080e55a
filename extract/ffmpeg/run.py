"""The one place that starts ffmpeg: the binary that pip brought, told what to do by a graph of ffmpeg-python."""

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
from extract.ffmpeg.log import SAID_BYTES, Log, is_error
from extract.ffmpeg.watchdog import Watchdog

SOURCE = "SOURCE"
"""Stands for the input file in a graph. ffmpeg-python cannot take every name a file may have, so the path is put in afterwards."""

CONSEQUENCES = re.compile(
    "Error opening (input|output) files?[: ]|Error opening input: Invalid argument|Task finished with error"
    "|Terminating thread with return code|Nothing was written into output file|Decode error rate|after EOF|before EOF"
)
"""Errors that follow from what was said before and do not say more."""

PROGRAM_VARIABLE = "IMAGEIO_FFMPEG_EXE"
"""The environment variable by which a user names another ffmpeg than the one that pip brought."""

START_LIMIT_S = 20.0
"""An ffmpeg that has not said its version by then hangs."""

WATCHDOG = Watchdog()
"""Of this process there is one, and so there is one of its watchdog, whoever starts ffmpeg."""

Result = TypeVar("Result")


class FfmpegFailed(Exception):
    """ffmpeg could not do it: `reason` in one line, `words`, its last ones, also in one line and maybe empty, and all that it `said`."""

    def __init__(self, reason: str, said: str) -> None:
        words = last_words(said)
        super().__init__(f"{reason}: {words}" if words else reason)
        self.reason, self.words, self.said = reason, words, said


@dataclass(frozen=True)
class Running:
    """An ffmpeg at work: its standard output, and what it says meanwhile."""

    stdout: IO[bytes]
    log: Log


class Processes:
    """The processes that run side by side, so that an interrupt can end all of them: a decoder may hang. Each leads a group of its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    @contextmanager
    def holding(self, process: subprocess.Popen[bytes]) -> Iterator[None]:
        """Count the process as running for as long as the block takes. It is killed where this process is killed meanwhile."""
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
        """Kill what runs, and at once whatever is started later."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                kill_group(process)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that was started in a session of its own, with everything it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def killing_after(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill the process, with everything it started, where the block takes longer; the event says that it did."""
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
        timer.join()  # it must not kill who comes after


def run_ffmpeg(
    graph: Any,
    *,
    source: Path | None = None,
    feed: bytes | None = None,
    read: Callable[[Running], Result],
    time_limit_s: float,
    processes: Processes | None = None,
    teller: str = "",
) -> tuple[Result, str]:
    """Run the graph in a process of its own; what `read` makes of its standard output, and what ffmpeg said on stderr.

    `source` replaces SOURCE in the graph; `feed` is written to its standard input; `processes` can end it from another thread;
    `teller` is the name of the filter that tells of pictures. Raises FfmpegFailed where ffmpeg ends with an error or is still running after
    `time_limit_s` seconds (it is killed then, with whatever it started), and UserError where it cannot be started.
    """
    command = graph.global_args("-nostdin" if feed is None else "-hide_banner", "-nostats", "-loglevel", "repeat+level+info").compile(
        cmd=find_ffmpeg()
    )
    if source is not None:
        # The file: prefix keeps a name with a colon, or one that starts with a dash, from being read as something else.
        command = [f"file:{os.path.abspath(source)}" if argument == SOURCE else argument for argument in command]
    # stderr goes to a file: a pipe that nobody empties fills up and stops the process.
    with _log_file() as said:
        process = _start(command, subprocess.DEVNULL if feed is None else subprocess.PIPE, said)
        assert process.stdout is not None
        running = Running(process.stdout, Log(said, teller))
        with _ended(process), killing_after(process, time_limit_s) as timed_out, (processes or Processes()).holding(process):
            if feed is not None:
                _write_all(process, feed)
            result = read(running)
            process.stdout.close()
            status = process.wait()
        words = running.log.said()
    if timed_out.is_set():
        raise FfmpegFailed(f"still running after {time_limit_s:.0f} s", words)
    if status != 0:
        raise FfmpegFailed(f"ffmpeg ended with status {status}", words)
    return result, words


@contextmanager
def _ended(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """The process is at its end, and its output closed, when the block is left by whatever way."""
    try:
        yield
    finally:
        if process.poll() is None:
            kill_group(process)
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def find_ffmpeg() -> str:
    """The program: what the user names, or what pip brought, or else what the system has. Raises UserError where there is none."""
    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise UserError(f"no ffmpeg is installed: pip install imageio-ffmpeg, or set {PROGRAM_VARIABLE} to one") from error


def require_ffmpeg(time_limit_s: float = START_LIMIT_S) -> None:
    """Raises UserError where there is no ffmpeg, or what is there does not answer as one."""
    program = find_ffmpeg()
    process = _start([program, "-version"], subprocess.DEVNULL, subprocess.DEVNULL)
    assert process.stdout is not None
    with _ended(process), killing_after(process, time_limit_s) as timed_out, Processes().holding(process):
        said = process.stdout.read(SAID_BYTES)
        process.stdout.close()
        status = process.wait()
    if timed_out.is_set():
        raise unusable(program, f"does not answer within {time_limit_s:g} s")
    if not said.startswith(b"ffmpeg version"):
        raise unusable(program, "is not ffmpeg" if status == 0 else f"ends with status {status} when it is asked for its version")


def unusable(program: str, why: str) -> UserError:
    """The error for an ffmpeg that cannot be used."""
    named = os.environ.get(PROGRAM_VARIABLE)
    remedy = (
        f"let {PROGRAM_VARIABLE} name one that can, or unset it" if named else f"install imageio-ffmpeg again, or set {PROGRAM_VARIABLE}"
    )
    return UserError(f"ffmpeg cannot be used: {program} {why}; {remedy}")


def _log_file() -> IO[bytes]:
    """A file without a name. Raises UserError where no temporary folder takes it."""
    try:
        return tempfile.TemporaryFile()
    except OSError as error:
        raise UserError(f"no temporary file can be made ({error.strerror}): make room, or let TMPDIR name another folder") from error


def _start(command: list[str], stdin: int, stderr: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    """Start a program that leads a session of its own. Raises UserError where it cannot be started."""
    try:
        return subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True)
    except OSError as error:
        program = command[0]
        why = "is a folder" if os.path.isdir(program) else f"cannot be started ({error.strerror})"
        raise unusable(program, why) from error


def last_words(said: str) -> str:
    """The last error lines of ffmpeg's log in one line; empty where there is none."""
    errors = [line for line in said.splitlines() if is_error(line)]
    causes = [line for line in errors if not CONSEQUENCES.search(line)] or errors
    return "; ".join(re.sub(r"^(\[[^]]*\] )+", "", line).strip() for line in causes[-2:])


def encode_video(path: Path, frames: bytes, width: int, height: int, fps: int) -> None:
    """Write raw RGB frames as H.264 in MP4, whole or not at all. Raises UserError where ffmpeg fails."""
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
        pass  # ffmpeg gave up first; its exit status and last words say why
