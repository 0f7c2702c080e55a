"""A hub of models on this machine: as much of the Hugging Face hub's protocol as its client and transformers use."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

from tests.conftest import ROOT

COMMIT = "1234567890" * 4
LARGE = (".safetensors", ".bin", ".pt", ".model")
"""Files that the hub keeps in a store of their own, under the SHA-256 of their content."""


@dataclass
class Hub:
    """What the server has and does, and what it was asked for.

    `repositories` holds the folder of each by OWNER/NAME. The rest is of large files, OWNER/NAME/FILE: `altered` holds the content that is
    sent in place of what was announced, and `breaks` after how many bytes the connection is lost, the next time and the times after. `sent`
    lists the file of each request of content, the Range asked for, and the number of bytes sent.
    """

    repositories: dict[str, Path] = field(default_factory=dict)
    altered: dict[str, bytes] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    sent: list[tuple[str, str | None, int]] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)
    address: str = ""

    def environment(self, home: Path) -> dict[str, str]:
        """The environment of a process whose hub this is, and whose downloads go below `home`."""
        here = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return here | {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}

    def asked(self, name: str) -> list[tuple[str | None, int]]:
        """Range and number of bytes sent for each request of this file."""
        with self.lock:
            return [(wanted, count) for file, wanted, count in self.sent if file == name]


class _Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        if path.startswith("api/models/"):
            self._describe(path.removeprefix("api/models/").split("/"))
        elif path.startswith("store/"):
            self._content(path.removeprefix("store/"))
        else:
            repository, _, place = path.partition("/resolve/")
            self._resolve(repository, place.partition("/")[2])

    do_HEAD = do_GET

    def _describe(self, parts: Sequence[str]) -> None:
        """What the programming interface says of a repository, or the list of its files."""
        repository, rest = "/".join(parts[:2]), parts[2:]
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self._refuse(401, "RepoNotFound")
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if rest[:1] == ["tree"]:
            wanted = "/".join(rest[2:])
            names = [path for path in files if path.relative_to(folder).as_posix().startswith(wanted)]
            listed = [
                {"type": "file", "path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "oid": "0" * 40}
                for path in names
            ]
            self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})
            return
        names_alone = [{"rfilename": path.relative_to(folder).as_posix()} for path in files]
        about: dict[str, Any] = {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": names_alone, "tags": []}
        self._send(200, json.dumps(about).encode(), {"Content-Type": "application/json"})

    def _resolve(self, repository: str, name: str) -> None:
        """A small file itself, or where a large one is."""
        folder = self.hub.repositories.get(repository)
        if folder is None:
            self._refuse(401, "RepoNotFound")
            return
        file = folder / name
        if not file.is_file():
            self._refuse(404, "EntryNotFound", {"X-Repo-Commit": COMMIT})
            return
        content = file.read_bytes()
        headers = {"X-Repo-Commit": COMMIT}
        if name.endswith(LARGE):
            headers |= {"X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            # Another host, as the hub's store is: the client looks no further for the announcement.
            store = self.hub.address.replace("127.0.0.1", "localhost")
            self._send(302, b"", headers | {"Location": f"{store}/store/{repository}/{name}"})
            return
        git = hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
        self._send(200, content, headers | {"ETag": f'"{git}"'})

    def _content(self, path: str) -> None:
        """A large file, or what is left of it from the byte that is asked for."""
        *owner, name = path.split("/", 2)
        content = self.hub.altered.get(path) or (self.hub.repositories["/".join(owner)] / name).read_bytes()
        wanted = self.headers.get("Range")
        first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        headers = {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"} if wanted else {}
        left = content[first:]
        with self.hub.lock:
            planned = self.hub.breaks.get(path, [])
            most = planned.pop(0) if planned and self.command == "GET" else len(left)
            if self.command == "GET":
                self.hub.sent.append((path, wanted, min(most, len(left))))
        self._send(206 if wanted else 200, left, headers, most)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code, **(headers or {})})

    def _send(self, status: int, content: bytes, headers: dict[str, str], most: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content if most is None else content[:most])
            if most is not None and most < len(content):
                self.close_connection = True

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answer requests for a hub in threads until the end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (_Answers,), {"hub": hub})) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


_COMMANDS = """
import json, os, runpy, sys, tempfile
for arguments in json.loads(sys.argv[1]):
    sys.argv, status = ["extract", *arguments], 0
    kept, made = [os.dup(1), os.dup(2)], [tempfile.TemporaryFile() for _ in range(2)]
    for number in (1, 2):
        os.dup2(made[number - 1].fileno(), number)
    try:
        runpy.run_module("extract", run_name="__main__")
    except SystemExit as end:
        status = end.code
    said = []
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        stream.flush()
        os.dup2(kept[number - 1], number)
        made[number - 1].seek(0)
        said.append(made[number - 1].read().decode())
    print(json.dumps([status or 0, *said]), flush=True)
"""


def extractions(environment: dict[str, str], *commands: Sequence[str]) -> list[tuple[int, str, str]]:
    """Exit status, standard output and standard error of `python -m extract` with each of these arguments, in one process: to start one
    takes longer than all that it does."""
    call = [sys.executable, "-c", _COMMANDS, json.dumps(commands)]
    done = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(commands), done.stderr
    return [(status, out, err) for status, out, err in found]
