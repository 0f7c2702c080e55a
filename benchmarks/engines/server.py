"""Starts a standalone Milvus server on this machine, from the wheel `milvus`, in a folder and on ports of its own.

    with MilvusServer(Path("server")) as server:
        client = pymilvus.MilvusClient(server.uri)

The wheel's own `default_server` keeps etcd on fixed ports, so that two servers on a machine collide, and outlives a process that is killed.
"""

import lzma
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from benchmarks.measure import peak_of, resident_of

HEALTHY_S = 120.0
"""How long a start may take. One after `kill` waits until etcd has given up the sessions of the dead server."""
STOP_S = 1.0
"""How long a server may take to end by itself. It would wait half an hour for its collections to be released."""
REST_S, IDLE = 600.0, 0.25
"""How long a server may be busy after a build, and the share of a core below which it rests."""
SESSION_S = 30
"""Lease of a session in etcd, as Milvus sets it. What a crash leaves ends with it, so a start after `kill` waits as long. With a short
lease, a server that is busy for as long takes itself for dead."""
COORDINATORS = ("rootCoord", "proxy", "queryCoord", "queryNode", "indexNode", "dataCoord", "dataNode")


class Certificate(NamedTuple):
    """Files in PEM of a server that encrypts: its certificate and its key."""

    certificate: Path
    key: Path


class MilvusServer:
    """A server and its folder, which keeps the data when the server ends. It ends with the process that started it, however that ends."""

    def __init__(self, folder: Path, authorization: bool = False, tls: Certificate | None = None, session_s: int = SESSION_S) -> None:
        """authorization: refuse clients without a token; root's is `root:Milvus`. Nothing is started yet."""
        self.folder = folder.resolve()
        self.port = _free_ports(1)[0]
        self._authorization, self._tls, self._session_s = authorization, tls, session_s
        self._environment: dict[str, str] | None = None
        """What the server is started with. Its files are written once: the wheel refuses ports that clients of a dead server still try."""
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """Address of the server. It stays the same when the server is started again."""
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The only process of the server."""
        assert self._process is not None, "the server has not been started"
        return self._process.pid

    @property
    def peak_mib(self) -> float:
        """Peak resident memory so far."""
        return peak_of(self.pid)

    @property
    def resident_mib(self) -> float:
        """Resident memory now."""
        return resident_of(self.pid)

    def rest(self) -> float:
        """Wait until the server has little left to do, and return for how many seconds.

        After a build, it merges what was written, and indexes that anew.
        """
        start = time.monotonic()
        while time.monotonic() < start + REST_S:
            before = self._cpu_s()
            time.sleep(3)
            if self._cpu_s() - before < IDLE * 3:
                break
        return time.monotonic() - start

    def _cpu_s(self) -> float:
        # Fields 14 and 15 of the file, counted after the name in brackets, which may hold blanks.
        user, system = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        """Start the server and wait until it is healthy. Raises RuntimeError if it ends or takes longer than HEALTHY_S."""
        assert self._process is None, "the server runs already"
        if self._environment is None:
            self._environment = self._configure(_free_ports(1)[0])
        log = self.folder / "logs" / "server.log"
        with log.open("ab") as out:
            command = [str(self.folder / "bin" / "milvus"), "run", "standalone"]
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        # The end of this process, even by SIGKILL, closes the pipe.
        self._guard = subprocess.Popen(
            ["sh", "-c", 'read stopped || kill -KILL "$0"', str(self._process.pid)], stdin=subprocess.PIPE, start_new_session=True
        )
        end = time.monotonic() + HEALTHY_S
        while not _is_healthy(int(self._environment["METRICS_PORT"])):
            if self._process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"Milvus did not start: see the end of {log}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server as a crash does, by SIGKILL."""
        assert self._process is not None, "the server does not run"
        self._process.kill()
        self._ended()

    def stop(self) -> None:
        """End the server, which writes what it has first if that is quick. Does nothing if it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._ended()

    def __enter__(self) -> "MilvusServer":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.stop()

    def _ended(self) -> None:
        assert self._process is not None
        self._process.wait()
        if self._guard is not None:
            self._guard.communicate(b"stopped\n")
        self._process = self._guard = None

    def _configure(self, health: int) -> dict[str, str]:
        """Write the files that the server reads, and return its environment."""
        from milvus import MilvusServerConfig

        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "bin").exists():
            (self.folder / "bin").symlink_to(_binaries())
        config = MilvusServerConfig(data_dir=str(self.folder))
        names = [name for name in config.configurable_items if name.endswith("_port") and name != "proxy_port"]
        *ports, peer, client = _free_ports(len(names) + 2)
        config.update(proxy_port=self.port, **dict(zip(names, ports, strict=True)))
        config.set("authorization_enabled", self._authorization)
        if self._tls is not None:
            config.set("tls_mode", 1)
            config.set("server_pem_path", str(self._tls.certificate.resolve()))
            config.set("server_key_path", str(self._tls.key.resolve()))
        config.set("common.session.ttl", self._session_s)
        for name in COORDINATORS:
            config.set(f"{name}.ip", "127.0.0.1")
        config.resolve()
        etcd = {"name": "default", "data-dir": self.folder / "data" / "etcd.data"}
        for role, port in (("client", client), ("peer", peer)):
            etcd |= {f"listen-{role}-urls": f"http://127.0.0.1:{port}"}
        etcd |= {"advertise-client-urls": f"http://127.0.0.1:{client}", "initial-advertise-peer-urls": f"http://127.0.0.1:{peer}"}
        etcd |= {"initial-cluster": f"default=http://127.0.0.1:{peer}"}
        path = self.folder / "configs" / "etcd.yaml"
        path.write_text("".join(f"{name}: {value}\n" for name, value in etcd.items()), encoding="utf-8")
        return {
            **os.environ,
            "DEPLOY_MODE": "STANDALONE",
            "METRICS_PORT": str(health),
            "MILVUS_RUN_DIR": str(self.folder / "run"),
            "LD_LIBRARY_PATH": str(self.folder / "bin"),
            "ETCD_CONFIG_PATH": str(path),
        }


def _binaries() -> Path:
    """The folder of the server's files, which are compressed in the wheel, and unpacked the first time."""
    import milvus

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "milvus-server"
    folder: Path = cache / str(milvus.__version__)
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as work:
            unpacked = Path(work) / "bin"
            unpacked.mkdir()
            for packed in (Path(milvus.__file__).parent / "data" / "bin").glob("*.lzma"):
                with lzma.open(packed) as source, (unpacked / packed.stem).open("wb") as target:
                    shutil.copyfileobj(source, target)
                (unpacked / packed.stem).chmod(0o755)
            try:
                unpacked.rename(folder)
            except OSError:  # another process was faster
                assert folder.exists()
    return folder


def _free_ports(count: int) -> Sequence[int]:
    """Ports of this machine that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _is_healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
            return b"OK" in answer.read()
    except OSError:
        return False
