"""Starting and ending ffmpeg: one that does not work is said before any video, and none outlives what started it."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest

from data.base.errors import UserError
from extract.decode.decoders import check_decoder
from extract.ffmpeg.log import Log
from extract.ffmpeg.run import last_words, require_ffmpeg
from extract.ffmpeg.watchdog import kill_what_is_left
from extract.options import ExtractOptions
from tests.conftest import DEMO_CLIP, ROOT
from tests.decoding import hanging_decoder
from tests.processes import is_alive
from tests.videos import numbered_video
from tests.waiting import wait_until

TIME_LIMIT_S = 20.0


def script(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def make_unusable(kind: str, folder: Path) -> Path:
    path = folder / "program"
    if kind == "a folder":
        path.mkdir()
    elif kind == "not executable":
        script(path, "exit 0").chmod(stat.S_IRUSR)
    elif kind == "no program":
        path.write_bytes(b"\0" * 100)
        path.chmod(0o755)
    elif kind == "another program":
        return Path("/bin/ls")
    elif kind == "says nothing":
        script(path, "exit 0")
    elif kind == "talks without end":
        script(path, "exec yes")
    elif kind == "crashes":
        script(path, "kill -SEGV $$")
    elif kind == "fails at work":
        script(
            path, f'[ "$1" = -version ] && exec {imageio_ffmpeg.get_ffmpeg_exe()} -version; echo "[error] Unrecognized option" >&2; exit 1'
        )
    return path


UNUSABLE = {
    "missing": "cannot be started (No such file or directory)",
    "a folder": "is a folder",
    "not executable": "cannot be started (Permission denied)",
    "no program": "cannot be started (Exec format error)",
    "another program": "ends with status 2 when asked for its version",
    "says nothing": "is not ffmpeg",
    "talks without end": "ends with status",
    "crashes": "ends with status -11 when asked for its version",
    "fails at work": "does not decode (ffmpeg ended with status 1: Unrecognized option)",
}

Command = Callable[[Path], list[str | Path]]


def extraction(*more: str) -> Command:
    def command(folder: Path) -> list[str | Path]:
        return ["extract", "--videos", folder / "videos", "--cache", folder / "cache", "--model", DEMO_CLIP, "--device", "cpu", *more]

    return command


def generation(folder: Path) -> list[str | Path]:
    return ["demo.generate", "--out", folder / "demo", "--train", "1", "--val", "1", "--test", "1", "--quiet"]


def start(command: list[str | Path], program: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=os.environ | {"IMAGEIO_FFMPEG_EXE": str(program)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kind", UNUSABLE)
def test_an_ffmpeg_that_cannot_be_used_is_one_line(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = make_unusable(kind, tmp_path)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(UserError) as refusal:
        check_decoder(ExtractOptions(tmp_path, tmp_path / "cache"))
    said = str(refusal.value)
    assert said.startswith(f"ffmpeg cannot be used: {program} {UNUSABLE[kind]}")
    assert said.endswith("; set IMAGEIO_FFMPEG_EXE to one that works, or unset it")
    assert "\n" not in said


def test_an_ffmpeg_that_hangs_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, child = hanging_decoder(tmp_path, hangs_on="-version")
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    with pytest.raises(UserError, match=r"does not answer within 0\.5 s; set IMAGEIO_FFMPEG_EXE to one that works"):
        require_ffmpeg(time_limit_s=0.5)
    assert_ends(int(child.read_text()))


def test_no_ffmpeg_at_all_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
    monkeypatch.setattr("imageio_ffmpeg._utils._get_bin_dir", lambda: str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    imageio_ffmpeg._utils._get_ffmpeg_exe.cache_clear()
    try:
        with pytest.raises(UserError, match="no ffmpeg is installed: pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE"):
            require_ffmpeg()
    finally:
        imageio_ffmpeg._utils._get_ffmpeg_exe.cache_clear()


@pytest.mark.parametrize(
    "command",
    [
        extraction(),
        *(pytest.param(extraction(*more), marks=pytest.mark.long) for more in (("--segment", "30"), ("--dry-run",), ("--decoder", "pyav"))),
        generation,
    ],
    ids=["extract", "segment", "dry run", "pyav", "generate"],
)
def test_every_command_says_so_before_any_video(tmp_path: Path, command: Command) -> None:
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.mp4").write_text("no video")
    process = start(command(tmp_path), Path("/nope"))
    out, said = process.communicate(timeout=60)
    assert process.returncode == 2
    why = "/nope cannot be started (No such file or directory)"
    assert said == f"error: ffmpeg cannot be used: {why}; set IMAGEIO_FFMPEG_EXE to one that works, or unset it\n"
    assert out == ""
    assert not (tmp_path / "cache").exists()


def assert_ends(*processes: int) -> None:
    wait_until(lambda: not any(map(is_alive, processes)), f"the end of all of {processes}", TIME_LIMIT_S)


def children_of(process: int) -> list[int]:
    """The processes that a process has started and that are still there."""
    return [int(one) for path in Path(f"/proc/{process}/task").glob("*/children") for one in path.read_text().split()]


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="which processes there are is read from /proc")
@pytest.mark.parametrize(
    ("command", "hangs_on"),
    [(extraction(), ".mp4"), (extraction("--segment", "30"), ".mp4"), (extraction("--dry-run"), ".mp4"), (generation, "rawvideo")],
    ids=["extract", "segment", "dry run", "generate"],
)
def test_ffmpeg_that_hangs_ends_with_what_is_killed(tmp_path: Path, command: Command, hangs_on: str) -> None:
    numbered_video(tmp_path / "videos" / "a.mp4", 5, 5)
    program, child = hanging_decoder(tmp_path, hangs_on)
    process = start(command(tmp_path), program)
    wait_until(child.exists, "an ffmpeg that hangs")
    hanging = int(child.read_text())
    # A process killed between starting ffmpeg and telling the watchdog leaves it behind.
    wait_until(lambda: waits_for_ffmpeg(parent_of(parent_of(hanging))), "a stage that waits for it")
    at_work = [process.pid]
    for one in at_work:
        at_work += children_of(one)
    assert hanging in at_work
    # Also the workers of a pool, one of which started it, are killed where a system runs out of memory.
    for one in [*(process_id for process_id in at_work if is_python(process_id)), process.pid]:
        os.kill(one, signal.SIGKILL)
    process.communicate(timeout=60)
    assert_ends(*at_work)


def words_of(process: int) -> list[bytes]:
    """The command line of a process."""
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")


def is_watchdog(process: int) -> bool:
    return any(word.endswith(b"watchdog.py") for word in words_of(process))


def is_python(process: int) -> bool:
    """Whether a process is one of ours and not the watchdog, which nobody but the system kills."""
    return Path(os.fsdecode(words_of(process)[0])).name.startswith("python") and not is_watchdog(process)


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])


def waits_for_ffmpeg(process: int) -> bool:
    """Whether a process that has started ffmpeg has a watchdog and has told it: from there until ffmpeg says something it sleeps."""
    states = [path.read_text().rsplit(")", 1)[1].split()[0] for path in Path(f"/proc/{process}/task").glob("*/stat")]
    return set(states) == {"S"} and any(map(is_watchdog, children_of(process)))


def test_what_has_ended_is_left_alone() -> None:
    sleeping = [subprocess.Popen(["sleep", "1000"], start_new_session=True) for _ in range(3)]
    kept, left, gone = sleeping
    gone.kill()
    gone.wait()
    kill_what_is_left([b"+%d\n" % kept.pid, b"+%d\n" % left.pid, b"+%d\n" % gone.pid, b"-%d\n" % kept.pid])
    assert left.wait(timeout=20) == -signal.SIGKILL
    assert kept.poll() is None
    kept.kill()
    kept.wait()


def test_an_error_inside_a_line_of_showinfo_is_an_error(tmp_path: Path) -> None:
    """As ffmpeg logged it for a truncated live recording in about 1 of 60 decodings, when its demuxer's thread was faster."""
    path = tmp_path / "log"
    picture = (
        "n:   0 pts:      0 pts_time:0       duration:      1 duration_time:1       fmt:yuv420p cl:left sar:1/1 s:128x96 i:P iskey:1 type:I"
    )
    teller = "[showinfo@58365c66 @ 0x7fb42c003300] [info]"
    path.write_text(f"{teller} {picture} \n{teller}   side data - User Data Unregistered SEI message: File ended prematurely\n{teller} \n")
    with path.open("rb") as file:
        log = Log(file, "showinfo@58365c66")
        assert last_words(log.text()) == "File ended prematurely"
        assert log.last_error() == 1
