"""Attributes that an optimizer shares with its wrappers and shallow copies.

Training frameworks wrap an optimizer in an object whose class is a subclass of the optimizer's. The
wrapper reads missing attributes from the optimizer (as Lightning's does), or it has a copy of
`__dict__`. A method that is called on the wrapper must change the optimizer, too.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, Self, TypeVar

from torch.optim import Optimizer

T = TypeVar("T")
MISSING: Any = object()


class Values(dict[str, Any]):
    """The values of the `Shared` attributes of one optimizer; the class allows weak references."""


class Shared(Generic[T]):
    """An attribute whose value is stored in an object that wrappers share with the optimizer.

    Args:
        default: The value of an attribute that was not set.
    """

    def __init__(self, default: T = MISSING):
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, optimizer: Any, owner: type | None = None) -> T:
        if optimizer is None:  # read from the class, as by `inspect`
            return self  # type: ignore[return-value]
        value = values_of(optimizer).get(self._name, self._default)
        if value is MISSING:
            raise AttributeError(f"{type(optimizer).__name__!r} has no attribute {self._name!r}")
        return value

    def __set__(self, optimizer: Any, value: T) -> None:
        values_of(optimizer)[self._name] = value


def values_of(optimizer: Any) -> Values:
    """Return the values of the `Shared` attributes, of a wrapper those of its optimizer."""
    values = getattr(optimizer, "_shared", None)
    if values is None:
        values = optimizer._shared = Values()
    return values


class Copyable(Optimizer):
    """An optimizer that can be copied; copies keep the attributes that subclasses add.

    Copies of a `torch.optim.Optimizer` lack these attributes.
    """

    COPIED: ClassVar[tuple[str, ...]] = ()  # the `Shared` attributes that copies keep

    def __copy__(self) -> Self:
        """Return an optimizer that shares its state with this one."""
        duplicate = type(self).__new__(type(self))
        vars(duplicate).update(vars(self))
        vars(duplicate).pop("step", None)  # the method that a scheduler sets on an instance
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes that `copy.deepcopy` and `pickle` copy."""
        prefixes = ("_optimizer_", "_zero_grad", "_warned")
        attributes = {
            name: value
            for name, value in vars(self).items()
            if name not in ("step", "_shared") and not name.startswith(prefixes)
        }
        values = values_of(self)
        shared = {name: values[name] for name in self.COPIED if name in values}
        return {**attributes, "_shared": Values(shared)}
