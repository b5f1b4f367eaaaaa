"""A simulated accelerator, which records where the host waits for it. It needs no accelerator.

    with SimulatedDevice() as device:
        model.to(DEVICE)
        ...
        waits = device.take()

The tensors of `DEVICE` contain no values. A `SimulatedDevice` stores their values, and runs the
operations on them on the CPU. The host can therefore use a value only by an operation that is
recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE, HOST = torch.device("meta"), torch.device("cpu")  # torch's meta tensors have no values
READ, WRITE, STATUS = "read", "write", "status"
# On a GPU, these operations themselves read whether they have failed.
CHECKED = {"_linalg_eigh", "_linalg_svd", "_linalg_check_errors", "linalg_lstsq"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put"}
COPIES = {"_to_copy", "copy_", "copy", "_copy_from"}


@dataclass(frozen=True)
class Wait:
    """A place where the host waits for the device.

    Attributes:
        kind: `read` if the host needs a value of the device, `write` if it copies a tensor to the
            device, or `status` if an operation of torch reads whether it has failed.
        operation: The operation of torch.
        place: The innermost running function of `precond`.
    """

    kind: str
    operation: str
    place: str

    def __str__(self) -> str:
        return f"{self.kind} ({self.operation}) in {self.place}"


class SimulatedDevice(TorchDispatchMode):
    """The device, which exists and records the waits of the host inside the `with` block."""

    def __init__(self) -> None:
        super().__init__()
        self._waits: list[Wait] = []
        # The values of each storage by its address, and the storage, so that it keeps its address.
        self._values: dict[int, tuple[Any, Tensor]] = {}

    def __enter__(self) -> Self:
        # torch.tensor stores no values on a meta device, and autocast does not support this device.
        tensor, autocast = torch.tensor, torch.is_autocast_enabled
        self._patches = ExitStack()
        for name, function in {
            "tensor": lambda data, device=None, **options: tensor(data, **options).to(
                device or HOST
            ),
            "is_autocast_enabled": lambda kind=None: kind != DEVICE.type and autocast(kind),
        }.items():
            self._patches.enter_context(mock.patch.object(torch, name, function))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def take(self) -> list[Wait]:
        """Return the waits since the last call."""
        waits, self._waits = self._waits, []
        return waits

    def values(self, tensor: Tensor) -> Tensor:
        """Return the values of a tensor, as a view, without recording a wait."""
        _, values = self._values[tensor.untyped_storage()._cdata]
        offset = values.storage_offset() + tensor.storage_offset()
        return values.as_strided(tensor.size(), tensor.stride(), offset)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in _leaves([args, *kwargs.values()]) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if tensor.device == DEVICE]
        if not on_device and kwargs.get("device") != DEVICE:
            return function(*args, **kwargs)
        name = function._schema.name.removeprefix("aten::")
        if kind := _kind_of_wait(function, name, args, kwargs, tensors):
            self._waits.append(Wait(kind, name, _place()))
        if any(r.alias_info and not r.alias_info.is_write for r in function._schema.returns):
            return function(*args, **kwargs)  # a view has the values of its base
        arguments: dict[int, Tensor] = {}  # by the address of their values

        def to_host(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return HOST if leaf == DEVICE else leaf
            values = self.values(leaf) if leaf.device == DEVICE else leaf
            arguments[id(values)] = leaf
            return values

        keywords = {key: _convert(to_host, value) for key, value in kwargs.items()}
        results = function(*_convert(to_host, args), **keywords)
        if kwargs.get("device") == HOST:
            return results

        def to_device(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            return arguments[id(leaf)] if id(leaf) in arguments else self._store(leaf)

        return _convert(to_device, results)

    def _store(self, values: Tensor) -> Tensor:
        """Return a new tensor of the device with these values."""
        tensor = torch.empty_strided(
            values.size(), values.stride(), dtype=values.dtype, device=DEVICE
        )
        storage = tensor.untyped_storage()
        self._values[storage._cdata] = storage, values
        return tensor


def _leaves(values: Any) -> Iterator[Any]:
    """Yield the items of nested lists and tuples; torch's pytree takes several times longer."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _leaves(value)
        else:
            yield value


def _convert(function: Callable[[Any], Any], value: Any) -> Any:
    """Return the value with the function applied to the items of nested lists and tuples."""
    if isinstance(value, (list, tuple)):
        return type(value)([_convert(function, item) for item in value])
    return function(value)


def _kind_of_wait(
    function: Any, name: str, args: tuple[Any, ...], kwargs: Any, tensors: list[Tensor]
) -> str | None:
    """Return the kind of wait that an operation causes, or None."""
    on_host = [tensor for tensor in tensors if tensor.device == HOST]
    if name in CHECKED or kwargs.get("check_errors", False):
        return STATUS
    if name in INDEXING:
        masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
        return READ if masks else WRITE if on_host else None
    if {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & {*function.tags}:
        return READ
    if name in COPIES:
        source = args[1] if name == "copy_" else args[0]
        target = args[0].device if name == "copy_" else kwargs.get("device") or source.device
        if source.device == target:
            return None
        # A copy to the host that does not wait gives wrong values.
        return READ if target == HOST else None if _non_blocking(name, args, kwargs) else WRITE
    if any(tensor.dim() for tensor in on_host):
        raise RuntimeError(f"{name}: tensors on the host and on the device")
    return None


def _non_blocking(name: str, args: tuple[Any, ...], kwargs: Any) -> bool:
    return kwargs.get("non_blocking", False) or (name == "copy_" and len(args) > 2 and args[2])


def _place() -> str:
    """Return the innermost running function of `precond`."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] == "precond":
            return f"{module}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return "no function of the package"
