"""Whole jobs in processes of their own, each on one thread: runs of a sweep that do not wait for each other."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TypeVar

import torch

from data.base.errors import LostProcess, UserError
from data.base.interrupts import interrupt_on

_LEAVE_S = 30.0
"""Seconds after which a process that was told to end is killed."""
_WHY = "a traceback is above; or it was killed, for memory perhaps (fewer --processes take less); run again to go on"

Job = TypeVar("Job")
State = TypeVar("State")
Result = TypeVar("Result")


def in_processes(count: int, work: Callable[[State, Job], Result], state: State, jobs: Sequence[Job]) -> Iterator[tuple[Job, Result]]:
    """Do `work(state, job)` for all jobs in so many processes, and give each job with its result, in the order in which they end.

    `state` goes to every process once. A UserError of a job is raised here. Raises LostProcess where a process ends before its job, be it
    over another exception, whose traceback it prints. Whatever ends the iteration early ends the processes.
    """
    # Not forked: threads of this process, of torch or of a BLAS, would be missing in its copies.
    context = get_context("spawn")
    waiting = iter(jobs)
    busy: dict[Connection, tuple[SpawnProcess, Job]] = {}
    processes: list[SpawnProcess] = []
    try:
        for job in [job for _, job in zip(range(count), waiting, strict=False)]:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, work, state), daemon=True)
            process.start()
            # Theirs alone is left, so that the end of the process is the end of the connection.
            theirs.close()
            processes.append(process)
            ours.send(job)
            busy[ours] = process, job
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, job = busy.pop(connection)
                try:
                    result = connection.recv()
                except EOFError:
                    process.join()
                    raise LostProcess(f"the process at work on {job} ended with status {process.exitcode}: {_WHY}") from None
                if isinstance(result, UserError):
                    raise result
                following = next(waiting, None)
                if following is None:
                    connection.close()
                else:
                    connection.send(following)
                    busy[connection] = process, following
                yield job, result
    finally:
        # Not killed at once: libraries have semaphores to give back.
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_LEAVE_S)
            process.kill()
            process.join()


def _serve(connection: Connection, work: Callable[[State, Job], Result], state: State) -> None:
    """Do what the connection asks for until it ends, or the first process says SIGTERM."""
    # Control-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupt_on(signal.SIGTERM)
    torch.set_num_threads(1)
    with suppress(KeyboardInterrupt):
        _work(connection, work, state)


def _work(connection: Connection, work: Callable[[State, Job], Result], state: State) -> None:
    while True:
        try:
            job = connection.recv()
        except EOFError:
            # The work is done, or the first process does not live any more. Who is on the way out need not be told to leave.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return
        result: Result | UserError
        try:
            result = work(state, job)
        except UserError as error:
            result = error
        with suppress(BrokenPipeError):
            connection.send(result)
