"""The connection to Milvus: one line for every way in which it can fail."""

import logging
import re
import socket
import time
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from os import environ
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from data.base.errors import Unavailable, UserError, one_line
from search.index.options import TOKEN_VARIABLE, EngineOptions, is_file

DEFAULT_PORT = 19530
CONNECT_S = 10.0
RETRY_S = 0.5
CALL_S = 60.0
"""How long one request may take."""
QUERY_S = 20.0
"""How long a query is repeated while the server does not answer."""
WRITE_S = 180.0
"""The same for a batch of rows. A server that was killed takes about a minute to start again."""
WORK_S = 3600.0
"""How long a server may take to write or load a whole collection."""
_LOGGERS = ("pymilvus", "milvus_lite")
_REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "auth check failure", "PermissionDenied")
_GONE = ("UNAVAILABLE", "Fail connecting", "Retry timeout", "Connection refused", "channel")
_ATTEMPTS = re.compile(r"^\[\w+\] Retry run out of \d+ retry times, message=")
_SLOW = ("DEADLINE_EXCEEDED",)
_DROPPED = re.compile(r"collection not found|can't find collection|collection '\w+' does not exist")
_LOADING = ("collection not loaded", "not ready", "channel not available", "no available shard", "grpcclient")
"""What a server says that has just started; the last word while one of its parts does not reach another yet."""
_LOCKED = "another process holds the lock"
_ADDRESSES = ("MILVUS_URI", "MILVUS_DEFAULT_CONNECTION")
_OF_LITE = ("LOCK", "collections")
"""What Milvus Lite makes first in its folder."""
_NO_ROOM = ("No space left", "File too large", "disk quota", "Disk quota")

Result = TypeVar("Result")


class Milvus:
    """A connection. `client` is pymilvus's; call it through `ask`."""

    def __init__(self, options: EngineOptions, make: bool = False) -> None:
        """Connect. `make`: make a file that does not exist.

        Raises UserError if pymilvus is not installed, if nobody answers, or if the file or the credentials are refused.
        """
        assert options.uri is not None
        self.name = options.uri
        """The file or the address, for people."""
        self.file = is_file(options.uri)
        self._path = str(Path(options.uri).resolve())
        # Failed handshakes are told by an error, and gRPC would print them too.
        environ.setdefault("GRPC_VERBOSITY", "NONE")
        if self.file:
            _check_file(self.name, make)
        # pymilvus reads this address when it is imported, and fails if it does not like it. --uri is the only one that counts here.
        theirs = {name: environ.pop(name) for name in _ADDRESSES if name in environ}
        try:
            from grpc import FutureTimeoutError, RpcError
            from pymilvus import MilvusClient
            from pymilvus.exceptions import MilvusException

            if self.file:
                import milvus_lite  # noqa: F401 - pymilvus starts it
        except ImportError as error:
            raise UserError("--engine milvus needs pymilvus and milvus-lite: pip install -r requirements-milvus.txt") from error
        finally:
            environ.update(theirs)
        self._errors: tuple[type[Exception], ...] = (MilvusException, RpcError, FutureTimeoutError)
        for name in _LOGGERS:  # they print a traceback for every error
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        # Clients of one address would share a connection, whatever certificates and names they trust.
        secure: dict[str, Any] = {"dedicated": True}
        if options.uri.startswith("https:"):
            secure |= {"secure": True, "server_name": options.tls_name or ""}
            if options.tls_ca is not None:
                secure["server_pem_path"] = str(options.tls_ca)
        token = options.milvus_token if options.milvus_token is not None else environ.get(TOKEN_VARIABLE, "")
        uri = self._path if self.file else self.name
        self._opens = self.file and self._path not in _servers_of_files()
        with self._failures("open"), _reason_of_file(self.file) as reasons:
            try:
                self.client: MilvusClient = MilvusClient(uri=uri, token="" if self.file else token, timeout=CONNECT_S, **secure)
            except MilvusException as error:
                if reasons:
                    raise self._failed("open", reasons[0]) from error
                raise

    def ask(self, what: str, call: Callable[..., Result], *args: Any, timeout: float | None = None, **named: Any) -> Result:
        """Call a method of the client, again and again for `timeout` seconds (QUERY_S) while nobody answers. `what` was tried, for errors.

        Raises UserError if the server is gone, refuses, or has no room.
        """
        end = time.monotonic() + (QUERY_S if timeout is None else timeout)
        with self._failures(what):
            while True:
                left = max(1.0, end - time.monotonic())
                try:
                    return call(*args, timeout=left if self.file else min(CALL_S, left), **named)
                except self._errors as error:
                    if self.file or time.monotonic() + RETRY_S >= end or not _may_pass(error):
                        raise
                    time.sleep(RETRY_S)

    def once(self, what: str, call: Callable[..., Result], *args: Any) -> Result:
        """Call a method of the client a single time. Raises UserError as `ask` does."""
        with self._failures(what):
            return call(*args, retry_times=0)

    def finish(self, what: str, call: Callable[..., object], *args: Any) -> None:
        """Call a method of the client that waits for the server to finish some work, for up to WORK_S while the server answers.

        Raises UserError as `ask` does.
        """
        end = time.monotonic() + WORK_S
        with self._failures(what):
            while True:
                try:
                    call(*args, timeout=CALL_S)
                    return
                except self._errors as error:
                    if time.monotonic() >= end or not _may_pass(error):
                        raise
                self.ask(what, self.client.get_server_version, timeout=WRITE_S)

    def close(self) -> None:
        """Close the connection; with a file, write it and let other processes open it, unless this process had opened it before."""
        self.client.close()
        if self._opens:
            from milvus_lite.server_manager import server_manager_instance

            server_manager_instance.release_server(self._path)

    @contextmanager
    def _failures(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._errors as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: BaseException) -> UserError:
        # str() of an error of pymilvus wraps its message in the name of the class, and a last attempt in a count of attempts.
        message = _ATTEMPTS.sub("", one_line(Exception(getattr(error, "message", "") or error)))
        said = f"{getattr(error, 'code', '')} {message}"
        if any(word in said for word in _REFUSED):
            return UserError(f"Milvus at {self.name} refuses the credentials: give USER:PASSWORD by --milvus-token or {TOKEN_VARIABLE}")
        if any(word in said for word in _NO_ROOM):
            return UserError(f"Milvus at {self.name} has no room ({message}): make room, then run the same command again")
        if self.file and _LOCKED in message:
            return UserError(f"--uri {self.name} is open in another process, and Milvus Lite takes one: end it, or use a server")
        if not self.file and "illegal connection params" in said and _listens(self.name):
            return UserError(
                f"something answers at {self.name}, but not as Milvus does to known users: check --milvus-token, http or https in --uri, "
                "--tls-ca and --tls-name"
            )
        if not self.file and any(word in said for word in _GONE):
            return Unavailable(f"Milvus at {self.name} does not answer: start it, or correct --uri, then run the same command again")
        if any(word in said for word in _SLOW):
            return Unavailable(
                f"Milvus at {self.name} took too long to {what}: give it more processors or memory, then run the same command again"
            )
        if _DROPPED.search(said):
            return Unavailable(f"Milvus at {self.name} has deleted the collection ({message}): fill it again with python -m search.build")
        or_again = ", or delete it and build it again with python -m search.build" if self.file else ""
        return UserError(f"Milvus at {self.name} failed to {what} ({message}): mend that, then run the same command again{or_again}")


