"""Extracts in a process of its own, so that queries keep the interpreter and a crash of a library does not end the server."""

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import TYPE_CHECKING, Self

from data.base import children
from data.base.errors import LostProcess, UserError
from extract.options import ExtractOptions

if TYPE_CHECKING:  # torch loads in the process
    from extract.one_by_one import Step

NICENESS = 10
"""Added to the priority value of the process and its decoders: a query comes first."""
POLL_S = 0.2
LEAVE_S = 10.0
"""Seconds that a terminated process has to write what it has encoded before it is killed."""


class ExtractionProcess:
    """Runs `extract_one_by_one`. As a context manager, it ends the process, which keeps what is encoded."""

    def __init__(self, options: ExtractOptions, files: Collection[Path]) -> None:
        # Spawned: a forked copy would lack this process's threads of torch and BLAS.
        context = get_context("spawn")
        self._ours, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_run, args=(theirs, options, frozenset(files)), daemon=True)
        children.start(self._process)
        # The process must hold the only other end, so that the connection closes when it ends.
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.terminate()
        self._process.join(LEAVE_S)
        self._process.kill()
        self._process.join()
        self._ours.close()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def steps(self, stop: Event) -> Iterator["Step"]:
        """The steps of the process, until it is done or `stop` is set. Raises its UserError, and LostProcess if it ends before."""
        while not stop.is_set():
            if not self._ours.poll(POLL_S):
                continue
            try:
                step = self._ours.recv()
            except EOFError:
                self._process.join()
                raise LostProcess(f"the extraction ended with status {self._process.exitcode}") from None
            if isinstance(step, UserError):
                raise step
            if step is None:
                return
            yield step


def _run(connection: Connection, options: ExtractOptions, files: frozenset[Path]) -> None:
    """Extract, and send every step; then None, or the UserError that ended it."""
    os.nice(NICENESS)
    # The pipe breaks when the parent has died.
    with children.until_terminated(), suppress(BrokenPipeError):
        from extract.one_by_one import extract_one_by_one

        try:
            extract_one_by_one(options, files, connection.send)
        except UserError as error:
            connection.send(error)
        else:
            connection.send(None)
