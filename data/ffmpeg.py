"""The one place that starts ffmpeg: the binary that pip brought, told what to do by a graph of ffmpeg-python."""

import os
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import ffmpeg
import imageio_ffmpeg

SOURCE = "SOURCE"
"""Stands for the input file in a graph. ffmpeg-python cannot take every name a file may have, so the path is put in afterwards."""

Result = TypeVar("Result")


class FfmpegFailed(Exception):
    """ffmpeg could not do it; the text is one line with its last words."""


def run_ffmpeg(
    graph: Any,
    *,
    source: Path | None = None,
    feed: bytes | None = None,
    read: Callable[[IO[bytes]], Result],
    time_limit_s: float,
) -> tuple[Result, str]:
    """Run the graph in a process of its own; what `read` makes of its standard output, and all that ffmpeg said on stderr.

    `source` replaces SOURCE in the graph; `feed` is written to its standard input. Raises FfmpegFailed where ffmpeg ends with
    an error or is still running after `time_limit_s` seconds (it is killed then, with whatever it started).
    """
    command = graph.global_args("-nostdin" if feed is None else "-hide_banner", "-nostats", "-loglevel", "repeat+level+info").compile(
        cmd=imageio_ffmpeg.get_ffmpeg_exe()
    )
    if source is not None:
        # The file: prefix keeps a name with a colon, or one that starts with a dash, from being read as something else.
        command = [f"file:{os.path.abspath(source)}" if argument == SOURCE else argument for argument in command]
    # stderr goes to a file: a pipe that nobody empties fills up and stops the process.
    with tempfile.TemporaryFile() as words:
        stdin = subprocess.DEVNULL if feed is None else subprocess.PIPE
        process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, stderr=words, start_new_session=True)
        timed_out = threading.Event()

        def kill() -> None:
            timed_out.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(time_limit_s, kill)
        timer.start()
        try:
            if feed is not None:
                _write_all(process, feed)
            assert process.stdout is not None
            result = read(process.stdout)
            process.stdout.close()
            status = process.wait()
        finally:
            timer.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        words.seek(0)
        said = words.read().decode("utf-8", "replace")
    if timed_out.is_set():
        raise FfmpegFailed(f"still running after {time_limit_s:.0f} s")
    if status != 0:
        raise FfmpegFailed(last_words(said) or f"ffmpeg ended with status {status}")
    return result, said


def last_words(said: str) -> str:
    """The last error lines of ffmpeg's log in one line; empty where there is none."""
    errors = [line for line in said.splitlines() if "[error]" in line or "[fatal]" in line]
    return "; ".join(line.split("] ", 1)[-1].replace("[error] ", "").replace("[fatal] ", "").strip() for line in errors[-2:])


def encode_video(path: Path, frames: bytes, width: int, height: int, fps: int) -> None:
    """Write raw RGB frames as H.264 in MP4, under a temporary name until it is complete."""
    temporary = path.with_name(f".{path.name}.tmp")
    graph = (
        ffmpeg.input("pipe:", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)
        .output(str(temporary), format="mp4", vcodec="libx264", pix_fmt="yuv420p", preset="veryfast", crf=20, threads=1)
        .overwrite_output()
    )
    run_ffmpeg(graph, feed=frames, read=lambda stdout: stdout.read(), time_limit_s=600)
    temporary.replace(path)


def _write_all(process: subprocess.Popen[bytes], feed: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(feed)
        process.stdin.close()
    except BrokenPipeError:
        pass  # ffmpeg gave up first; its exit status and last words say why