def _servers_of_files() -> Container[str]:
    """The files that this process has open: Milvus Lite runs one server for each, which all connections to the file share."""
    from milvus_lite.server_manager import server_manager_instance

    return cast("Container[str]", server_manager_instance._servers)


def _check_file(name: str, make: bool) -> None:
    """Raise UserError if a file cannot be one of Milvus Lite, which would make what is missing, even for a command that only reads."""
    folder = Path(name).resolve()
    if folder.is_file():
        raise UserError(f"--uri {name} is not a file of Milvus Lite 3, which keeps a folder of that name: name another one")
    if folder.is_dir() and any(folder.iterdir()) and not any((folder / own).exists() for own in _OF_LITE):
        raise UserError(f"--uri {name} is a folder with other files than those of Milvus Lite: name another one")
    if not folder.parent.is_dir():
        raise UserError(f"--uri {name}: there is no folder {folder.parent}: make it, or name another file")
    if not make and not folder.is_dir():
        raise UserError(f"--uri {name}: there is no such file: correct --uri, or make it with python -m search.build")


def _listens(uri: str) -> bool:
    """Whether anything accepts connections at an address."""
    parts = urlsplit(uri)
    try:
        with socket.create_connection((parts.hostname, parts.port or (443 if parts.scheme == "https" else DEFAULT_PORT)), CONNECT_S):
            return True
    except OSError:
        return False


def _may_pass(error: Exception) -> bool:
    """Whether the server may answer soon. One that starts again does so before it has loaded its collections."""
    return any(words in f"{getattr(error, 'code', '')} {error}" for words in (*_GONE, *_SLOW, *_LOADING))


@contextmanager
def _reason_of_file(file: bool) -> Iterator[list[BaseException]]:
    """Why Milvus Lite could not open a file: pymilvus says only that it could not, and Milvus Lite only logs it."""
    reasons: list[BaseException] = []

    class Reasons(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.exc_info and record.exc_info[1] is not None:
                reasons.append(record.exc_info[1])

    if not file:
        yield reasons
        return
    logger, handler = logging.getLogger("milvus_lite.server_manager"), Reasons()
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    try:
        yield reasons
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
