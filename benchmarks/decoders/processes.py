"""Start and question the processes that read; measure each with all its children."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.decoders.options import ROOT
from benchmarks.decoders.readers import READERS
from benchmarks.measure import Timing, resident_of

SAMPLE_S = 0.02


class ReaderFailed(Exception):
    """A decoder is not installed, does not load, or failed on a video. The text says which."""


class ReaderProcess:
    """A running `benchmarks.decoders.reader_process`. Raises ReaderFailed if the decoder is not there; use `close`."""

    def __init__(self, name: str, max_frames: int, libraries: Path) -> None:
        module, _ = READERS[name]
        if importlib.util.find_spec(module.partition(".")[0]) is None:
            raise ReaderFailed("not installed: pip install -r benchmarks/requirements.txt")
        paths = os.environ.get("LD_LIBRARY_PATH")
        environment = os.environ | {"LD_LIBRARY_PATH": f"{libraries}:{paths}" if paths else str(libraries)}
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.decoders.reader_process", name, str(max_frames)],
            cwd=ROOT,
            env=environment if name == "torchcodec" else None,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._answer()

    def read(self, paths: Sequence[Path], seconds: Sequence[Sequence[float]], workers: int, pixels: Path | None = None) -> Timing:
        """Read the frames on the screen at `seconds` of each file. CPU time is that of the process and its children, to 0.01 s."""
        request = {"paths": [str(path) for path in paths], "seconds": seconds, "workers": workers, "pixels": str(pixels or "")}
        before = sum(map(_cpu_of, self._tree()))
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        wall_s = self._answer()["wall_s"]
        return Timing(wall_s, sum(map(_cpu_of, self._tree())) - before)

    @contextmanager
    def peak(self) -> Iterator[list[float]]:
        """Sample the resident memory of the process and its children, in MiB. The list holds the largest sum after the block."""
        ended = threading.Event()
        found = [0.0]

        def sample() -> None:
            while not ended.wait(SAMPLE_S):
                with suppress(FileNotFoundError, ProcessLookupError):
                    # Between its fork and its exec, a child counts the memory of its parent as its own.
                    started = [pid for pid in self._tree()[1:] if _command_of(pid) != _command_of(self._process.pid)]
                    found[0] = max(found[0], sum(map(resident_of, [self._process.pid, *started])))

        thread = threading.Thread(target=sample)
        thread.start()
        try:
            yield found
        finally:
            ended.set()
            thread.join()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            found: dict[str, Any] = json.loads(line)
            return found
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace")
        self.close()
        errors = [line for line in said.splitlines() if re.match(r"\S*(Error|Failed)\b", line)] or said.splitlines()
        raise ReaderFailed(f"failed: {errors[-1][:200] if errors else 'without a word'}")

    def _tree(self) -> list[int]:
        """The process and all below it, by id."""
        found, left = [], [self._process.pid]
        while left:
            found.append(left.pop())
            for task in Path(f"/proc/{found[-1]}/task").glob("*/children"):
                # A thread may end between the listing and the reading.
                with suppress(FileNotFoundError, ProcessLookupError):
                    left += map(int, task.read_text().split())
        return found


def _command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def _cpu_of(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended; 0 of one that is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def link_libraries(folder: Path) -> Path:
    """Links to the FFmpeg libraries in PyAV's wheel under their usual names. torchcodec brings none, and a system may have none either."""
    folder.mkdir()
    spec = importlib.util.find_spec("av")
    if spec is not None and spec.origin is not None:
        for library in (Path(spec.origin).parent.parent / "av.libs").glob("*.so*"):
            (folder / library.name).symlink_to(library)
            usual = re.sub(r"-[0-9a-f]+\.so\.(\d+).*", r".so.\1", library.name)
            if usual != library.name:
                (folder / usual).symlink_to(library)
    return folder
