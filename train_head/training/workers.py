"""Runs independent jobs, such as the runs of a sweep, in separate processes of one thread each."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import torch

from data.base import children
from data.base.errors import LostProcess, UserError
from data.compute.memory import SAY_SO, OutOfMemory, exhausted

_LEAVE_S = 30.0
"""Seconds that a terminated process has to end before it is killed."""
_WHY = "see the traceback above; without one it was killed, perhaps for memory (use fewer --processes); run again to continue"

Job = TypeVar("Job")
State = TypeVar("State")
Result = TypeVar("Result")


def in_processes(count: int, work: Callable[[State, Job], Result], state: State, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
    """Run `work(state, job)` for every job in `count` processes, and yield each job with its result as it ends.

    >>> for run, row in in_processes(4, train_one, loaded, runs): ...

    `state` is sent to each process once. Re-raises a UserError of a job here. Raises OutOfMemory if memory was exhausted in a job, and
    LostProcess if a process ends before its job does; if another exception ended it, the process has printed the traceback. All processes
    end with the iteration, however that ends.
    """
    waiting = iter(jobs)
    busy: dict[Connection, tuple[SpawnProcess, Job]] = {}
    processes: list[SpawnProcess] = []
    try:
        for job in [job for _, job in zip(range(count), waiting, strict=False)]:
            process, ours = _start(work, state)
            processes.append(process)
            ours.send(job)
            busy[ours] = process, job
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                process, job = busy.pop(connection)
                result: Result = _receive(connection, process, job)
                following = next(waiting, None)
                if following is None:
                    connection.close()
                else:
                    connection.send(following)
                    busy[connection] = process, following
                yield job, result
    finally:
        _end(processes)


def _start(work: Callable[[State, Job], Result], state: State) -> tuple[SpawnProcess, Connection]:
    """A process that serves jobs, and our end of the connection to it."""
    # Spawned: a forked copy would lack this process's threads of torch and BLAS.
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, work, state), daemon=True)
    children.start(process)
    # The process must hold the only other end, so that the connection closes when it ends.
    theirs.close()
    return process, ours


def _receive(connection: Connection, process: SpawnProcess, job: object) -> Any:
    """The result of a job. Raises the job's UserError or OutOfMemory, or LostProcess if the process has ended."""
    try:
        result = connection.recv()
    except EOFError:
        process.join()
        raise LostProcess(f"the process at work on {job} ended with status {process.exitcode}: {_WHY}") from None
    if isinstance(result, UserError | OutOfMemory):
        raise result
    return result


def _end(processes: Sequence[SpawnProcess]) -> None:
    """Terminate the processes, and kill those that do not end in time."""
    # Not killed at once, so that libraries can release their semaphores.
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_LEAVE_S)
        process.kill()
        process.join()


def _serve(connection: Connection, work: Callable[[State, Job], Result], state: State) -> None:
    """Run jobs from the connection until it closes or the parent sends SIGTERM."""
    torch.set_num_threads(1)
    with children.until_terminated():
        _work(connection, work, state)


def _work(connection: Connection, work: Callable[[State, Job], Result], state: State) -> None:
    while True:
        try:
            job = connection.recv()
        except EOFError:  # all jobs are done, or the parent has died
            return
        result: Result | UserError | OutOfMemory
        try:
            result = work(state, job)
        except UserError as error:
            result = error
        except SAY_SO as error:
            memory = exhausted(error)
            if memory is None:
                raise
            result = OutOfMemory(memory)
        with suppress(BrokenPipeError):
            connection.send(result)
