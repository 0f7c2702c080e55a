"""Several processes that share a piece of work, started by torchrun or by a scheduler that sets the same variables (RANK, WORLD_SIZE,
MASTER_ADDR, MASTER_PORT; LOCAL_RANK and LOCAL_WORLD_SIZE where several are on one machine).

They meet at a store of torch.distributed, where each leaves a sign of life every second: one that is lost is named after a time limit, and
one that only computes for long is waited for. Tensors are merged by gloo, between processes that have just met, or that work in step.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

from data.base.errors import LostProcess, UserError, one_line

PULSE_S = 1.0
"""Seconds between two signs of life."""
_POLL_S = 0.005
_START_LIMITS = 5
"""So many time limits may pass until all are started: a scheduler does not start them at once, and each loads its libraries first."""
_STEP_LIMITS = 5
"""So many time limits may one process be behind the others where they merge in step: it may be compiling, or reading from a slow disk."""
GO_ON_WITH_ANY = "run the same command again, with as many processes as you like"
_FAREWELL_S = 5.0
"""Seconds that the process which holds the store waits for the others to hear who is lost."""


class ProcessGroup:
    """This process, number `rank` of `count`; alone unless `joined` says otherwise. What the methods merge is then left as it is."""

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self._point: _MeetingPoint | None = None

    @classmethod
    @contextmanager
    def joined(
        cls, device: torch.device, time_limit: float, in_step: bool = False, remedy: str = GO_ON_WITH_ANY
    ) -> Iterator["ProcessGroup"]:
        """Join those that were started together, or work alone where nobody was; on CUDA each takes the device of its LOCAL_RANK.

        `time_limit`: seconds without a sign of life after which a process counts as lost. Raises LostProcess, which names it, then; and
        UserError where another process ended with one. What ends this block by an exception is told to the others.

        `in_step`: the processes merge so often, and after work so equal, that they do not meet before; tensors on CUDA go by nccl.
        `remedy`: what the user is told to do where a process is lost.
        """
        # Of one process too: it is in the record of what was asked for.
        if not 2 * PULSE_S <= time_limit < float("inf"):
            raise UserError(f"--process-timeout {time_limit:g}: at least {2 * PULSE_S:g} seconds")
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            yield cls()
            return
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(f"WORLD_SIZE is {count} but {', '.join(missing)} is not set: start with torchrun, or set all four")
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        group = cls(int(os.environ["RANK"]), count)
        group._point = _MeetingPoint(group.rank, count, time_limit, in_step, remedy)
        try:
            group._point.connect("cpu:gloo,cuda:nccl" if in_step and device.type == "cuda" else "gloo")
            yield group
            group._point.part()
        except (KeyboardInterrupt, Exception) as error:
            group._point.tell_end(error)
            raise
        finally:
            group._point.close()

    def meet(self) -> None:
        """Wait until all are here. Raises LostProcess for one that is lost, and UserError if one ended with that."""
        if self._point is not None:
            self._point.meet()

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Raises UserError, naming process and fact, where another process has others than the first. Values as JSON has them."""
        if self._point is None:
            return
        all_facts = self._point.exchange("facts", dict(facts))
        first = all_facts[0]
        differing = [
            f"{name} is {_short(theirs.get(name))} in process {rank} and {_short(first.get(name))} in process 0"
            for rank, theirs in enumerate(all_facts)
            for name in sorted({*first, *theirs})
            if theirs.get(name) != first.get(name)
        ]
        if differing:
            raise UserError(f"the {self.count} processes do not do the same work ({'; '.join(differing)}): start all with the same")

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor, of the same shape everywhere, by its sum over all processes."""
        self._reduce(tensors, distributed.ReduceOp.SUM)

    def maximum(self, *tensors: Tensor) -> None:
        """Replace each tensor, of the same shape everywhere, by the largest of each number over all processes."""
        self._reduce(tensors, distributed.ReduceOp.MAX)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, all of the same shape, in the order of their ranks."""
        if self._point is None:
            return [tensor]
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.count)]
        with self._point.merging():
            distributed.all_gather(parts, tensor.contiguous())
        return parts

    def _reduce(self, tensors: tuple[Tensor, ...], operation: Any) -> None:
        if self._point is None:
            return
        with self._point.merging():
            for tensor in tensors:
                assert tensor.is_contiguous()
                distributed.all_reduce(tensor, operation)


