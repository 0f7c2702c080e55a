"""A CUDA device that is not there: its tensors live on the CPU and obey CUDA's rules, and operations that would wait for it are counted.

Inside `FakeCuda`, `torch.device("cuda")` works on any build of torch. A tensor "on" it holds its values in a CPU tensor, so that whole
training steps and scorings run with true values. Every operation also runs in torch's `FakeTensorMode` on tensors of the device `cuda`,
which raises if devices are mixed and says where the result is. Nothing is said about time, kernels or memory of a real device.

Counted are, as they would be on a CUDA device:

- launches: operations that compute. Views, metadata and copies between devices are none. An operation can be several kernels.
- waits: the host waits for the device. A scalar is read (`.item()`, `bool`), a result has a size that depends on values (`nonzero`, a
  boolean mask as an index), a tensor is copied to the CPU, or a tensor in ordinary memory is copied to the device.
- staged: copies to the device from pinned memory that do not block. They run beside the work of the host.
"""

import ctypes
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils import _foreach_utils
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
aten = torch.ops.aten
READS = {aten._local_scalar_dense.default, aten.is_nonzero.default, aten.equal.default}
"""Operations whose result is a number on the host."""
SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
}
"""Operations whose result has a size that depends on values."""
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default, aten._unsafe_index.Tensor}
_GROUPED = torch._C._group_tensors_by_device_and_dtype
COPIES = {aten._to_copy.default, aten.copy_.default, aten.copy.default}
FREE = {
    aten.empty.memory_format,
    aten.empty_strided.default,
    aten.empty_like.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten.alias.default,
    aten._unsafe_view.default,
    aten._reshape_alias.default,
    aten.lift_fresh.default,
    aten.is_pinned.default,
    aten._pin_memory.default,
    aten._fused_sdp_choice.default,
}
"""Operations that launch nothing though they are no views."""


