"""Groups of processes that share work, started by torchrun or by a scheduler that sets the same variables: RANK, WORLD_SIZE, MASTER_ADDR,
MASTER_PORT; and LOCAL_RANK, LOCAL_WORLD_SIZE if several run on one machine.

The processes share a torch.distributed store, where each writes a heartbeat every second. A process without a heartbeat is named as lost
after a time limit; one that computes for a long time still sends heartbeats and is waited for. gloo runs the collective operations, either
right after a barrier or between processes that work in step. nccl runs those on CUDA tensors of processes in step, if each has a device of
its own; nccl refuses to share one. Otherwise the tensors pass through the memory of the CPU.
"""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed
from torch._C._distributed_c10d import PrefixStore, TCPStore

from data.base.errors import LostProcess, UserError, one_line

HEARTBEAT_S = 1.0
"""Seconds between two heartbeats."""
_POLL_S = 0.005
_START_LIMITS = 5
"""Time limits until all processes must have started: schedulers start them one after the other, and each loads its libraries first."""
_STEP_LIMITS = 5
"""Time limits that a process may be behind the others when they work in step: it may be compiling, or reading from a slow disk."""
GO_ON_WITH_ANY = "run the same command again, with as many processes as you like"
_FAREWELL_S = 5.0
"""Seconds that the process with the store waits for the others to read who is lost."""


class ProcessGroup:
    """Process `rank` of `world_size`. A group that was not made by `joined` is one process: its collective operations change nothing.

    >>> with ProcessGroup.joined(torch.device("cpu"), time_limit=60.0) as processes:
    ...     own = work[processes.rank :: processes.world_size]
    ...     processes.sum(total)  # now the same in every process
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._rendezvous: _Rendezvous | None = None
        self._nccl = False
        """Whether collective operations take CUDA tensors as they are."""

    @classmethod
    @contextmanager
    def joined(
        cls, device: torch.device, time_limit: float, in_step: bool = False, remedy: str = GO_ON_WITH_ANY
    ) -> Iterator["ProcessGroup"]:
        """Join the processes that were started together; a single process if WORLD_SIZE is not set. On CUDA, use device LOCAL_RANK, or
        share the devices if there are fewer of them than processes.

        time_limit: seconds without a heartbeat after which a process counts as lost.
        in_step: the processes run collective operations often, and after equal work: no barrier precedes them, and tensors on CUDA
            use nccl where it works.
        remedy: what to tell the user to do if a process is lost.

        Raises LostProcess, naming the process, if one is lost, and UserError if another process ended with a UserError. An exception
        that ends the block is reported to the other processes. Processes that work in step cannot use MPS (UserError).
        """
        # Checked for a single process too: the option is recorded with the results.
        if not 2 * HEARTBEAT_S <= time_limit < float("inf"):
            raise UserError(f"--process-timeout {time_limit:g}: at least {2 * HEARTBEAT_S:g} seconds")
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            yield cls()
            return
        missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
        if missing:
            raise UserError(f"WORLD_SIZE is {world_size} but {', '.join(missing)} is not set: start with torchrun, or set all four")
        if in_step and device.type == "mps":
            raise UserError("--device mps trains in one process, because gloo cannot exchange its tensors: start one, or use --device cpu")
        if device.type == "cuda":
            # A scheduler may also show every process its own device alone, as device 0.
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        group = cls(int(os.environ["RANK"]), world_size)
        group._rendezvous = _Rendezvous(group.rank, world_size, time_limit, in_step, remedy)
        try:
            group._nccl = group._rendezvous.connect(device)
            yield group
            group._rendezvous.leave()
        except (KeyboardInterrupt, Exception) as error:
            group._rendezvous.announce_end(error)
            raise
        finally:
            group._rendezvous.close()

    def barrier(self) -> None:
        """Wait for all processes. Raises LostProcess if one is lost, and UserError if one ended with a UserError."""
        if self._rendezvous is not None:
            self._rendezvous.barrier()

    def agree(self, facts: Mapping[str, Any]) -> None:
        """Check that all processes have the same facts (JSON values). Raises UserError naming the processes and the facts that differ."""
        if self._rendezvous is None:
            return
        all_facts = self._rendezvous.exchange("facts", dict(facts))
        first = all_facts[0]
        differing = [
            f"{name} is {_short(theirs.get(name))} in process {rank} and {_short(first.get(name))} in process 0"
            for rank, theirs in enumerate(all_facts)
            for name in sorted({*first, *theirs})
            if theirs.get(name) != first.get(name)
        ]
        if differing:
            raise UserError(f"the {self.world_size} processes do not do the same work ({'; '.join(differing)}): start all with the same")

    def sum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its sum over all processes (all-reduce). Shapes must be equal in all processes."""
        self._reduce(tensors, distributed.ReduceOp.SUM)

    def maximum(self, *tensors: Tensor) -> None:
        """Replace each tensor by its elementwise maximum over all processes (all-reduce). Shapes must be equal in all processes."""
        self._reduce(tensors, distributed.ReduceOp.MAX)

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """The tensors of all processes, by rank (all-gather). Shapes must be equal in all processes."""
        if self._rendezvous is None:
            return [tensor]
        own = self._exchanged(tensor).contiguous()
        parts = [torch.empty_like(own, memory_format=torch.contiguous_format) for _ in range(self.world_size)]
        with self._rendezvous.collective():
            distributed.all_gather(parts, own)
        return [part.to(tensor.device) for part in parts]

    def _reduce(self, tensors: tuple[Tensor, ...], operation: Any) -> None:
        if self._rendezvous is None:
            return
        with self._rendezvous.collective():
            for tensor in tensors:
                assert tensor.is_contiguous()
                reduced = self._exchanged(tensor)
                distributed.all_reduce(reduced, operation)
                if reduced is not tensor:
                    tensor.copy_(reduced)

    def _exchanged(self, tensor: Tensor) -> Tensor:
        """The tensor where collective operations can take it: itself, or a copy on the CPU."""
        return tensor if self._nccl else tensor.cpu()