def on_this_machine() -> int:
    """How many processes share the machine, its memory and its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class _MeetingPoint:
    """The store, and what each process leaves there: `alive/R` signs of life, `at/R` its meetings, `left/R` that it needs the store no
    more, `end/R` why it ended, `lost` who is."""

    def __init__(self, rank: int, count: int, time_limit: float, in_step: bool, remedy: str) -> None:
        self._rank, self._count, self._limit, self._in_step, self._remedy = rank, count, time_limit, in_step, remedy
        self._holds_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
        self._meetings = 0
        self._over = threading.Event()
        try:
            self._store = self._connect(self._holds_store)
            pulse_store = self._connect(False)
        except RuntimeError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            if self._holds_store:
                why = one_line(error)
                raise UserError(f"process 0 cannot listen at {address} ({why}): set another MASTER_PORT") from error
            raise self._lost(f"process 0 of {count} is not at {address}: it was not started, or is lost") from error
        self._store.set(f"where/{rank}", f"{platform.node()}, process id {os.getpid()}")
        # A connection of its own: the other waits, at times.
        self._pulsing = threading.Thread(target=self._pulse, args=(pulse_store,), daemon=True)
        self._pulsing.start()

    def connect(self, backend: str) -> None:
        """Wait until all are started, and let the backend connect them."""
        self.meet(_START_LIMITS * self._limit)
        with self._named_if_lost():
            distributed.init_process_group(
                backend,
                store=PrefixStore("merging", self._store),
                rank=self._rank,
                world_size=self._count,
                timeout=timedelta(seconds=self._limit * (_STEP_LIMITS if self._in_step else 1)),
            )

    def meet(self, time_limit: float | None = None) -> None:
        with self._store_lost_with_first():
            self._meetings += 1
            self._store.set(f"at/{self._rank}", str(self._meetings))
            for other in range(self._count):
                self._wait_for(other, time_limit or self._limit)

    def exchange(self, name: str, value: Any) -> list[Any]:
        """What every process gave under this name."""
        with self._store_lost_with_first():
            self._store.set(f"{name}/{self._rank}", json.dumps(value))
        self.meet()
        with self._store_lost_with_first():
            return [json.loads(self._store.get(f"{name}/{other}")) for other in range(self._count)]

    @contextmanager
    def merging(self) -> Iterator[None]:
        """A time for gloo: all have met, so that none keeps the others waiting unless it is lost; or they come in step."""
        if not self._in_step:
            self.meet()
        with self._named_if_lost():
            yield

    def part(self) -> None:
        """Meet for the last time. The store goes with the process that holds it: that one leaves after the others."""
        self.meet()
        with self._store_lost_with_first():
            if not self._holds_store:
                self._store.set(f"left/{self._rank}", "1")
                return
            until = time.monotonic() + self._limit
            # One that is lost from here on has done its work.
            while time.monotonic() < until and not all(self._read(f"left/{rank}") for rank in range(1, self._count)):
                time.sleep(_POLL_S)

    def tell_end(self, error: BaseException) -> None:
        """Leave word of why this process ends early."""
        if isinstance(error, LostProcess):
            if self._holds_store:
                self._wait_for_hearers()
            return
        try:
            self._store.set(f"end/{self._rank}", json.dumps([isinstance(error, UserError), str(error) or type(error).__name__]))
        except RuntimeError:
            return  # the store is gone, and with it who could read this
        if self._holds_store:
            self._wait_for_hearers()

    def close(self) -> None:
        self._over.set()
        # A thread that comes back from C++ when Python is gone aborts the process.
        self._pulsing.join(_FAREWELL_S)
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _connect(self, holds: bool) -> TCPStore:
        limit = timedelta(seconds=_START_LIMITS * self._limit)
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(*address, is_master=holds, timeout=limit, wait_for_workers=False)

    def _pulse(self, store: TCPStore) -> None:
        beat = 0
        while not self._over.is_set():
            beat += 1
            try:
                store.set(f"alive/{self._rank}", str(beat))
            except RuntimeError:
                return  # the store is gone: the main thread says so when it needs it
            self._over.wait(PULSE_S)

    def _wait_for(self, other: int, limit: float) -> None:
        """Return when the other is at this meeting."""
        seen, since = "", time.monotonic()
        while int(self._read(f"at/{other}") or 0) < self._meetings:
            self._hear_who_is_lost()
            self._hear_who_ended()
            beat = self._read(f"alive/{other}")
            if beat != seen:
                seen, since = beat, time.monotonic()
            elif time.monotonic() - since > limit:
                where = self._read(f"where/{other}")
                what = f"({where}) is lost: no sign of life" if where else "was not started: not there"
                self._store.set("lost", json.dumps([other, f"process {other} of {self._count} {what} for {limit:g} s"]))
            time.sleep(_POLL_S if time.monotonic() - since < 1 else 10 * _POLL_S)

    def _hear_who_is_lost(self) -> None:
        verdict = self._read("lost")
        if verdict:
            self._store.set(f"heard/{self._rank}", "1")
            raise self._lost(json.loads(verdict)[1])

    def _hear_who_ended(self) -> None:
        """Raise what the early end of another process means for this one."""
        for rank in range(self._count):
            end = self._read(f"end/{rank}")
            # One that came to this meeting and ended after it is no matter of this meeting.
            if end and int(self._read(f"at/{rank}") or 0) < self._meetings:
                self._store.set(f"heard/{self._rank}", "1")
                by_user, message = json.loads(end)
                if by_user:
                    raise UserError(f"process {rank} of {self._count}: {message}")
                raise self._lost(f"process {rank} of {self._count} ended early: {message}")

    def _read(self, key: str) -> str:
        """What is in the store, empty where nothing is."""
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _wait_for_hearers(self) -> None:
        """The store ends with this process: let the others read in it first who is lost or has ended."""
        verdict = self._read("lost")
        gone = {self._rank, json.loads(verdict)[0]} if verdict else {self._rank}
        until = time.monotonic() + _FAREWELL_S
        while time.monotonic() < until:
            if all(self._read(f"heard/{rank}") or self._read(f"end/{rank}") for rank in set(range(self._count)) - gone):
                return
            time.sleep(10 * _POLL_S)

    @contextmanager
    def _store_lost_with_first(self) -> Iterator[None]:
        try:
            yield
        except distributed.DistError as error:
            raise self._lost(f"process 0 of {self._count} is lost, and with it the store where the others meet") from error

    @contextmanager
    def _named_if_lost(self) -> Iterator[None]:
        """A collective that breaks off means that one of them is lost: its signs of life say which."""
        try:
            yield
        except RuntimeError as error:
            self.meet()
            raise self._lost(f"processes lost their connections ({one_line(error)})") from error

    def _lost(self, what: str) -> LostProcess:
        return LostProcess(f"{what}: {self._remedy}")


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