class Placed(Tensor):
    """A tensor on the device that is not there. `held` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> "Placed":
        placed: Placed = Tensor._make_wrapper_subclass(
            cls, real.shape, strides=real.stride(), storage_offset=real.storage_offset(), dtype=real.dtype, device=CPU
        )
        placed.held = real
        return placed

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"Placed({tuple(self.shape)}, {self.dtype})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise AssertionError("a tensor of FakeCuda was used outside of it")

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]


@contextmanager
def fake_cuda(free_bytes: int = 64 * 2**30) -> Iterator["Counts"]:
    """Give this thread a device `cuda` that is not there, with this much free memory. Yields what is counted."""
    _allow_cuda_in_fake_tensors()
    counts, before = Counts(), torch.__future__.get_overwrite_module_params_on_conversion()
    # Modules move by new parameters: a CPU tensor cannot turn into one of another class.
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with (
            patch.object(torch.cuda, "mem_get_info", lambda device: (free_bytes, free_bytes)),
            patch.object(torch.backends.cudnn, "is_acceptable", lambda tensor: False),
            # Optimisers choose their kernels by these two.
            patch.object(torch._C, "_group_tensors_by_device_and_dtype", _grouped),
            patch.object(_foreach_utils, "_foreach_supported_types", [Tensor, Placed]),
            _Calls(counts),
            _Operations(counts),
        ):
            yield counts
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(before)


class Counts:
    """What was done on the device so far."""

    def __init__(self) -> None:
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.staged = 0

    def clear(self) -> None:
        """Start counting again."""
        self.launches.clear()
        self.waits.clear()
        self.staged = 0

    def figures(self) -> dict[str, int]:
        """The totals."""
        return {"launches": self.launches.total(), "waits": self.waits.total(), "staged": self.staged}


class _Operations(TorchDispatchMode):
    """Runs operations on the values, after FakeTensorMode has said that they are allowed, and counts them."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts
        self.fake = FakeTensorMode()
        self.allowed: set[Any] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
        if not any(isinstance(x, Placed) for x in tensors):
            return operation(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            self._count(operation, args, kwargs, tensors)
            if operation not in COPIES:
                self._check(operation, args, kwargs)
            found = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
            if operation is aten.copy_.default:
                return args[0]
            if operation in READS:
                return found
            # What is changed in place is the tensor that was given.
            given = {id(x.held): x for x in tensors if isinstance(x, Placed)}
            return tree_map(lambda x: given[id(x)] if id(x) in given else Placed(x) if isinstance(x, Tensor) else x, found)

    def _count(self, operation: Any, args: Sequence[Any], kwargs: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
        name = str(operation)
        if operation in READS or operation in SIZED_BY_VALUES:
            self.counts.waits[name] += 1
        if operation in INDEXED:
            indices = [x for x in args[1] if x is not None]
            self.counts.waits[f"{name} by a mask"] += sum(x.dtype in (torch.bool, torch.uint8) for x in indices)
            self.counts.waits[f"{name} by indices on the CPU"] += sum(not isinstance(x, Placed) for x in indices)
            self.counts.waits = +self.counts.waits
        if operation is aten.copy_.default and len({isinstance(x, Placed) for x in args[:2]}) == 2:
            pinned = any(getattr(x, "pinned", False) for x in args[:2])
            if pinned and ((len(args) > 2 and args[2]) or kwargs.get("non_blocking")):
                self.counts.staged += 1
            else:
                self.counts.waits[f"{name} between devices"] += 1
        elif operation not in FREE and operation not in READS and not _is_view(operation):
            self.counts.launches[name] += 1

    def _check(self, operation: Any, args: Any, kwargs: Any) -> None:
        """Raise what CUDA would, such as for tensors on different devices."""

        def fake(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            device = CUDA if isinstance(x, Placed) else CPU
            return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=device)

        described = [
            (x.shape, x.stride(), x.dtype, isinstance(x, Placed)) if isinstance(x, Tensor) else repr(x)
            for x in tree_flatten((args, kwargs))[0]
        ]
        key = (operation, *described)
        if key in self.allowed:
            return
        if "device" in kwargs:
            # Below Python all tensors are on the CPU.
            kwargs = {**kwargs, "device": CUDA}
        with self.fake:
            try:
                found = operation(*tree_map(fake, args), **tree_map(fake, kwargs))
            except (DataDependentOutputException, DynamicOutputShapeException):
                found = None
        for x in tree_flatten(found)[0]:
            assert not isinstance(x, Tensor) or x.device.type == "cuda", f"{operation} gives a tensor on {x.device}"
        self.allowed.add(key)


class _Calls(TorchFunctionMode):
    """Answers what Python asks about devices: the operations below know CPU tensors alone."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        placed = bool(args) and isinstance(args[0], Placed)
        if call is Tensor.backward:
            # The engine itself, because its Python wrapper would come here again. Functions of the backward pass make tensors too.
            with self:
                engine = torch.autograd.Variable._execution_engine
                start = (args[0],), (torch.ones_like(args[0]),), False, False, ()
                return engine.run_backward(*start, allow_unreachable=True, accumulate_grad=True)
        if call is Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.pinned = True
            return pinned
        if call is Tensor.is_pinned:
            return getattr(args[0], "pinned", False)
        if call is Tensor.numpy and placed:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if call is Tensor.tolist and placed:
            return self._on_the_cpu(args[0], "tolist").tolist()
        if call in (Tensor.to, Tensor.cpu, Tensor.cuda):
            return self._moved(call, *args, **kwargs)
        if _type(kwargs.get("device")) == "cuda":
            del kwargs["device"]
            made = call(*args, **kwargs)
            if call in (torch.tensor, torch.as_tensor) and not isinstance(made, Placed):
                self.counts.waits["torch.tensor on the device"] += 1
            elif not isinstance(made, Placed):
                self.counts.launches[getattr(call, "__name__", str(call))] += "empty" not in call.__name__
            return made if isinstance(made, Placed) else Placed(made)
        if _type(kwargs.get("device")) == "cpu" and placed:
            raise AssertionError(f"{call} makes a CPU tensor from one on the device")
        return call(*args, **kwargs)

    def _moved(self, call: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What Tensor.to, .cpu or .cuda gives."""
        device, dtype, ahead = {Tensor.cpu: CPU, Tensor.cuda: CUDA}.get(call), None, False
        for x in (*args, *kwargs.values()):
            if isinstance(x, Tensor):
                device, dtype = CUDA if isinstance(x, Placed) else CPU, x.dtype
            elif isinstance(x, torch.dtype):
                dtype = x
            elif isinstance(x, bool):
                ahead = x
            elif x is not None:
                device = torch.device(x)
        if device is None or (device.type == "cuda") == isinstance(tensor, Placed):
            return tensor if dtype is None else Tensor.to(tensor, dtype)
        if isinstance(tensor, Placed):
            return Tensor.to(self._on_the_cpu(tensor, "to the CPU"), dtype)
        if ahead and getattr(tensor, "pinned", False):
            self.counts.staged += 1
        else:
            self.counts.waits["copy to the device"] += 1
        with torch.no_grad():
            return Placed(Tensor.to(tensor, dtype).clone())

    def _on_the_cpu(self, tensor: Placed, why: str) -> Tensor:
        assert not (tensor.requires_grad and torch.is_grad_enabled()), "a tensor with a gradient leaves the device"
        self.counts.waits[why] += 1
        return tensor.held.clone()


def _grouped(lists: Any, with_indices: bool = False) -> dict[Any, Any]:
    """The groups of tensors with the devices as Python sees them. All are on one."""
    found = _GROUPED(lists, with_indices)
    return {(lists[0][0].device, dtype): group for (_, dtype), group in found.items()}


def _type(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Placed) else x


def _is_view(operation: Any) -> bool:
    return any(argument.alias_info is not None and not argument.alias_info.is_write for argument in operation._schema.arguments)


def _allow_cuda_in_fake_tensors() -> None:
    """Let FakeTensorMode make tensors of CUDA on a build of torch without it.

    torch does so itself in a build with CUDA on a machine without a GPU: it replaces the guard of CUDA devices, which counts none, by one
    that does nothing. A build without CUDA has no guard to replace. Here it gets that of another device that is not there.
    """
    registry = (ctypes.c_void_p * 20).in_dll(
        ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so")), "_ZN3c104impl26device_guard_impl_registryE"
    )
    kinds = torch._C._autograd.DeviceType.__members__
    cuda, lazy = int(kinds["CUDA"].value), int(kinds["Lazy"].value)
    if not registry[cuda]:
        registry[cuda] = registry[lazy]
    torch._C._ensureCUDADeviceGuardSet()
