"""A server of the search page in a process of its own, started by its command."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import torch

from benchmarks.measure import resident_of
from benchmarks.serving.options import ROOT
from data.cache import FeatureCache
from extract.encode.reload import reload_clip


@dataclass(frozen=True)
class Server:
    """A server that runs: its process, its host and port, and the seconds from its start to its first page."""

    pid: int
    address: str
    first_page_s: float

    def cpu_s(self) -> float:
        """CPU seconds of the process so far."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mib(self) -> float:
        """Memory of the process now."""
        return resident_of(self.pid)


@contextmanager
def started(cache: Path, head: str, *options: str) -> Iterator[Server]:
    """Start a server of an untrained head, and end it."""
    command = [sys.executable, "-m", "search.serve", "--cache", str(cache), "--run", f"zero-shot:{head}", "--port", "0", "--quiet"]
    start = time.perf_counter()
    with subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = re.search(r"http://([^/]+)/", process.stdout.readline())
            assert found, "the server did not start"
            urlopen(f"http://{found[1]}/").read()
            yield Server(process.pid, found[1], time.perf_counter() - start)
        finally:
            process.terminate()


def clip_seconds(cache: Path) -> float:
    """The time to load the CLIP of a cache, in a process that has loaded the libraries."""
    start = time.perf_counter()
    reload_clip(FeatureCache(cache), torch.device("cpu"), None, None)
    return time.perf_counter() - start