def has_own_device(devices: Sequence[str]) -> bool:
    """Whether every process computes on a CUDA device of its own. `devices`: the device of each process by its UUID; empty for the CPU."""
    return all(devices) and len(set(devices)) == len(devices)


def on_this_machine() -> int:
    """The number of processes that share this machine's memory and cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


class _Rendezvous:
    """The store shared by all processes. Rank R writes these keys:

    where/R  host and process id            alive/R  number of its latest heartbeat
    at/R     number of its latest barrier   left/R   it no longer needs the store
    end/R    why it ended early             heard/R  it knows who is lost or has ended

    `lost` names the lost process.
    """

    def __init__(self, rank: int, world_size: int, time_limit: float, in_step: bool, remedy: str) -> None:
        self._rank, self._world_size, self._limit, self._in_step, self._remedy = rank, world_size, time_limit, in_step, remedy
        self._holds_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != str(True)
        self._barriers = 0
        self._stopped = threading.Event()
        try:
            self._store = self._connect(self._holds_store)
            heartbeat_store = self._connect(False)
        except RuntimeError as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            if self._holds_store:
                why = one_line(error)
                raise UserError(f"process 0 cannot listen at {address} ({why}): set another MASTER_PORT") from error
            raise self._lost(f"process 0 of {world_size} is not at {address}: it was not started, or is lost") from error
        self._store.set(f"where/{rank}", f"{platform.node()}, process id {os.getpid()}")
        # Heartbeats use a separate connection, because the first one can block.
        self._heartbeats = threading.Thread(target=self._send_heartbeats, args=(heartbeat_store,), daemon=True)
        self._heartbeats.start()

    def connect(self, device: torch.device) -> bool:
        """Wait until all processes have started, and connect them. Returns whether nccl takes CUDA tensors."""
        self.barrier(_START_LIMITS * self._limit)
        nccl = False
        if self._in_step:
            own = str(torch.cuda.get_device_properties().uuid) if device.type == "cuda" else ""
            nccl = has_own_device(self.exchange("device", own))
        with self._naming_lost_process():
            distributed.init_process_group(
                "cpu:gloo,cuda:nccl" if nccl else "gloo",
                store=PrefixStore("merging", self._store),
                rank=self._rank,
                world_size=self._world_size,
                timeout=timedelta(seconds=self._limit * (_STEP_LIMITS if self._in_step else 1)),
            )
        return nccl

    def barrier(self, time_limit: float | None = None) -> None:
        with self._naming_lost_store():
            self._barriers += 1
            self._store.set(f"at/{self._rank}", str(self._barriers))
            for other in range(self._world_size):
                self._wait_for(other, time_limit or self._limit)

    def exchange(self, name: str, value: Any) -> list[Any]:
        """Share a value under this name, and return the values of all processes, by rank."""
        with self._naming_lost_store():
            self._store.set(f"{name}/{self._rank}", json.dumps(value))
        self.barrier()
        with self._naming_lost_store():
            return [json.loads(self._store.get(f"{name}/{other}")) for other in range(self._world_size)]

    @contextmanager
    def collective(self) -> Iterator[None]:
        """Run a collective operation in this block. A barrier comes first unless the processes work in step, so that none can keep the
        others waiting in gloo unless it is lost."""
        if not self._in_step:
            self.barrier()
        with self._naming_lost_process():
            yield

    def leave(self) -> None:
        """Wait at a last barrier. The process with the store leaves after the others, since the store ends with it."""
        self.barrier()
        with self._naming_lost_store():
            if not self._holds_store:
                self._store.set(f"left/{self._rank}", "1")
                return
            until = time.monotonic() + self._limit
            # A process that is lost from here on has finished its work.
            while time.monotonic() < until and not all(self._read(f"left/{rank}") for rank in range(1, self._world_size)):
                time.sleep(_POLL_S)

    def announce_end(self, error: BaseException) -> None:
        """Tell the other processes why this one ends early."""
        if isinstance(error, LostProcess):
            if self._holds_store:
                self._wait_until_heard()
            return
        try:
            self._store.set(f"end/{self._rank}", json.dumps([isinstance(error, UserError), str(error) or type(error).__name__]))
        except RuntimeError:
            return  # the store is gone: nobody can read this
        if self._holds_store:
            self._wait_until_heard()

    def close(self) -> None:
        self._stopped.set()
        # A thread that returns from C++ after Python has shut down aborts the process.
        self._heartbeats.join(_FAREWELL_S)
        if distributed.is_initialized():
            distributed.destroy_process_group()

    def _connect(self, holds: bool) -> TCPStore:
        limit = timedelta(seconds=_START_LIMITS * self._limit)
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(*address, is_master=holds, timeout=limit, wait_for_workers=False)

    def _send_heartbeats(self, store: TCPStore) -> None:
        beat = 0
        while not self._stopped.is_set():
            beat += 1
            try:
                store.set(f"alive/{self._rank}", str(beat))
            except RuntimeError:
                return  # the store is gone: the main thread reports that when it needs the store
            self._stopped.wait(HEARTBEAT_S)

    def _wait_for(self, other: int, limit: float) -> None:
        """Return when process `other` has reached this barrier."""
        seen, since = "", time.monotonic()
        while int(self._read(f"at/{other}") or 0) < self._barriers:
            self._raise_if_lost()
            self._raise_if_ended()
            beat = self._read(f"alive/{other}")
            if beat != seen:
                seen, since = beat, time.monotonic()
            elif time.monotonic() - since > limit:
                where = self._read(f"where/{other}")
                what = f"({where}) is lost: no heartbeat" if where else "was not started: not seen"
                self._store.set("lost", json.dumps([other, f"process {other} of {self._world_size} {what} for {limit:g} s"]))
            time.sleep(_POLL_S if time.monotonic() - since < 1 else 10 * _POLL_S)

    def _raise_if_lost(self) -> None:
        verdict = self._read("lost")
        if verdict:
            self._store.set(f"heard/{self._rank}", "1")
            raise self._lost(json.loads(verdict)[1])

    def _raise_if_ended(self) -> None:
        """Raise UserError if another process ended with one, and LostProcess if it ended early for another reason."""
        for rank in range(self._world_size):
            end = self._read(f"end/{rank}")
            # A process that reached this barrier and ended afterwards does not concern this barrier.
            if end and int(self._read(f"at/{rank}") or 0) < self._barriers:
                self._store.set(f"heard/{self._rank}", "1")
                by_user, message = json.loads(end)
                if by_user:
                    raise UserError(f"process {rank} of {self._world_size}: {message}")
                raise self._lost(f"process {rank} of {self._world_size} ended early: {message}")

    def _read(self, key: str) -> str:
        """The value of a key in the store, empty if it is not set."""
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _wait_until_heard(self) -> None:
        """Let the other processes read who is lost or has ended, before the store ends with this process."""
        verdict = self._read("lost")
        gone = {self._rank, json.loads(verdict)[0]} if verdict else {self._rank}
        until = time.monotonic() + _FAREWELL_S
        while time.monotonic() < until:
            if all(self._read(f"heard/{rank}") or self._read(f"end/{rank}") for rank in set(range(self._world_size)) - gone):
                return
            time.sleep(10 * _POLL_S)

    @contextmanager
    def _naming_lost_store(self) -> Iterator[None]:
        try:
            yield
        except distributed.DistError as error:
            raise self._lost(f"process 0 of {self._world_size} is lost, and with it the store that all processes share") from error

    @contextmanager
    def _naming_lost_process(self) -> Iterator[None]:
        """Turn the failure of a collective operation into LostProcess. The heartbeats tell which process is lost."""
        try:
            yield
        except RuntimeError as error:
            self.barrier()
            raise self._lost(f"processes lost their connections ({one_line(error)})") from error

    def _lost(self, what: str) -> LostProcess:
        return LostProcess(f"{what}: {self._remedy}")


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return f"{text[:12]}..." if len(text) == 64 else text
